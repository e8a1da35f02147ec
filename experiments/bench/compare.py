"""Whether a figure differs from an earlier one by more than noise."""

import math
from typing import NamedTuple

from experiments.bench.figures import Figure

FEW = 5  # samples; with fewer, ranges that do not touch prove little
NOISE = 0.05  # of the median, whatever the samples say: two runs are hours apart
NOISE_OF_FEW = 0.15


class Change(NamedTuple):
    """From an earlier figure to this one."""

    ratio: float  # of the medians, above 1 if it has become faster (or takes less)
    word: str  # "faster", "slower" ("less", "more" of memory) or "same"


def change(figure: Figure, base: Figure) -> Change:
    """Compares two figures of one unit.

    They differ if the ranges of their samples, min to max, do not overlap, and the medians differ
    by more than 5 %, or by more than 15 % if either has fewer than 5 samples. Of 3 against 3
    samples that nothing but chance tells apart the ranges are disjoint once in ten times, of 5
    against 5 once in 126.

    Raises:
      ValueError: the units differ.
    """
    if figure.unit != base.unit:
        raise ValueError(f"{figure.key} is in {figure.unit}, the earlier one in {base.unit}.")
    ratio = figure.median / base.median if base.median else math.nan
    if not figure.more_is_better:
        ratio = 1.0 / ratio if ratio else math.nan
    noise = NOISE_OF_FEW if min(len(figure.samples), len(base.samples)) < FEW else NOISE
    disjoint = min(figure.samples) > max(base.samples) or max(figure.samples) < min(base.samples)
    if not (disjoint and abs(math.log(ratio)) > math.log1p(noise)):
        return Change(ratio, "same")
    better, worse = ("less", "more") if figure.unit == "MB" else ("faster", "slower")
    return Change(ratio, better if ratio > 1.0 else worse)


def differences(about: dict, base: dict) -> str:
    """A line on what else differs between two results' machines and versions; empty if nothing."""
    found = [
        f"{name} {base[part].get(name)} -> {value}"
        for part in ("machine", "versions")
        for name, value in about[part].items()
        if base[part].get(name) != value
    ]
    return f"Not the same machine or versions: {', '.join(found)}." if found else ""
