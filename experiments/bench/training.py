"""Whole training of each algorithm on a cheap task, a middle one and Pong.

Each run has a process of its own. Its rate is the median over its log's lines once it learns, but
the first two, in which programs are compiled. The ceiling on the cheap tasks is EnvPool alone. On
Pong, where the networks are what takes the time, it is their sum: the rate of a run that did
nothing but step EnvPool, act and learn, one after the other, each as fast as it is alone.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.figures import Figure, Setting
from experiments.bench.whole_run import MARK

PIXELS = "Pong-v5"
SHORT = "--eval-episodes 1 --max-episode-steps 100"
QUICK = "--env-steps 30720 --log-every 5120 --eval-episodes 1"


class Run(NamedTuple):
    """A training run to measure."""

    task: str
    algorithm: str
    words: str  # of the command line
    environments: str = ""  # how many, where it is not the preset's
    bar: float | None = None  # of EnvPool's rate


RUNS = (
    Run("CartPole-v1", "impala", "--env-steps 600000 --log-every 30000"),
    Run("CartPole-v1", "ppo", "--env-steps 400000 --log-every 24000"),
    Run("CartPole-v1", "r2d2", "--env-steps 100000 --log-every 8000"),
    # With so many, handing over between threads counts for less.
    Run(
        "CartPole-v1",
        "impala",
        "--num-envs 1024 --batch-size 128 --learning-rate 1e-3 "
        "--env-steps 1200000 --log-every 60000",
        "1024 environments",
        0.4,
    ),
    Run(
        "CartPole-v1",
        "ppo",
        "--num-envs 2048 --unroll-length 16 --refresh-steps 16 --learning-rate 3e-3 "
        "--env-steps 1000000 --log-every 64000",
        "2048 environments",
        0.25,
    ),
    Run("MiniGrid-MemoryS7-v0", "impala", "--env-steps 300000 --log-every 20000"),
    Run("MiniGrid-MemoryS7-v0", "ppo", "--env-steps 150000 --log-every 10000"),
    Run("MiniGrid-MemoryS7-v0", "r2d2", "--env-steps 40000 --log-every 3000"),
    Run(
        PIXELS,
        "impala",
        "--torso nature --hidden-size 512 --num-envs 32 --actors 2 "
        "--env-steps 10240 --log-every 1280",
    ),
    Run(
        PIXELS,
        "ppo",
        "--num-envs 8 --unroll-length 128 --refresh-steps 128 --env-steps 9216 --log-every 1024",
    ),
    Run(
        PIXELS,
        "r2d2",
        "--num-envs 20 --replay-capacity 20000 --learning-starts 1700 --batch-size 8 "
        "--env-steps 8000 --log-every 800",
    ),
)


def measure(run: Run, words: str) -> dict[str, Any]:
    """What whole_run tells of a run, and the lines of its log in which it learns.

    Raises:
      RuntimeError: the run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.bench.whole_run"]
        command += [run.algorithm, "--env", run.task, *words.split(), "--run-dir", f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        text = Path(folder, "run/metrics.jsonl").read_text()
    marked = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    lines = [json.loads(line) for line in text.splitlines()]
    learning = [line for line in lines if line["learner_steps"] > 0][2:]
    return json.loads(marked[-1].removeprefix(MARK)) | {"lines": learning}


def rate(done: dict[str, Any]) -> float:
    """Environment steps per second of what measure returned: the median over its lines."""
    return float(np.median([line["env_steps_per_second"] for line in done["lines"]]))


def figures(setting: Setting) -> Iterator[Figure]:
    for run in RUNS[:1] if setting.quick else RUNS:
        repeats = setting.samples(3 if run.task.startswith("CartPole") else 2)
        words = QUICK if setting.quick else f"{run.words} {SHORT}"
        done = [measure(run, words) for _ in range(repeats)]
        lines = [line for one in done for line in one["lines"]]
        rates = [rate(one) for one in done]
        ceiling = [d["sum" if run.task == PIXELS else "alone"] for d in done]
        what = "sum of parts" if run.task == PIXELS else "EnvPool"
        shares = {
            name[5:]: float(np.median([line[name] for line in lines]))
            for name in lines[0]
            if name.startswith("time/")
        }
        name, task = run.algorithm, ", ".join(filter(None, (run.task, run.environments)))
        yield Figure("training", name, task, "steps/s", rates, ceiling, what, run.bar, shares)
        yield Figure("training", f"{name} memory", task, "MB", [d["memory"] for d in done])
