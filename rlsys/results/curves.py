"""Learning curves of agents: the mean and the range of their seeds, and their scores."""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from rlsys.results.gather import Rows, group
from rlsys.results.table import mean_score

LINES = 20  # agents in a plot, at most; the best
COLUMNS = 4  # panels in a row, at most
SMOOTHED = 0.03  # of a curve's steps: the deviation of the Gaussian that smooths it
WIDTH, HEIGHT = 6.5, 3.8  # inches of a single panel
LETTERS = 16  # of a legend, in an inch
ROW = 0.17  # inches of a line of a legend


def plot(path: Path, ends: Rows, curves: Rows) -> None:
    """Draws the training returns of each agent, the mean over its seeds with a band from the least
    to the largest, and every seed's score; a panel a task.

    Args:
      path: of the picture.
      ends, curves: as of gather.collect, with agent and seed in each row.
    """
    draw(ends, curves, path.stem).savefig(path, dpi=130)


def draw(ends: Rows, curves: Rows, title: str) -> Figure:
    """Draws the picture that plot saves; title: of a panel whose task has no name.

    Curves are smoothed. At a checkpoint the environments start afresh, so the lines of the log
    there count few episodes, or the short ones of those that began together: alone they would look
    like a fall.
    """
    tasks = [task for (task,) in group(ends, "task")]
    by_agent = group(ends, "agent")
    best = sorted(by_agent, key=lambda name: -mean_score(by_agent[name]))[:LINES]
    names = [name for name in by_agent if name in best]
    colors = dict(zip(names, _colors(len(names)), strict=True))
    columns = min(len(tasks), COLUMNS)
    rows = math.ceil(len(tasks) / columns)
    wide = WIDTH if columns == 1 else 3.2 * columns
    labels, per_row = _labels([name for (name,) in names], wide)
    notes = ["line: mean of seeds, smoothed; band: their range"]
    scores = dict.fromkeys(row["score"] for row in ends if row["score"])
    notes.append(f"x: score at the end ({' or '.join(scores) or 'none yet'})")
    if len(by_agent) > len(names):
        notes.append(f"the best {len(names)} of {len(by_agent)} agents")
    heading = "\n".join(textwrap.wrap(";  ".join(notes), int(LETTERS * wide)))
    lengths = [label.count("\n") + 1 for label in labels.values()]
    per_column = math.ceil(len(lengths) / per_row)
    legend = sum(sorted(lengths)[-per_column:]) + heading.count("\n") + 2
    figure = Figure(figsize=(wide, (HEIGHT - 0.6) * rows + ROW * legend), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    drawn: dict[str, Any] = {}
    training = group(curves, "task", "agent")
    for axes in panels[len(tasks) :]:
        axes.remove()
    for i, (axes, task) in enumerate(zip(panels, tasks, strict=False)):
        for name in names:
            seeds = list(group(training.get((task, *name), []), "seed").values())
            if seeds:
                x, low, mean, high = _band(seeds)
                axes.fill_between(x, low, high, color=colors[name], alpha=0.18, linewidth=0)
                drawn[name[0]] = axes.plot(x, mean, color=colors[name], linewidth=1.8)[0]
            here = [r for r in ends if (r["task"], r["agent"]) == (task, *name)]
            last = [r for r in here if r["results"]]
            axes.scatter(
                [r["evaluated_at"] for r in last],
                [r["results"][r["score"]]["mean"] for r in last],
                color=colors[name], marker="x", s=28, clip_on=False, zorder=3,
            )  # fmt: skip
        axes.set_xlabel("environment steps" if i + columns >= len(tasks) else "")
        axes.set_ylabel("" if i % columns else "return")
        axes.xaxis.set_major_formatter(short)
        axes.set_title(textwrap.fill(task or title, int(7 * wide / columns)), fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        drawn.values(), [labels[name] for name in drawn], fontsize=8, loc="outside lower center",
        ncols=per_row, title=heading, title_fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def _labels(names: list[str], wide: float) -> tuple[dict[str, str], int]:
    """Breaks agents' names into lines that fit a legend.

    Args:
      wide: inches of the picture.

    Returns:
      the broken names, by name; the number of columns, two if all are short.
    """
    letters = int(LETTERS * wide) - 10  # the line before each, and the margins
    longest = max(map(len, names), default=0)
    columns = 2 if len(names) > 4 and longest <= letters // 2 - 6 else 1
    return {name: "\n".join(textwrap.wrap(name, letters)) for name in names}, columns


def _smooth(rows: Rows) -> np.ndarray:
    """[N] returns of N lines of the log, each the mean of those around it, weighted by their
    episodes and by a Gaussian of their distance.

    Its deviation is SMOOTHED, or the distance of two lines if that is larger.
    """
    x, returns = (
        np.array([row[k] for row in rows], float) for k in ("env_steps", "episode_return")
    )
    apart = np.median(np.diff(x)) if len(x) > 1 else 1.0
    deviation = max(SMOOTHED * (x[-1] - x[0]), apart)
    weights = np.exp(-0.5 * np.square((x[:, None] - x) / deviation))  # [N, N]
    weights *= np.maximum([row["episodes"] for row in rows], 1)
    return weights @ returns / weights.sum(axis=1)


def _band(seeds: list[Rows]) -> tuple[np.ndarray, ...]:
    """Steps up to the shortest seed's last; least, mean and largest return of the seeds there.

    Seeds that stopped before another's first line are left out.
    """
    first = max(rows[0]["env_steps"] for rows in seeds)
    seeds = [rows for rows in seeds if rows[-1]["env_steps"] >= first]
    x = np.linspace(first, min(rows[-1]["env_steps"] for rows in seeds), 200)
    y = np.stack([np.interp(x, [r["env_steps"] for r in rows], _smooth(rows)) for rows in seeds])
    return x, y.min(axis=0), y.mean(axis=0), y.max(axis=0)


def _colors(number: int) -> list[Any]:
    """Distinct for a few agents, else along a scale."""
    if number <= 10:
        return [f"C{i}" for i in range(number)]
    return list(colormaps["viridis"](np.linspace(0, 0.95, number)))


def short(steps: float, _) -> str:
    """500 k, 1.5 M."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if steps >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"
