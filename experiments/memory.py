"""Tasks that need memory are learnt by R2D2 and not by the same agent without its LSTM.

    python -m experiments.memory [--preset cartpole] [--seeds 5] [--jobs 2]

Runs the preset with and without memory (core_size 0) over the seeds, each run a process of its own
on one core, and writes experiments/results/memory-<preset>.csv (one row a run: the greedy return
over 64 whole episodes, seconds of training) and -curves.csv, and the plot -<preset>.png. Runs that
are there already are not repeated.
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

import numpy as np
import tyro

RESULTS = Path("experiments/results")
AGENTS = {"r2d2": [], "feed-forward": ["--core-size", "0"]}


@dataclasses.dataclass(frozen=True)
class Config:
    """A preset of R2D2 with and without memory."""

    preset: str = "cartpole"
    """Preset of r2d2."""
    seeds: int = 5
    """Runs of each agent."""
    jobs: int = 2
    """Runs at a time, a core each."""
    runs: str = "runs/memory"
    """Folder of the runs."""


def folder(config: Config, agent: str, seed: int) -> Path:
    return Path(config.runs) / f"{config.preset}-{agent}-{seed}"


def play(config: Config, agent: str, seed: int, cores: queue.Queue) -> None:
    """One run, pinned to one of the free cores."""
    run = folder(config, agent, seed)
    if (run / "evaluation.json").exists():
        return
    words = ["r2d2", "--preset", config.preset, "--seed", str(seed), "--run-dir", str(run)]
    core = cores.get()
    subprocess.run(
        [sys.executable, "-m", "rlsys.train", *words, *AGENTS[agent]],
        check=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    cores.put(core)


def bootstrap(returns: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over seeds."""
    random = np.random.default_rng(0)
    means = random.choice(returns, (10_000, len(returns))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def collect(config: Config) -> dict[str, list[dict]]:
    """Rows of both csv files, read from the runs."""
    rows, curves = [], []
    for agent in AGENTS:
        for seed in range(config.seeds):
            run = folder(config, agent, seed)
            lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
            result = json.loads((run / "evaluation.json").read_text())["greedy"]
            end = {"env_steps": lines[-1]["env_steps"], "seconds": lines[-1]["seconds"]}
            about = {"preset": config.preset, "agent": agent, "seed": seed}
            rows.append(about | end | {"greedy_return": result["mean"], "min": result["min"]})
            for line in lines:
                if line["episode_return"] is not None:
                    point = {k: line[k] for k in ("env_steps", "seconds", "episode_return")}
                    curves.append(about | point)
    return {"": rows, "-curves": curves}


def plot(config: Config, rows: list[dict], curves: list[dict], path: Path) -> None:
    """Training returns of every seed, their median, and the greedy returns at the end."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for agent, color in zip(AGENTS, ("tab:blue", "tab:orange"), strict=True):
        seeds = []
        for seed in range(config.seeds):
            mine = [c for c in curves if c["agent"] == agent and c["seed"] == seed]
            x, y = ([c[k] for c in mine] for k in ("env_steps", "episode_return"))
            axes.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
            seeds.append((x, y))
        grid = np.linspace(0, max(x[-1] for x, _ in seeds), 100)
        median = np.median([np.interp(grid, x, y) for x, y in seeds], axis=0)
        axes.plot(grid, median, color=color, linewidth=2, label=f"{agent}, exploring: median")
        ends = [r for r in rows if r["agent"] == agent]
        axes.scatter(
            [r["env_steps"] * 1.02 for r in ends], [r["greedy_return"] for r in ends],
            color=color, marker="x", label=f"{agent}, greedy at the end: each seed",
        )  # fmt: skip
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return")
    axes.set_title(f"preset {config.preset}, {config.seeds} seeds")
    axes.legend(fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.3))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main(config: Config) -> None:
    cores: queue.Queue = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[: config.jobs]:
        cores.put(core)
    jobs = [(agent, seed) for seed in range(config.seeds) for agent in AGENTS]
    with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
        futures = [pool.submit(play, config, agent, seed, cores) for agent, seed in jobs]
        for future in futures:
            future.result()
    tables = collect(config)
    RESULTS.mkdir(exist_ok=True)
    for name, rows in tables.items():
        with (RESULTS / f"memory-{config.preset}{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    plot(config, tables[""], tables["-curves"], RESULTS / f"memory-{config.preset}.png")
    for agent in AGENTS:
        mine = [r for r in tables[""] if r["agent"] == agent]
        returns = np.array([r["greedy_return"] for r in mine])
        low, high = bootstrap(returns)
        seconds = np.median([r["seconds"] for r in mine])
        print(
            f"{config.preset}, {agent}: greedy return {returns.mean():.4g} (95 % interval of the "
            f"mean {low:.4g} to {high:.4g}; seeds {', '.join(f'{r:.4g}' for r in returns)}), "
            f"{seconds:.0f} s"
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
