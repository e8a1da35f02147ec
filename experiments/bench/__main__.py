"""Measures everything, in half an hour: make bench [ARGS="..."] [BASE=earlier.json].

Sections: machine (its limits), envs (EnvPool alone, act, unroll), functions (rlsys/losses beside
rlax), learner (steps beside stock flax), replay, training (whole runs), start. Each runs in a
process of its own and is printed as it ends; csv and JSON hold every figure as soon as it is known.
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from experiments.bench import compare, report
from experiments.bench.figures import Figure, Files, read
from experiments.bench.section import MARK

Section = Literal["machine", "envs", "functions", "learner", "replay", "training", "start"]
SECTIONS: tuple[Section, ...] = Section.__args__  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure, and what to compare with."""

    only: tuple[Section, ...] = SECTIONS
    """Sections."""
    repeats: int | None = None
    """Samples of each figure; as each section likes it if None."""
    quick: bool = False
    """Small and few, to see that it works: no figure means anything."""
    base: Path | None = None
    """JSON of an earlier result to compare with."""
    csv: Path | None = None
    """Where to write; runs/bench-<time>.csv if None."""
    json: Path | None = None
    """Where to write; runs/bench-<time>.json if None."""


def measure(section: str, config: Config) -> Iterator[Figure]:
    """The figures of a section as they come.

    Raises:
      RuntimeError: its process failed.
    """
    words = [section, "quick" if config.quick else "", str(config.repeats or 0)]
    command = [sys.executable, "-m", "experiments.bench.section", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                yield Figure.from_row(json.loads(line.removeprefix(MARK)))
    if process.returncode:
        raise RuntimeError(f"section {section} failed with exit code {process.returncode}")


def main(config: Config) -> int:
    """Runs the sections; 1 if one failed."""
    console = Console(width=report.WIDTH if not sys.stdout.isatty() else None)
    name = f"runs/bench-{time.strftime('%Y%m%d-%H%M%S')}"
    files = Files(config.csv or Path(f"{name}.csv"), config.json or Path(f"{name}.json"))
    base, failed = {}, False
    if config.base:
        earlier, figures = read(config.base)
        base = {figure.key: figure for figure in figures}
    try:
        for section in config.only:
            try:
                for figure in measure(section, config):
                    files.add(figure)
                    print(".", end="", file=sys.stderr, flush=True)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                failed = True
            print(file=sys.stderr)
            report.show([f for f in files.figures if f.section == section], base, console)
    except KeyboardInterrupt:
        failed = True
    if base:
        console.print(compare.differences(files.about, earlier), highlight=False, end="")
    console.print(f"{files.csv_path}\n{files.json_path}", highlight=False)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, config=(tyro.conf.FlagConversionOff,))))
