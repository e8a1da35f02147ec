"""One section in a process of its own: python -m experiments.bench.section NAME [quick] [repeats].

Its figures go to standard output, each a line of JSON, as they come; the last is the process's
peak memory.
"""

import importlib
import json
import sys

from experiments.bench import clock
from experiments.bench.figures import Figure, Setting
from rlsys.running import run

MARK = "figure: "  # lines of others may come between


def main(name: str, setting: Setting) -> None:
    run.prepare_process()
    for figure in importlib.import_module(f"experiments.bench.{name}").figures(setting):
        print(MARK + json.dumps(figure.row()), flush=True)
    peak = Figure(name, "peak memory", "of this section", "MB", [clock.peak_memory()])
    print(MARK + json.dumps(peak.row()), flush=True)


if __name__ == "__main__":
    section, quick, repeats = sys.argv[1:]
    main(section, Setting(int(repeats) or None, quick == "quick"))
