"""PPO's policy over continuous actions: 11 values for each dimension, as in Dactyl, or a Gaussian.

    python -m experiments.continuous [--seeds 5] [--jobs 2] [--only Hopper-v4]

PPO's preset "mujoco" plays a million steps of four tasks, with one setting for all. The versions of
the tasks are those of CleanRL's published curves. As there, a return is that of the policy in
training: the mean of the episodes that end within 50,000 steps. The last such mean of a run and its
largest one are told apart.

Writes results/continuous.csv and, for each task, continuous-<task>.csv, -curves.csv and .png.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from experiments.study import RESULTS, Options, check_only, study, write
from rlsys import cli
from rlsys.results import evaluate, gather
from rlsys.running import metrics_file

TASKS = ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Reacher-v4")
WORDS = "--preset mujoco --env-steps 1000000 --log-every 10240 --eval-episodes 20 --no-gif"
WINDOW = 50_000  # env steps whose episodes make a mean
POLICIES = {"11-values": "", "gaussian": "--policy gaussian"}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """PPO on MuJoCo's tasks, with a categorical and with a Gaussian policy."""

    only: tuple[str, ...] = TASKS
    """The tasks."""

    def __post_init__(self):
        check_only("task", self.only, TASKS)


def main(config: Config) -> None:
    path = RESULTS / "continuous.csv"
    rows: gather.Rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [row for row in rows if row["task"] not in config.only]
    for task in config.only:
        agents = {
            name: ["ppo", "--env", task, *WORDS.split(), *more.split()]
            for name, more in POLICIES.items()
        }
        study(f"continuous-{task}", agents, config)
        for name in agents:
            for seed in range(config.seeds):
                folder = Path(config.runs) / f"continuous-{task}-{name}-{seed}"
                rows.append({"task": task, "policy": name, "seed": seed, **on_the_way(folder)})
            mine = [r for r in rows if (r["task"], r["policy"]) == (task, name)]
            for key in ("final", "largest"):
                mean, low, high = evaluate.mean_interval(row[key] for row in mine)
                print(f"{task} {name}, {key}: {mean:.4g} ({low:.4g} to {high:.4g})", flush=True)
        write(path, rows)


def on_the_way(folder: Path) -> dict[str, float]:
    """Returns the mean return of a run's last WINDOW, and the largest one of all of them."""
    log = metrics_file.read(folder)
    windows: dict[int, list[dict]] = {}  # by their number, from the end
    for line in log:
        if line.get("episodes"):
            window = (log[-1]["env_steps"] - line["env_steps"]) // WINDOW
            windows.setdefault(window, []).append(line)
    means = {
        i: np.average([x["episode_return"] for x in lines], weights=[x["episodes"] for x in lines])
        for i, lines in windows.items()
    }
    return {"final": means[0], "largest": max(means.values())}


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
