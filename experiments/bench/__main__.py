"""Measure everything, in half an hour: make bench [ARGS="..."] [BASE=earlier.json].

Sections: machine (its limits), envs (EnvPool alone, act, unroll), learner (steps beside stock
flax), replay, training (whole runs), start. Each runs in a process of its own and is printed as it
ends; csv and JSON hold every figure as soon as it is known.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Literal

from rich.console import Console

from experiments.bench import machine, report
from experiments.bench.figures import Figure, read, write
from experiments.bench.processes import measure, stream
from rlsys import cli

Section = Literal["machine", "envs", "learner", "replay", "training", "start"]
SECTIONS: tuple[Section, ...] = Section.__args__  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and what to compare with."""

    only: tuple[Section, ...] = SECTIONS
    """Measure these sections."""
    quick: bool = False
    """Measure small and few things, to see that it works: no figure means anything."""
    base: Path | None = None
    """Compare with the JSON of an earlier result."""
    csv: Path | None = None
    """Write here, and JSON beside it; to runs/bench-<time>.csv if None."""


def main(config: Config) -> int:
    """Run the sections and return 1 if one failed, else 0."""
    console = Console(width=None if sys.stdout.isatty() else report.WIDTH)
    path = config.csv or Path(f"runs/bench-{time.strftime('%Y%m%d-%H%M%S')}.csv")
    earlier, before = read(config.base) if config.base else ({}, [])
    base = {figure.key: figure for figure in before}
    # Not in this process, which would hold an accelerator's memory that the sections need.
    (about,) = stream(machine.about, ["python", "-m", "experiments.bench", *sys.argv[1:]])
    console.print(f"writing {path} and {path.with_suffix('.json')}", highlight=False)
    figures: list[Figure] = []
    failed = False
    for section in config.only:
        try:
            for figure in stream(measure, section, config.quick):
                figures.append(figure)
                write(path, about, figures)
                print(".", end="", file=sys.stderr, flush=True)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed = True
        print(file=sys.stderr)
        report.show([f for f in figures if f.section == section], base, console)
    if base:
        console.print(report.differences(about, earlier), highlight=False, end="")
    return int(failed)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
