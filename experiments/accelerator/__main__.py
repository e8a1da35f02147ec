"""Check this machine's accelerator, in at most 8 minutes.

.venv/bin/python -m experiments.accelerator [--only equations training] [--seconds 20]

Sections: equations (losses and gradients beside the CPU's), learner (steps of the three networks in
float32, tf32 and bfloat16, as shares of a matrix product's rate), actors (actions a second), and
training (each algorithm on Pong, beside what `make plan` predicts). A csv, JSON and a section in
Markdown are written beside each other. Without an accelerator the same checks run, smaller, on the
CPU alone.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from experiments.accelerator.equations import equations
from experiments.accelerator.rates import actors, learner_steps
from experiments.accelerator.training import training
from experiments.bench import machine, report
from experiments.bench.figures import Figure, write
from experiments.bench.processes import stream
from rlsys import cli

Section = Literal["equations", "learner", "actors", "training"]
SECTIONS: tuple[Section, ...] = Section.__args__  # type: ignore[attr-defined]
FIGURES = dict(zip(SECTIONS, (equations, learner_steps, actors, training), strict=True))


def markdown(about: dict[str, Any], figures: list[Figure]) -> str:
    """Write the figures as a section of a report."""
    device, versions = about["machine"]["device"], about["versions"]
    lines = [
        f"## {device}, {about['date'][:10]}",
        "",
        f"Measured by `{about['command']}` at commit {about['commit']} with jax {versions['jax']} "
        f"and Python {versions['python']} on {about['machine']['cores']} cores of "
        f"{about['machine']['cpu']}.",
        "",
        "| section | what | setting | median | unit | beside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for f in figures:
        beside = ""
        if f.ceiling_samples:
            beside = f"{report.number(float(np.median(f.ceiling_samples)))} {f.ceiling_is}"
        median = f"{f.median:.2g}" if f.unit == "apart" else report.number(f.median)
        lines.append(f"| {f.section} | {f.name} | {f.setting} | {median} | {f.unit} | {beside} |")
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to check."""

    only: tuple[Section, ...] = SECTIONS
    """Check these sections."""
    seconds: float = 20.0
    """Train each algorithm for so long once it learns."""
    quick: bool = False
    """Check few and small things, to see that it works: no rate means anything."""
    csv: Path | None = None
    """Write here, and JSON and Markdown beside it; to runs/accelerator-<time>.csv if None."""


def main(config: Config) -> int:
    """Run the sections and return 1 if a result is further from the CPU's than its bound."""
    console = Console(width=None if sys.stdout.isatty() else report.WIDTH)
    path = config.csv or Path(f"runs/accelerator-{time.strftime('%Y%m%d-%H%M%S')}.csv")
    command = ["python", "-m", "experiments.accelerator", *sys.argv[1:]]
    (about,) = stream(machine.about, command)
    device = about["machine"]["device"]
    if device.endswith("cpu"):
        console.print("There is no accelerator: the CPU is checked, with small sizes.")
    console.print(f"{device}; writing {path}", highlight=False)
    figures: list[Figure] = []
    failed = False
    for name in config.only:
        begin = time.monotonic()
        try:
            for figure in stream(FIGURES[name], config.quick, config.seconds):
                figures.append(figure)
                write(path, about, figures)
                path.with_suffix(".md").write_text(markdown(about, figures))
                print(".", end="", file=sys.stderr, flush=True)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed = True
        print(file=sys.stderr)
        report.show([f for f in figures if f.section == name], {}, console)
        console.print(f"{name}: {time.monotonic() - begin:.0f} s", highlight=False)
    failed |= any(report.below_bar(figure) for figure in figures)
    return int(failed)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
