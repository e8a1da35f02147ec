"""Games of different speed in one agent: none waits for another.

    python -m experiments.bench_mix [--env Pong-v5,...] [--csv FILE]

Trains IMPALA on the mix for a while with batches of whatever is finished first, and with batches
of one unroll of each task, in turn; prints steps per second, all together and of each task, beside
what EnvPool alone does of each with random actions. The network is tiny, so that the games are what
takes the time.
"""

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlsys import cli, envs, train
from rlsys.running import process

NETWORK = "--torso shallow --hidden-size 16 --frame-stack 1"
WAYS = {"first come": [], "in turn": ["--unrolls-ahead", "0", "--batch-size", "64"]}


@dataclasses.dataclass(frozen=True)
class Config:
    """Says what is timed."""

    env: str = "Pong-v5,Freeway-v5,MontezumaRevenge-v5,Defender-v5"
    """The tasks; in turn, 16 environments of each of 4 make a batch."""
    env_steps: int = 60_000
    """The environment steps of each run."""
    repeats: int = 3
    """The number of runs of each way."""
    csv: Path | None = None
    """Where to write the rates."""


def alone(task: envs.Task) -> float:
    """Steps per second of 16 environments with random actions."""
    pool = envs.make(task, 16, 0)
    pool.reset()
    assert isinstance(pool.action_space, spaces.Discrete)
    random, begin, num_steps = np.random.default_rng(0), time.perf_counter(), 0
    while time.perf_counter() - begin < 2.0:
        pool.step(random.integers(pool.action_space.n, size=16))
        num_steps += 16
    return num_steps / (time.perf_counter() - begin)


def rates(config: Config, words: list[str]) -> dict[str, Any]:
    """Steps per second of a run and of each task in it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = ["impala", "--env", config.env, *NETWORK.split(), *words]
        words += ["--env-steps", str(config.env_steps), "--eval-episodes", "1"]
        words += ["--max-episode-steps", "500", "--log-every", str(config.env_steps // 10)]
        train.main([*words, "--run-dir", f"{folder}/run"])
        text = Path(folder, "run/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()][2:-1]
    total = np.array([line["env_steps_per_second"] for line in lines])
    shares = {key: [line[key] for line in lines] for key in lines[0] if key.startswith("share/")}
    each = {key[6:]: float(np.median(total * np.array(x))) for key, x in shares.items()}
    return {"all": float(np.median(total))} | each


def main(config: Config) -> None:
    tasks = envs.read_tasks(config.env, envs.Options())
    rows: list[dict[str, Any]] = [{"way": "EnvPool alone", "all": float("nan")}]
    rows[0] |= {t.name: alone(t) for t in tasks}
    for _ in range(config.repeats):
        rows += [{"way": way} | rates(config, words) for way, words in WAYS.items()]
    for row in rows:
        print("  ".join(f"{k} {v:,.0f}" if k != "way" else f"{v:14s}" for k, v in row.items()))
    if config.csv:
        with config.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    process.prepare()
    cli.run(main, Config(), __doc__)
