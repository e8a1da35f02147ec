"""Runs of several agents over seeds, what they came to as csv, and their curves as a plot.

A study is a file beside this one: agents by name, each the words after `python -m rlsys.train`, and
the sentence that they test.
"""

import concurrent.futures
import csv
import dataclasses
import json
import os
import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path("experiments/results")
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a study."""

    seeds: int = 5
    """Runs of each agent."""
    jobs: int = 2
    """Runs at a time, a core each."""
    runs: str = "runs"
    """Folder of the runs, each <study>-<agent>-<seed>; those that are complete are not repeated."""


def study(name: str, agents: dict[str, list[str]], options: Options) -> None:
    """Writes results/<name>.csv, <name>-curves.csv and <name>.png, and prints a line an agent."""
    jobs = [(agent, seed) for seed in range(options.seeds) for agent in agents]
    folders = {(a, s): Path(options.runs) / f"{name}-{a}-{s}" for a, s in jobs}
    cores: queue.Queue = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[: options.jobs]:
        cores.put(core)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(play, agents[a], s, folders[a, s], cores) for a, s in jobs]
        for run in runs:
            run.result()
    ends, curves = [], []
    for (agent, seed), folder in folders.items():
        mine = collect(folder)
        ends += [{"agent": agent, "seed": seed} | row for row in mine[0]]
        curves += [{"agent": agent, "seed": seed} | row for row in mine[1]]
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / f"{name}.csv", ends)
    write(RESULTS / f"{name}-curves.csv", curves)
    plot(name, ends, curves)
    for agent in agents:
        for task in dict.fromkeys(row["task"] for row in ends):
            describe(agent, task, [r for r in ends if (r["agent"], r["task"]) == (agent, task)])


def play(words: list[str], seed: int, folder: Path, cores: queue.Queue) -> None:
    """One run, pinned to one of the free cores."""
    if (folder / "evaluation.json").exists():
        return
    core = cores.get()
    try:
        subprocess.run(
            [sys.executable, "-m", "rlsys.train", *words, f"--seed={seed}", f"--run-dir={folder}"],
            check=True,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    finally:
        cores.put(core)


def collect(folder: Path) -> tuple[list[dict], list[dict]]:
    """Of a run: what each task came to, greedily, and the training returns on the way."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    end = {"env_steps": lines[-1]["env_steps"], "seconds": lines[-1]["seconds"]}
    results = json.loads((folder / "evaluation.json").read_text())
    ends, curves = [], []
    for kind, result in results.items():
        if not kind.startswith("greedy"):
            continue
        task = kind.removeprefix("greedy").strip()
        row = {"greedy_return": result["mean"], "min": result["min"], "max": result["max"]}
        ends.append({"task": task} | end | row)
        key = f"episode_return/{task}" if task else "episode_return"
        for line in lines:
            if line.get(key) is not None:
                point = {k: line[k] for k in ("env_steps", "seconds")}
                curves.append({"task": task} | point | {"episode_return": line[key]})
    return ends, curves


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def plot(name: str, ends: list[dict], curves: list[dict]) -> None:
    """Training returns of every seed and their median, and the greedy returns; a panel a task."""
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in ends))
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(7 if len(tasks) == 1 else 3 * len(tasks), 3.6), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axes, task in zip(panels[0], tasks, strict=True):
        for agent, color in zip(dict.fromkeys(r["agent"] for r in ends), COLORS, strict=False):
            here: dict[str, Any] = {"agent": agent, "task": task}
            mine = [r for r in curves if here.items() <= r.items()]
            seeds = []
            for seed in sorted({r["seed"] for r in mine}):
                points = [r for r in mine if r["seed"] == seed]
                x, y = ([r[k] for r in points] for k in ("env_steps", "episode_return"))
                axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
                seeds.append((x, y))
            grid = np.linspace(0, max(x[-1] for x, _ in seeds), 100)
            median = np.median([np.interp(grid, x, y) for x, y in seeds], axis=0)
            axes.plot(grid, median, color=color, linewidth=2, label=f"{agent}, training: median")
            last = [r for r in ends if here.items() <= r.items()]
            axes.scatter(
                [r["env_steps"] * 1.02 for r in last], [r["greedy_return"] for r in last],
                color=color, marker="x", label=f"{agent}, greedy at the end: each seed",
            )  # fmt: skip
        axes.set_xlabel("environment steps")
        axes.set_title(task or name, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("episode return")
    panels[0][-1].legend(fontsize=8, loc="lower right")
    figure.savefig(RESULTS / f"{name}.png", dpi=130)


def describe(agent: str, task: str, rows: list[dict]) -> None:
    """Prints each seed's greedy return and the 95 % interval of their mean, by bootstrap."""
    returns = np.array([r["greedy_return"] for r in rows])
    random = np.random.default_rng(0)
    means = random.choice(returns, (10_000, len(returns))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    about = f"{agent} {task}".strip()
    print(
        f"{about}: greedy return {returns.mean():.4g} (95 % interval of the mean {low:.4g} to "
        f"{high:.4g}; seeds {', '.join(f'{r:.4g}' for r in returns)}), "
        f"{np.median([r['seconds'] for r in rows]):.0f} s"
    )
