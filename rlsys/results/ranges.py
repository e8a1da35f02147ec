"""The ranges of a run's physics over its steps, where they widened as the policy learned."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from rlsys.running import files, output
from rlsys.running.ranges_file import read

NAME = "ranges.png"
COLUMNS = 4  # of panels, at most
Lines = list[dict[str, Any]]


def by_parameter(lines: Lines) -> dict[str, Lines]:
    """Groups the lines of ranges.jsonl: the first of each parameter says what its range may be."""
    found: dict[str, Lines] = {}
    for line in lines:
        found.setdefault(line["parameter"], []).append(line)
    return found


def reached(folder: Path) -> tuple[str, ...]:
    """Returns words that draw from the ranges that a run has reached; none if it adapts none."""
    words = []
    for name, lines in by_parameter(read(folder)).items():
        first, last = lines[0], lines[-1]
        together = ":all" if first["together"] else ""
        words.append(f"{name}={first['how']}:{last['low']:.6g}:{last['high']:.6g}{together}")
    return tuple(words)


def picture(folder: Path, env_steps: int) -> list[Path]:
    """Draws ranges.png into a run's folder and returns its path; none if the run adapts no ranges,
    or if it cannot be written, which is said. env_steps: that the run has played."""
    lines, path = read(folder), folder / NAME
    if not lines:
        return []
    try:
        with files.replacing(path) as new:
            draw(lines, folder.name, env_steps).savefig(new, dpi=110, format="png")
    except OSError as error:
        output.say(f"{path} could not be written: {error.strerror or error}.")
        return []
    return [path]


def draw(lines: Lines, title: str, end: int) -> Figure:
    """Draws a panel for each parameter: its range over environment steps, within what it may be.

    Args:
      lines: of ranges.jsonl.
      end: the environment steps at which the picture ends.
    """
    found = by_parameter(lines)
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 4.5), 2.4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, mine) in zip(panels, found.items(), strict=False):
        steps = [line["env_steps"] for line in mine] + [end]
        low, high = ([x[side] for x in mine] + [mine[-1][side]] for side in ("low", "high"))
        axes.fill_between(steps, low, high, step="post", alpha=0.3)
        for side in (low, high):
            axes.step(steps, side, where="post", color="C0", linewidth=1.2)
        axes.axhline(low[0], color="grey", linewidth=0.7, linestyle=":")
        if mine[0]["how"].startswith("log"):
            axes.set_yscale("log")
        axes.set_ylim(*mine[0]["whole"])
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel("environment steps", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure
