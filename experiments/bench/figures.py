"""A figure: samples of one quantity and, where there is one, of a ceiling measured beside it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments import study
from rlsys.running import files

COLUMNS = (
    "section name setting median min max unit ceiling ceiling_is fraction bar where samples "
    "ceiling_samples"
).split()


@dataclasses.dataclass
class Figure:
    """Samples of one quantity and of its ceiling, all in the same unit; lists or numpy arrays."""

    section: str
    name: str
    setting: str
    unit: str  # "steps/s" and other rates: more is better; "ms", "s", "MB": less is
    samples: list[float]
    ceiling_samples: list[float] = dataclasses.field(default_factory=list)  # in turn with samples
    ceiling_is: str = ""
    bar: float | None = None  # fraction of the ceiling that is asked for
    where: dict[str, float] = dataclasses.field(default_factory=dict)  # shares of the wall time

    def __post_init__(self) -> None:
        self.samples = np.array(self.samples, float).tolist()
        self.ceiling_samples = np.array(self.ceiling_samples, float).tolist()
        self.key = self.section, self.name, self.setting
        self.more_is_better = self.unit.endswith("/s")
        self.median = float(np.median(self.samples))

    @property
    def fraction(self) -> float | None:
        """The share of the ceiling that is reached: 1 if equal to it, less if worse.

        It is the median over pairs of samples where every sample has its own ceiling.
        """
        if not self.ceiling_samples:
            return None
        samples, ceiling = np.array(self.samples), np.array(self.ceiling_samples)
        if len(samples) != len(ceiling):
            samples, ceiling = np.median(samples), np.median(ceiling)
        with np.errstate(divide="ignore"):  # a distance of 0 is infinitely below its bound
            return float(np.median(samples / ceiling if self.more_is_better else ceiling / samples))

    def row(self) -> dict[str, Any]:
        """Return what the files say of it, by column."""
        values = dataclasses.asdict(self) | {
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "ceiling": float(np.median(self.ceiling_samples)) if self.ceiling_samples else None,
            "fraction": self.fraction,
        }
        return {name: values[name] for name in COLUMNS}


def write(path: Path, about: dict[str, Any], figures: list[Figure]) -> None:
    """Write figures as csv to `path` and, with what `about` says, as JSON beside it."""
    rows = [figure.row() for figure in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(about | {"figures": rows}, indent=1) + "\n"
    files.write_text(path.with_suffix(".json"), content)
    lists = "where", "samples", "ceiling_samples"
    study.write(path, [row | {name: json.dumps(row[name]) for name in lists} for row in rows])


def read(path: Path) -> tuple[dict[str, Any], list[Figure]]:
    """Return what the JSON of an earlier result says about itself, and its figures."""
    about = json.loads(path.read_text())
    names = [field.name for field in dataclasses.fields(Figure)]
    return about, [Figure(**{n: row[n] for n in names}) for row in about.pop("figures")]
