"""The table of figures, and whether they differ from earlier ones by more than noise."""

import math
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.bench.figures import Figure

FEW = 5  # samples; with fewer, ranges that do not touch prove little
NOISE = 0.05  # share of the median, whatever the samples say: two runs are hours apart
NOISE_OF_FEW = 0.15
WIDTH = 100  # of the table, in characters, where no terminal says
COLOURS = {"faster": "green", "less": "green", "slower": "red", "more": "red"}


class Change(NamedTuple):
    """How a figure differs from an earlier one."""

    ratio: float  # of the medians, above 1 if it has become faster (or takes less)
    word: str  # "faster", "slower" ("less", "more" of memory) or "same"


def change(figure: Figure, base: Figure) -> Change:
    """Compare a figure with an earlier one.

    They differ if the ranges of their samples, min to max, do not overlap, and the medians differ
    by more than 5 %, or by more than 15 % if either has fewer than 5 samples. Of 3 against 3
    samples that only chance tells apart the ranges are disjoint once in ten times, of 5 against 5
    once in 126.

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


def differences(about: dict[str, Any], base: dict[str, Any]) -> str:
    """Return a line on how two results' machines and versions differ; empty if they do not."""
    found = [
        f"{name} {base[part].get(name)} -> {value}"
        for part in ("machine", "versions")
        for name, value in about[part].items()
        if base[part].get(name) != value
    ]
    return f"Not the same machine or versions: {', '.join(found)}.\n" if found else ""


def show(figures: list[Figure], base: dict[tuple, Figure], console: Console) -> None:
    """Print a section's table, where the time of training goes, and what misses its bar.

    base: earlier figures by key, to compare with; may be empty.
    """
    if not figures:
        return
    table = Table("what", title=figures[0].section, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("median", "min to max", "unit", "of its ceiling", *(["earlier"] if base else [])):
        table.add_column(name, no_wrap=True, justify="right" if "m" in name[:3] else "left")
    for f in figures:
        limits = f"{number(min(f.samples))} to {number(max(f.samples))}"
        row = [f"{f.name} [dim]{f.setting}[/dim]", number(f.median), limits, f.unit, fraction(f)]
        if base:
            ratio, word = change(f, base[f.key]) if f.key in base else (math.nan, "new")
            text = f"{ratio:.2f} {word}" if f.key in base else word
            row.append(f"[{COLOURS.get(word, 'dim')}]{text}[/]")
        table.add_row(*row)
    console.print(table)
    for f in figures:
        if f.where:
            shares = sorted(f.where.items(), key=lambda item: -item[1])
            parts = ", ".join(f"{name} {share:.0%}" for name, share in shares if share > 0.005)
            console.print(f"{f.name} {f.setting}: {parts}", highlight=False)
        if below_bar(f):
            bar = f"{f.fraction:.2f} of {f.bar:g} x {f.ceiling_is}"
            console.print(f"below its bar: {f.name} {f.setting}: {bar}", highlight=False)


def below_bar(figure: Figure) -> bool:
    """Return whether a figure misses its bar by more than noise."""
    value = figure.fraction
    return value is not None and value < (figure.bar or 0.0) / (1.0 + NOISE)


def fraction(figure: Figure) -> str:
    """Return a share, or a multiple where the ceiling is another way to do the same."""
    value = figure.fraction
    if value is None:
        return ""
    text = f"{value:.2f} x" if figure.bar and figure.bar >= 1.0 else f"{value:.0%}"
    colour = "red" if below_bar(figure) else "green" if figure.bar else "default"
    return f"[{colour}]{text} {figure.ceiling_is}[/]"


def number(value: float) -> str:
    """Return three digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
