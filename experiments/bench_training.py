"""How fast algorithms train, as a share of the rate at which EnvPool alone steps the same task.

    python -m experiments.bench_training [--env CartPole-v1] [--num-envs 256] [--csv FILE]

EnvPool with random actions and whole training runs, in turn and in one process, several times.
Rates are environment steps per second; of a run the median over its log lines but the first two,
in which programs are compiled.
"""

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path

import envpool
import numpy as np
import tyro

from rlsys import run, train


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time."""

    env: str = "CartPole-v1"
    """EnvPool task."""
    algorithms: tuple[str, ...] = ("impala", "ppo")
    """Which to train."""
    num_envs: int = 256
    """Environments."""
    env_steps: int = 600_000
    """Of each run."""
    repeats: int = 3
    """Of everything."""
    fields: str = ""
    """More words for the algorithms' command line."""
    csv: Path | None = None
    """Where to write the rates."""


def envpool_rate(config: Config) -> float:
    """Steps per second with random actions, drawn beforehand."""
    pool = envpool.make_gymnasium(config.env, num_envs=config.num_envs)
    pool.reset()
    random = np.random.default_rng(0)
    actions = random.integers(pool.action_space.n, size=(64, config.num_envs))
    num_steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < 3.0:
        for action in actions:
            pool.step(action)
        num_steps += actions.size
    return num_steps / (time.perf_counter() - begin)


def training_rate(config: Config, algorithm: str) -> tuple[float, dict[str, float]]:
    """Steps per second of a run, and where its time went."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = [algorithm, "--env", config.env, "--num-envs", str(config.num_envs)]
        words += ["--env-steps", str(config.env_steps), "--eval-episodes", "1"]
        words += ["--log-every", str(config.env_steps // 20), "--run-dir", f"{folder}/run"]
        train.main([*words, *config.fields.split()])
        text = Path(folder, "run/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()][2:]
    shares = {
        key: float(np.median([line[key] for line in lines]))
        for key in lines[0]
        if key.startswith("time/")
    }
    return float(np.median([line["env_steps_per_second"] for line in lines])), shares


def main(config: Config) -> None:
    rows = []
    for repeat in range(config.repeats):
        alone = envpool_rate(config)
        print(f"EnvPool alone: {alone:,.0f} steps/s")
        for algorithm in config.algorithms:
            rate, shares = training_rate(config, algorithm)
            where = ", ".join(f"{k[5:]} {v:.0%}" for k, v in shares.items())
            print(f"{algorithm}: {rate:,.0f} steps/s, {rate / alone:.0%} of EnvPool's; {where}")
            about = {"env": config.env, "num_envs": config.num_envs, "repeat": repeat}
            rows.append(about | {"algorithm": algorithm, "rate": rate, "envpool": alone} | shares)
    for algorithm in config.algorithms:
        share = np.median([r["rate"] / r["envpool"] for r in rows if r["algorithm"] == algorithm])
        print(f"{algorithm}: median {share:.0%} of EnvPool's rate")
    if config.csv:
        with config.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(k for row in rows for k in row))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    run.prepare_process()
    main(tyro.cli(Config))
