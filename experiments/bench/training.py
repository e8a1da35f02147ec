"""Whole training of each algorithm on a cheap task, a middle one and Pong.

Each run has a process of its own. Its rate is the median over its log's lines once it learns, but
the first two, in which programs are compiled. The ceiling on the cheap tasks is EnvPool alone. On
Pong, where the networks are what takes the time, it is the sum of the parts: the rate of a run that
did nothing but step EnvPool, act and learn, one after the other, each as fast as it is alone.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.bench.figures import Figure
from experiments.bench.parts import seconds_per_step
from experiments.bench.processes import peak_memory, stream
from rlsys import algorithms
from rlsys.running import metrics_file

SHORT = "--eval-episodes 1 --max-episode-steps 100"
QUICK = "--env-steps 30720 --log-every 5120 --eval-episodes 1"
# With so many environments, handing over between threads counts for less.
MANY_IMPALA, MANY_PPO = "CartPole-v1, 1024 environments", "CartPole-v1, 2048 environments"
BARS = {MANY_IMPALA: 0.4, MANY_PPO: 0.25}  # of EnvPool's rate
RUNS = {
    ("CartPole-v1", "impala"): "--env-steps 600000 --log-every 30000",
    ("CartPole-v1", "ppo"): "--env-steps 400000 --log-every 24000",
    ("CartPole-v1", "r2d2"): "--env-steps 100000 --log-every 8000",
    (MANY_IMPALA, "impala"): "--num-envs 1024 --batch-size 128 --learning-rate 1e-3 "
    "--env-steps 1200000 --log-every 60000",
    (MANY_PPO, "ppo"): "--num-envs 2048 --unroll-length 16 --refresh-steps 16 --learning-rate 3e-3 "
    "--env-steps 1000000 --log-every 64000",
    ("MiniGrid-MemoryS7-v0", "impala"): "--env-steps 300000 --log-every 20000",
    ("MiniGrid-MemoryS7-v0", "ppo"): "--env-steps 150000 --log-every 10000",
    ("MiniGrid-MemoryS7-v0", "r2d2"): "--env-steps 40000 --log-every 3000",
    ("Pong-v5", "impala"): "--torso nature --hidden-size 512 --num-envs 32 --actors 2 "
    "--env-steps 10240 --log-every 1280",
    ("Pong-v5", "ppo"): "--num-envs 8 --unroll-length 128 --refresh-steps 128 "
    "--env-steps 9216 --log-every 1024",
    ("Pong-v5", "r2d2"): "--num-envs 20 --replay-capacity 20000 --learning-starts 1700 "
    "--batch-size 8 --env-steps 8000 --log-every 800",
}  # words of the command line, by task and algorithm
# An algorithm that is not in RUNS gets these, and numbers of its preset that are not above SMALL.
SIZES = {
    "CartPole-v1": "--env-steps 100000 --log-every 8000",
    "MiniGrid-MemoryS7-v0": "--env-steps 40000 --log-every 3000",
    "Pong-v5": "--num-envs 20 --env-steps 8000 --log-every 800",
}
SMALL = {"replay_capacity": 20_000, "learning_starts": 1_700, "batch_size": 64}


class Measured(NamedTuple):
    """What a run and its parts came to."""

    lines: list[dict[str, float]]  # of the log, in which it learns and nothing is compiled
    memory: float  # MB, the most that training held
    alone: float  # environment steps per second of EnvPool
    sum_of_parts: float  # the same of EnvPool, acting and learning, one after the other

    @property
    def rate(self) -> float:
        """Environment steps per second of training: the median over its log's lines."""
        return float(np.median([line["env_steps_per_second"] for line in self.lines]))


def runs() -> dict[tuple[str, str], str]:
    """Return the words of every run, by task and algorithm."""
    others = {}
    for task, size in SIZES.items():
        for name in algorithms.NAMES:
            if (task, name) not in RUNS:
                config = algorithms.config_of(name, ["--env", task], on_cpu=False)
                small = [f"--{k} {v}" for k, v in SMALL.items() if getattr(config, k, 0) > v]
                others[task, name] = " ".join([size, *small])
    return RUNS | others


def measure(name: str, words: list[str]) -> Iterator[Measured]:
    """Train as `python -m rlsys.train` does, then time the parts alone; yield what was measured."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = algorithms.config_of(name, [*words, "--run-dir", f"{folder}/run"], on_cpu=False)
        algorithms.find(name).train(config)
        lines = [line for line in metrics_file.read(Path(folder, "run")) if line["learner_steps"]]
    memory = peak_memory()
    seconds = seconds_per_step(name, config, "alone act learn", 3, 0.5)
    least = {part: x.min() for part, x in seconds.items()}
    yield Measured(lines[2:], memory, 1.0 / least["alone"], 1.0 / sum(least.values()))


def measured(task: str, name: str, words: str) -> Measured:
    """Return what a run comes to in a process of its own.

    Raises:
      RuntimeError: the run failed.
    """
    env = ["--env", task.partition(",")[0]]
    (one,) = stream(measure, name, [*env, *words.split()])
    return one


def figures(quick: bool) -> Iterator[Figure]:
    for task, name in list(runs())[:1] if quick else runs():
        words = QUICK if quick else f"{runs()[task, name]} {SHORT}"
        repeats = 3 if task.startswith("CartPole") and not quick else 2
        done = [measured(task, name, words) for _ in range(repeats)]
        ceiling_is, ceiling = "EnvPool", [one.alone for one in done]
        if task == "Pong-v5":
            ceiling_is, ceiling = "sum of parts", [one.sum_of_parts for one in done]
        lines = [line for one in done for line in one.lines]
        spent = [key for key in lines[0] if key.startswith("time/")]
        shares = {x.removeprefix("time/"): float(np.median([y[x] for y in lines])) for x in spent}
        rates, memory = [one.rate for one in done], [one.memory for one in done]
        yield Figure("training", name, task, "steps/s", rates, ceiling, ceiling_is, BARS.get(task),
                     shares)  # fmt: skip
        yield Figure("training", f"{name} memory", task, "MB", memory)
