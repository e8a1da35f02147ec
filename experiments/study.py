"""Runs of several agents over seeds, what they came to as csv, and their curves as a plot.

A study is a file beside this one: agents by name, each the words after `python -m rlsys.train`, and
the sentence that they test.
"""

import concurrent.futures
import csv
import dataclasses
import os
import queue
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rlsys import cli
from rlsys.results import curves as learning_curves
from rlsys.results import evaluate, evaluations, gather
from rlsys.types import UserError

RESULTS = Path("experiments/results")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a study."""

    seeds: int = 5
    """Runs of each agent."""
    jobs: int = 2
    """Runs at a time, a core each."""
    runs: str = "runs"
    """Folder of the runs, each <study>-<agent>-<seed>; those that are complete are not repeated."""


def study(
    name: str, agents: dict[str, list[str]], options: Options, *, pinned: bool = True
) -> None:
    """Writes results/<name>.csv, <name>-curves.csv and <name>.png, and prints a line an agent.

    pinned: each run has a core to itself, and no more.
    """
    folders = play_all(name, agents, options, pinned=pinned)
    ends: gather.Rows = []
    curves: gather.Rows = []
    for (agent, seed), folder in folders.items():
        mine = gather.collect(*gather.results(folder))
        ends += [{"agent": agent, "seed": seed} | row for row in mine[0]]
        curves += [{"agent": agent, "seed": seed} | row for row in mine[1]]
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / f"{name}.csv", [flat(row) for row in ends])
    write(RESULTS / f"{name}-curves.csv", curves)
    learning_curves.plot(RESULTS / f"{name}.png", ends, curves)
    for agent in agents:
        for task in dict.fromkeys(row["task"] for row in ends):
            describe(agent, task, [r for r in ends if (r["agent"], r["task"]) == (agent, task)])


def play_all(
    name: str, agents: dict[str, list[str]], options: Options, *, pinned: bool = True
) -> dict[tuple[str, int], Path]:
    """Plays all runs that are not complete; returns their folders by agent and seed.

    pinned: each run has a core to itself, and no more.
    """
    jobs = [(agent, seed) for seed in range(options.seeds) for agent in agents]
    folders = {(a, s): Path(options.runs) / f"{name}-{a}-{s}" for a, s in jobs}
    everywhere, cores = os.sched_getaffinity(0), queue.Queue[set[int]]()
    for core in sorted(everywhere)[: options.jobs]:
        cores.put({core} if pinned else everywhere)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(play, agents[a], s, folders[a, s], cores) for a, s in jobs]
        for run in runs:
            run.result()
    return folders


def play(words: list[str], seed: int, folder: Path, cores: queue.Queue) -> None:
    """One run, pinned to free cores."""
    if evaluations.read(folder):
        return
    free = cores.get()
    try:
        rlsys_train(*words, f"--seed={seed}", f"--run-dir={folder}", cores=free)
    finally:
        cores.put(free)


def rlsys_train(*words: str, cores: set[int] | None = None) -> None:
    """Runs `python -m rlsys.train`, whose standard output is not shown.

    Args:
      words: what stands after the module's name.
      cores: the numbers of the cores that it may use; None for all.

    Raises:
      UserError: it failed.
    """
    pin = None if cores is None else lambda: os.sched_setaffinity(0, cores)
    command = [sys.executable, "-m", "rlsys.train", *words]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, preexec_fn=pin)
    if done.returncode:
        raise UserError(f"rlsys.train {' '.join(words)} ended with exit code {done.returncode}")


def check_only(what: str, only: Iterable[str], known: Collection[str]) -> None:
    """Raises UserError if a word of --only is none that the study knows; what: a word's kind."""
    for name in only:
        if name not in known:
            raise UserError(cli.unknown(what, name, known))


def plot_ranges(path: Path, curves: dict[str, gather.Rows], column: str, **axes_words: Any) -> None:
    """Draws a number over the environment steps, for each label: mean and range of its rows' seeds.

    Args:
      column: the number's name in the rows.
      axes_words: for matplotlib's Axes.set, such as ylabel.
    """
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for label, mine in curves.items():
        points = gather.group(mine, "env_steps")
        x = [steps for (steps,) in points]
        y = [[row[column] for row in rows] for rows in points.values()]
        axes.fill_between(x, [*map(min, y)], [*map(max, y)], alpha=0.18, linewidth=0)
        axes.plot(x, [sum(values) / len(values) for values in y], label=label)
    axes.set(xlabel="environment steps", **axes_words)
    axes.xaxis.set_major_formatter(learning_curves.short)
    axes.grid(alpha=0.25)
    axes.legend(title="line: mean of seeds; band: their range", frameon=False)
    figure.savefig(path, dpi=130)


def flat(row: dict) -> dict:
    """A row of gather.collect with the results of each kind of play in columns of their own."""
    columns = {key: value for key, value in row.items() if key != "results"}
    for kind, result in row["results"].items():
        columns[f"{kind}_return"] = result["mean"]
        for key in ("interval_95_low", "interval_95_high", "episodes", "ended"):
            columns[f"{kind}_{key}"] = result[key]
        if "successes" in result:
            columns[f"{kind}_successes"] = result["successes"]
    return columns


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def describe(agent: str, task: str, rows: list[dict]) -> None:
    """Prints each seed's return, by kind of play, and the 95 % interval of their mean."""
    about = f"{agent} {task}".strip()
    print(f"{about}, {np.median([r['seconds'] for r in rows]):.0f} s")
    for kind in rows[0]["results"]:  # the score's comes first
        returns = [r["results"][kind]["mean"] for r in rows]
        mean, low, high = evaluate.mean_interval(returns)
        is_score = " (the score)" if kind == rows[0]["score"] else ""
        print(
            f"  {kind} return{is_score} {mean:.4g} (95 % interval of the mean {low:.4g} to "
            f"{high:.4g}; seeds {', '.join(f'{r:.4g}' for r in returns)})"
        )
