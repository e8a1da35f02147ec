"""What `make plan` predicts for this machine, beside what training then reaches, in turn.

python -m experiments.plan_check [--repeats 3] [--csv experiments/results/plan.csv]
"""

import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments.bench import training
from rlsys import algorithms, cli

TASK = "CartPole-v1"
BAR = 0.25  # how far a prediction may be off


@dataclasses.dataclass(frozen=True)
class Config:
    """How often, and where to."""

    repeats: int = 3
    """Predictions and runs of each algorithm, of which the medians are compared."""
    csv: Path | None = None
    """Where to write all of them."""


def predicted(algorithm: str) -> float:
    """Steps per second that make plan tells."""
    command = [sys.executable, "-m", "rlsys.plan", algorithm, "--env", TASK]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.findall(r"([\d,]+) steps/s", text)[-1].replace(",", ""))


def measured(algorithm: str) -> float:
    """Steps per second of a run, as make bench has it."""
    words = f"{training.runs()[TASK, algorithm]} {training.SHORT}"
    return training.measured(TASK, algorithm, words)["env_steps_per_second"]


def main(config: Config) -> None:
    rows = []
    for algorithm in algorithms.NAMES:
        pairs = [(predicted(algorithm), measured(algorithm)) for _ in range(config.repeats)]
        rows += [(algorithm, TASK, round(p), round(m)) for p, m in pairs]
        prediction, rate = np.median(pairs, axis=0)
        off = prediction / rate - 1.0
        word = "within" if abs(off) <= BAR else "NOT within"
        print(
            f"{algorithm}: predicted {prediction:,.0f} steps/s, measured {rate:,.0f}: {off:+.0%}, "
            f"{word} {BAR:.0%}",
            flush=True,
        )
    if config.csv:
        with config.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("algorithm", "task", "predicted_steps_per_second", "measured"))
            writer.writerows(rows)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
