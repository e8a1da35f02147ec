"""Signals end a run soon, whatever it is doing, and what it waits for is said at once."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.learning.sampler import Sampler
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.session import Session
from rlsys.running.signals import Signals
from tests.test_goes_on import PPO, meta_counters
from tests.test_train import REPLAYS, logged, metrics, play, start, wait_for


def terminate():
    """Sends SIGTERM to this process, as another one would, and lets it arrive."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)


def test_a_signal_is_answered_while_the_main_thread_computes(capfd):
    seen = []

    def send():
        time.sleep(0.1)
        terminate()
        seen.append(capfd.readouterr().err)

    with Signals() as signals, signals.during("an update"):
        thread = threading.Thread(target=send)
        thread.start()
        while not seen:  # in C, about a second at a time
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
            assert seen or signals.number == 0, "the answer comes before the main thread is back"
        thread.join()
    assert signals.number == signal.SIGTERM
    assert seen[0].startswith("SIGTERM: the run stops after an update (0 s so far; it is the first")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_what_is_waited_for_is_said_again(monkeypatch, capfd):
    monkeypatch.setattr("rlsys.running.signals.AGAIN", 0.1)
    with Signals() as signals:
        signals.begin_round()
        signals.begin_round()
        terminate()
        time.sleep(0.3)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) >= 3 and "the last round of unroll and updates took 0.0 s" in lines[0]
    assert all("SIGTERM: the run still waits for the updates or" in line for line in lines[1:])


def test_an_unroll_is_broken_off(tmp_path, capfd):
    """It would take a minute, and is played anew when the run goes on."""
    folder, steps, step = tmp_path / "run", [], EnvPoolEnvs.step

    def slow(self, action):
        steps.append(0)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return step(self, action)

    words = [*PPO, "--unroll-length", 600, "--refresh-steps", 600, "--env-steps", 9600]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnvPoolEnvs, "step", slow)
        words += ["--unrolls-ahead", 2, "--minibatches", 2, "--run-dir", folder]
        assert play(*words) == 3
    assert len(steps) < 60
    output = capfd.readouterr()
    assert "SIGTERM: the run stops after a step of the environments" in output.err
    assert f"make resume RUN={folder}" in output.out
    assert meta_counters(folder)["env_steps"] == 0 and not metrics(folder)
    assert play("resume", folder) == 0
    assert meta_counters(folder)["env_steps"] >= 9600
    assert all(line["learner_steps"] == line["env_steps"] / 600 for line in metrics(folder))


@pytest.mark.slow
def test_an_unroll_that_waits_for_the_updates_before_it_is_dropped(tmp_path, monkeypatch):
    folder, places, place = tmp_path / "run", [], Session.place

    def placing(self, *args):
        places.append(0)
        if len(places) == 4:
            terminate()
        return place(self, *args)

    monkeypatch.setattr(Session, "place", placing)
    assert play(*PPO, "--unrolls-ahead", 1, "--checkpoint-every", 960, "--run-dir", folder) == 3
    counters = meta_counters(folder)
    assert (counters["env_steps"], counters["learner_steps"]) == (240, 48)
    assert play("resume", folder) == 0
    steps = [(line["env_steps"], line["learner_steps"]) for line in logged(folder)]
    assert all(updates == played / 5 for played, updates in steps) and steps[-1][0] >= 960


@pytest.mark.slow
def test_updates_that_are_left_are_made_after_the_resume(tmp_path, monkeypatch):
    """And the replay takes up where it was: an unroll's x_0 follows the last step that it holds."""
    folder, updates, update = tmp_path / "run", [], Session.update
    added, add = [], Sampler.add

    def updating(self, *args):
        updates.append(0)
        if len(updates) == 3:
            time.sleep(1)  # the actors finish an unroll meanwhile, which is dropped
            terminate()
        return update(self, *args)

    def adding(self, trajectory):
        added.append(trajectory.steps.obs)
        add(self, trajectory)

    monkeypatch.setattr(Sampler, "add", adding)
    words = ["r2d2", *REPLAYS["r2d2"], "--env-steps", 800, "--replay-ratio", 40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "update", updating)
        words += ["--unrolls-ahead", 1]
        assert play(*words, "--run-dir", folder) == 3
    assert meta_counters(folder)["learner_steps"] == 3
    assert play("resume", folder) == 0
    assert metrics(folder)[-1]["replay_ratio"] == pytest.approx(20, rel=0.1)  # of all 800 steps
    assert len(added) >= 10
    for before, after in itertools.pairwise(added):
        np.testing.assert_array_equal(after[0], before[-1])


def test_nothing_is_saved_twice(tmp_path, monkeypatch):
    """A signal that comes while a checkpoint is saved finds all saved."""
    folder, save = tmp_path / "run", Checkpoints.save

    def saving(self, *args):
        save(self, *args)
        terminate()

    monkeypatch.setattr(Checkpoints, "save", saving)
    assert play(*PPO, "--run-dir", folder) == 3
    assert Checkpoints(folder / "checkpoints").numbers() == [1]
    assert [line["env_steps"] for line in metrics(folder)] == [80, 160, 240]


@pytest.mark.parametrize(
    "how", [["-m", "rlsys"], ["-c", "from rlsys.__main__ import start; start()"]]
)
def test_ctrl_c_ends_a_command_that_still_imports(tmp_path, how):
    """However it was started: the second is what the console script does."""
    jax = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    (tmp_path / "jax.py").write_text(jax)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}
    words = [sys.executable, *how, "train", "ppo"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT and done.stderr == ""


@pytest.mark.slow
def test_an_evaluation_ends_at_once(tmp_path):
    words = [*PPO, "--eval-episodes", 10**6, "--run-dir", "run"]
    process = start(*words, cwd=tmp_path)
    wait_for((tmp_path / "run/checkpoints/4").is_dir, process)
    time.sleep(0.5)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert time.monotonic() - begin < 10
    assert "make resume RUN=run" in output and "Traceback" not in output
