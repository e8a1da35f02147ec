"""The loop of training, once it is warm: it compiles nothing, moves nothing to a device unasked,
and its memory does not grow."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsys import train
from rlsys.acting import actors
from rlsys.running.log import Log
from tests.test_train import OTHERS, WORDS

COMPILE = "/jax/core/compile/backend_compile_duration"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("r2d2", "apex", "impala")]
STEPS = 4400  # three checkpoints or more, and as many lines of the log between them


def words(algorithm, folder, ahead):
    more = ["--env-steps", STEPS, "--unrolls-ahead", ahead, "--run-dir", folder]
    return [str(x) for x in (algorithm, *WORDS[algorithm], *more)]


@pytest.fixture
def compiled():
    """Names of the functions compiled so far, whether or not they were found in the cache."""
    names = []

    def listen(event, _, **about):
        if event == COMPILE:
            names.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def lines(monkeypatch):
    """Gives a list of functions to call with (env_steps, learner_steps) at each line of the log."""
    calls = []
    write = Log.write

    def writing(self, env_steps, learner_steps, scalars, **options):
        write(self, env_steps, learner_steps, scalars, **options)
        for call in calls:
            call(env_steps, learner_steps)

    monkeypatch.setattr(Log, "write", writing)
    return calls


def compiled_when_warm(folder, algorithm, ahead, compiled, lines):
    """Names of what a run compiles between its first line with updates and its last one."""
    counts = []
    lines.append(lambda _, updates: counts.append(len(compiled)) if updates else None)
    train.main(words(algorithm, folder, ahead))
    assert len(counts) > 6
    assert counts[0] > 0
    assert len(list((folder / "checkpoints").iterdir())) >= 2
    return compiled[counts[0] : counts[-1]]


@contextlib.contextmanager
def guarded(lines):
    """Refuses implicit transfers to devices, of all threads, from the second line with updates on.

    On a CPU those from devices are none: numpy sees the same memory.
    """
    seen = []

    def guard(env_steps, learner_steps):
        seen.append(learner_steps > 0)
        on = sum(seen) >= 2 and env_steps < STEPS
        jax.config.update("jax_transfer_guard_host_to_device", "disallow" if on else "allow")

    lines.append(guard)
    try:
        yield seen
    finally:
        jax.config.update("jax_transfer_guard_host_to_device", "allow")


@pytest.mark.parametrize("ahead", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("algorithm", ["ppo", *SLOW])
def test_a_warm_run_compiles_and_transfers_nothing(tmp_path, algorithm, ahead, compiled, lines):
    """Transfers are those unasked for; checkpoints and fresh environments included."""
    with guarded(lines) as seen:
        assert compiled_when_warm(tmp_path / "run", algorithm, ahead, compiled, lines) == []
    assert sum(seen) > 6


@pytest.mark.slow
def test_a_shape_that_changes_is_compiled_for(tmp_path, monkeypatch, compiled, lines):
    """And told of by the test above."""
    calls, unroll = [], actors.unroll

    def changing(*args):
        trajectory, state = unroll(*args)
        calls.append(0)
        if len(calls) > 40:
            steps = trajectory.steps
            steps = steps._replace(reward=np.asarray(steps.reward, np.float16))
            trajectory = trajectory._replace(steps=steps)
        return trajectory, state

    monkeypatch.setattr(actors, "unroll", changing)
    assert compiled_when_warm(tmp_path / "run", "impala", 0, compiled, lines)


def test_a_transfer_unasked_is_refused(tmp_path, monkeypatch, lines):
    """And told of by the test above."""
    write = Log.write

    def careless(self, env_steps, learner_steps, scalars, **options):
        more = {"mean": jax.jit(jnp.negative)(np.float32(1))}
        write(self, env_steps, learner_steps, scalars | more, **options)

    with guarded(lines) as seen, pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
        monkeypatch.setattr(Log, "write", careless)
        train.main(words("impala", tmp_path / "run", 0))
    assert sum(seen) == 2


MEMORY = """
import sys, psutil
from rlsys import train
from rlsys.running import process
from rlsys.running.log import Log

write = Log.write

def writing(self, env_steps, *rest, **options):
    write(self, env_steps, *rest, **options)
    print("rss", env_steps, psutil.Process().memory_info().rss, flush=True)

Log.write = writing
process.prepare()
train.main(sys.argv[1:])
"""
GROWTH = 12e6  # bytes from 300,000 steps to a million: the log's own lists of episodes, arenas


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", OTHERS)
def test_memory_does_not_grow(tmp_path, algorithm):
    """Over a million steps of cart-pole, a checkpoint among them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}
    environment.pop("XLA_FLAGS", None)  # one device: the loop, not the simulation of four
    command = [sys.executable, "-c", MEMORY, algorithm, "--env-steps", "1000000"]
    command += ["--log-every", "50000", "--checkpoint-every", "400000", "--eval-episodes", "1"]
    command += ["--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    held = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("rss ")]
    steps, rss = np.array(held, float).T
    print(rss / 1e6)
    early, late = rss[np.searchsorted(steps, 3e5)], rss[-1]
    assert late - early < GROWTH, rss / 1e6
