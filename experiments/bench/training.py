"""Whole training of each algorithm on a cheap task, a middle one and Pong.

Each run has a process of its own. Its rate is the median over its log's lines once it learns, but
the first two, in which programs are compiled. The ceiling on the cheap tasks is EnvPool alone. On
Pong, where the networks are what takes the time, it is the sum of the parts: the rate of a run that
did nothing but step EnvPool, act and learn, one after the other, each as fast as it is alone.
"""

import contextlib
import io
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.bench.figures import Figure
from experiments.bench.parts import seconds_per_step
from experiments.bench.processes import peak_memory, stream
from rlsys import algorithms
from rlsys.running import metrics_file
from rlsys.running.algorithm import FromSamples

CHEAP, MIDDLE, PIXELS = "CartPole-v1", "MiniGrid-MemoryS7-v0", "Pong-v5"
# With so many environments, handing over between threads counts for less.
MANY_IMPALA, MANY_PPO = f"{CHEAP}, 1024 environments", f"{CHEAP}, 2048 environments"
BARS = {MANY_IMPALA: 0.4, MANY_PPO: 0.25}  # of EnvPool's rate
# Words of the command line: of every algorithm, of those with a replay on Pong, and of some others.
SIZES = {
    CHEAP: "--env-steps 100000 --log-every 8000",
    MIDDLE: "--env-steps 40000 --log-every 3000",
    PIXELS: "--num-envs 20 --env-steps 8000 --log-every 800",
}
SMALL = " --replay-capacity 20000 --learning-starts 1700 --batch-size 8"
OTHERS = {
    (CHEAP, "impala"): "--env-steps 600000 --log-every 30000",
    (CHEAP, "ppo"): "--env-steps 400000 --log-every 24000",
    (MANY_IMPALA, "impala"): "--num-envs 1024 --batch-size 128 --learning-rate 1e-3 "
    "--env-steps 1200000 --log-every 60000",
    (MANY_PPO, "ppo"): "--num-envs 2048 --unroll-length 16 --refresh-steps 16 --learning-rate 3e-3 "
    "--env-steps 1000000 --log-every 64000",
    (MIDDLE, "impala"): "--env-steps 300000 --log-every 20000",
    (MIDDLE, "ppo"): "--env-steps 150000 --log-every 10000",
    (PIXELS, "impala"): "--torso nature --hidden-size 512 --num-envs 32 --actors 2 "
    "--env-steps 10240 --log-every 1280",
    (PIXELS, "ppo"): "--num-envs 8 --unroll-length 128 --refresh-steps 128 "
    "--env-steps 9216 --log-every 1024",
}
SHORT = "--eval-episodes 1 --max-episode-steps 100"
QUICK = "--env-steps 30720 --log-every 5120 --eval-episodes 1"


def runs() -> dict[tuple[str, str], str]:
    """Return the words of every run, by task and algorithm."""
    words = dict(OTHERS)
    for task, name in itertools.product(SIZES, algorithms.NAMES):
        replays = isinstance(algorithms.find(name).learning, FromSamples)
        words.setdefault((task, name), SIZES[task] + SMALL * (replays and task == PIXELS))
    return words


def measure(name: str, words: list[str]) -> Iterator[dict[str, float]]:
    """Train as `python -m rlsys.train` does, then time the parts of the run alone.

    Yields:
      once, medians over the log's lines: env_steps_per_second and the shares of time; memory, the
      most that training held, in MB; alone, environment steps per second of EnvPool; and sum, those
      of EnvPool, acting and learning, one after the other.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = algorithms.config_of(name, [*words, "--run-dir", f"{folder}/run"], on_cpu=False)
        algorithms.find(name).train(config)
        lines = [line for line in metrics_file.read(Path(folder, "run")) if line["learner_steps"]]
    keys = [key for key in lines[-1] if key.startswith("time/")] + ["env_steps_per_second"]
    medians = {key: float(np.median([line.get(key, 0.0) for line in lines[2:]])) for key in keys}
    memory = peak_memory()
    parts = seconds_per_step(name, config, "alone act learn", 3, 0.5)
    least = {part: float(seconds.min()) for part, seconds in parts.items()}
    ceilings = {"alone": 1.0 / least["alone"], "sum": 1.0 / sum(least.values())}
    yield medians | ceilings | {"memory": memory}


def measured(task: str, name: str, words: str) -> dict[str, float]:
    """Return what a run comes to in a process of its own, as measure says.

    Raises:
      RuntimeError: the run failed.
    """
    (numbers,) = stream(measure, name, ["--env", task.partition(",")[0], *words.split()])
    return numbers


def figures(quick: bool) -> Iterator[Figure]:
    for task, name in list(runs())[:1] if quick else runs():
        words = QUICK if quick else f"{runs()[task, name]} {SHORT}"
        repeats = 3 if task.startswith(CHEAP) and not quick else 2
        done = [measured(task, name, words) for _ in range(repeats)]
        numbers = {key: [one[key] for one in done] for key in done[0]}
        rates, ceiling, what = numbers["env_steps_per_second"], numbers["alone"], "EnvPool"
        if task == PIXELS:
            ceiling, what = numbers["sum"], "sum of parts"
        spent = {key.removeprefix("time/"): x for key, x in numbers.items() if "time/" in key}
        where = {key: float(np.median(x)) for key, x in spent.items()}
        bar = BARS.get(task)
        yield Figure("training", name, task, "steps/s", rates, ceiling, what, bar, where)
        yield Figure("training", f"{name} memory", task, "MB", numbers["memory"])
