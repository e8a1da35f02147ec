"""Whole training of each algorithm on Pong, beside what `make plan` predicts."""

import contextlib
import dataclasses
import io
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import profile
from experiments.accelerator.settings import REPLAYS, SMALL, on_accelerator
from experiments.bench import parts
from experiments.bench.figures import Figure
from experiments.bench.processes import stream
from rlsys import algorithms
from rlsys.replay.memory import num_bytes
from rlsys.running import metrics_file, signals
from rlsys.types import Stopped


def training(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield what each algorithm reaches on Pong beside the plan, and what keeps the device busy."""
    for name in list(algorithms.NAMES)[: 1 if quick else None]:
        words = ["--env", "Pong-v5", "--max-episode-steps", "100", "--eval-episodes", "1"]
        if not on_accelerator():
            words += f"{SMALL.get(name, REPLAYS)} --num-envs 8 --actors 1".split()
        try:
            (numbers,) = stream(train, name, words, seconds)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            yield Figure("training", name, "Pong-v5", "steps/s", [0.0], [1.0], "what runs", 1.0)
            continue
        rate, where = [numbers["rate"]], {"idle": numbers["idle"], **numbers["where"]}
        expected = [planned(name, words)]
        yield Figure("training", name, "Pong-v5", "steps/s", rate, expected, "plan", where=where)
        copied = [numbers["copied"] / 1e6]
        yield Figure("training", f"{name}, copied", "of an update", "MB", copied)


def stop_when(folder: Path, seconds: float, ended: threading.Event) -> None:
    """Stop the run in `folder` so long after its programs are compiled."""
    if profile.wait_until_warm(folder, ended) and not ended.wait(seconds):
        signals.stop("measured")


def train(name: str, words: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Train for some seconds as `python -m rlsys.train` does, then time the parts alone.

    Yields:
      once, rate: environment steps a second, the median of the log's lines once it learns; where:
      shares of time by the log; idle: the share of time in which the device neither learns nor
      acts, by the times of both alone; copied: bytes of a batch that an update learns from.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        probe = [*words, "--log-every", "100000000", "--run-dir", f"{folder}/run"]
        config = algorithms.config_of(name, probe, on_cpu=False)
        env_steps = 2 * config.num_envs * config.unroll_length
        config = dataclasses.replace(config, log_every=env_steps, checkpoint_every=10**9)
        ended = threading.Event()
        threading.Thread(target=stop_when, args=(Path(folder, "run"), seconds, ended)).start()
        try:
            algorithms.find(name).train(config)
        except Stopped:
            pass
        finally:
            ended.set()
        lines = metrics_file.read(Path(folder, "run"))
    lines = [line for line in lines if line["learner_steps"]][profile.WARM - 1 :]

    def median(key: str) -> float:
        return float(np.median([line.get(key, 0.0) for line in lines]))

    rate = median("env_steps_per_second")
    spent = parts.seconds_per_step(name, config, "act learn", 3, 0.3)
    busy = rate * sum(float(x.min()) for x in spent.values())
    batch = parts.batch_of(*parts.play(name, config))
    yield {
        "rate": rate,
        "where": {key[5:]: median(key) for key in lines[-1] if key.startswith("time/")},
        "idle": max(1.0 - busy, 0.0),
        "copied": float(num_bytes(batch)),
    }


def planned(name: str, words: list[str]) -> float:
    """Return the environment steps a second that `make plan` predicts for this machine."""
    command = [sys.executable, "-m", "rlsys.plan", name, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"([\d,]+) steps/s", done.stdout)
    if not found:
        raise RuntimeError(f"make plan failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(found[-1].replace(",", ""))
