"""What is measured: figures, the files that they are written to, and the machine that they are of.

A figure is a median over samples, and where there is one a ceiling that was measured beside it.
"""

import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Setting:
    """How thoroughly to measure."""

    repeats: int | None = None  # samples of each figure; as each section likes it if None
    quick: bool = False  # small and few, to see that it works

    def samples(self, usual: int) -> int:
        return self.repeats or (2 if self.quick else usual)


@dataclasses.dataclass(frozen=True)
class Figure:
    """Samples of one quantity and of its ceiling, each of the same unit."""

    section: str
    name: str
    setting: str
    unit: str  # "steps/s" and other rates: more is better; "ms", "s", "MB": less is
    samples: list[float]
    ceiling: list[float] = dataclasses.field(default_factory=list)  # in turn with the samples
    ceiling_is: str = ""
    bar: float | None = None  # fraction of the ceiling that is asked for
    where: dict[str, float] = dataclasses.field(default_factory=dict)  # shares of the wall time

    @property
    def key(self) -> tuple[str, str, str]:
        return self.section, self.name, self.setting

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def fraction(self) -> float | None:
        """Of the ceiling: 1 if equal to it, less if worse. The median over pairs where they are."""
        if not self.ceiling:
            return None
        samples, ceiling = np.array(self.samples), np.array(self.ceiling)
        if len(samples) != len(ceiling):
            samples, ceiling = np.median(samples), np.median(ceiling)
        ratio = samples / ceiling if self.more_is_better else ceiling / samples
        return float(np.median(ratio))

    def row(self) -> dict[str, Any]:
        """As the files have it."""
        return {
            "section": self.section,
            "name": self.name,
            "setting": self.setting,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "unit": self.unit,
            "ceiling": float(np.median(self.ceiling)) if self.ceiling else None,
            "ceiling_is": self.ceiling_is,
            "fraction": self.fraction,
            "bar": self.bar,
            "where": self.where,
            "samples": self.samples,
            "ceiling_samples": self.ceiling,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Figure":
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(
            **{k: v for k, v in row.items() if k in names} | {"ceiling": row["ceiling_samples"]}
        )


class Files:
    """A csv and a JSON that hold all figures so far at any time, so that nothing is lost."""

    def __init__(self, csv_path: Path, json_path: Path):
        self.csv_path, self.json_path, self.figures = csv_path, json_path, list[Figure]()
        self.about = about()
        for path in (csv_path, json_path):
            path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        rows = [f.row() for f in self.figures]
        new = self.json_path.with_suffix(".new")
        new.write_text(json.dumps({**self.about, "figures": rows}, indent=1) + "\n")
        new.replace(self.json_path)
        row = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in rows[-1].items()}
        with self.csv_path.open("w" if len(rows) == 1 else "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if len(rows) == 1:
                writer.writeheader()
            writer.writerow(row)


def read(path: Path) -> tuple[dict[str, Any], list[Figure]]:
    """What a JSON of Files says: about the machine and the rest, and the figures."""
    content = json.loads(path.read_text())
    return content, [Figure.from_row(row) for row in content.pop("figures")]


def about() -> dict[str, Any]:
    """Machine, versions, commit, date and command."""
    packages = ("jax", "jaxlib", "flax", "optax", "rlax", "envpool", "numpy")
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
            "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
            "system": platform.platform(terse=True),
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(["python", "-m", "experiments.bench", *sys.argv[1:]]),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Of the repository, with a + where files were changed since; empty outside of one."""
    here = Path(__file__).parent

    def git(*words):
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
