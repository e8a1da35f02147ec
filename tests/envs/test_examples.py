"""The examples of an environment of one's own train, learn, resume, sweep and are recorded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from environments import assert_same, make, play
from PIL import Image

from rlsys import cli, train
from rlsys.results import evaluations
from rlsys.running.checkpoint import Checkpoints
from rlsys.sweep import __main__ as sweep

ROOT = Path(__file__).parents[2]
GYMNASIUM = "gymnasium/experiments.own_gymnasium_env:Corridor-v0"
JAX = "jax/experiments.own_jax_env:Reach"
LEARNED = {GYMNASIUM: 0.5, JAX: -6.0}  # a mean return that random actions are far from
SMALL = (
    "--num-envs 32 --unroll-length 16 --refresh-steps 16 --sequence-length 16 --minibatches 4 "
    "--discount 0.95 --log-every 2048 --checkpoint-every 4096 --eval-episodes 32 --unrolls-ahead 0"
).split()


def run(*words, main=train.main):
    """As the command, in this process; gives the exit code."""
    return cli.exit_code(lambda: main([str(word) for word in words]))


def ppo(env, folder, env_steps, *words, main=train.main):
    steps = ("--env-steps", env_steps, "--run-dir", folder)
    return run("ppo", "--env", env, *SMALL, *steps, *words, main=main)


def score(folder):
    found = json.loads((folder / "evaluation.json").read_text())
    return found["results"][found["score"]]


@pytest.mark.parametrize(
    "env, words",
    [
        (GYMNASIUM, ()),
        pytest.param(JAX, (), marks=pytest.mark.slow),
        pytest.param(JAX, ("--policy", "gaussian"), marks=pytest.mark.slow),
    ],
)
def test_training_learns_and_eval_records_a_gif(tmp_path, env, words):
    random = make(env, 64, 0)
    play(random, 200)
    assert np.mean([e.episode_return for e in random.pop_episodes()]) < 2 * LEARNED[env] - 1
    folder = tmp_path / "run"
    assert ppo(env, folder, 10_240, *words) == 0
    assert score(folder)["mean"] > LEARNED[env]
    assert run("eval", folder, "--episodes", "5") == 0
    assert score(folder)["episodes"] == 32 and evaluations.read(folder)[1]["episodes"] == 5
    with Image.open(folder / "episode.gif") as gif:
        above_the_words = np.asarray(gif.convert("RGB"))[:16]
        assert above_the_words.max((0, 1)).tolist() == [255, 255, 0]


def learned(folder):
    """The arrays of a run's newest checkpoint that the learner has made; keys as numbers."""
    tree = Checkpoints(folder / "checkpoints").restore({"learner": None})[1]["learner"]
    is_key = [jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(tree)]
    leaves = zip(jax.tree.leaves(tree), is_key, strict=True)
    return [jax.random.key_data(x) if key else x for x, key in leaves]


@pytest.mark.parametrize("env", [GYMNASIUM, f"{JAX}:max_episode_steps=9"])
@pytest.mark.slow
def test_resumed_equals_never_stopped(tmp_path, env):
    constant = ("--learning-rate-decay", "0")  # else it depends on where the run was to end
    assert ppo(env, tmp_path / "whole", 8192, *constant) == 0
    assert ppo(env, tmp_path / "parts", 4096, *constant) == 0
    assert len(learned(tmp_path / "parts")) > 10
    with pytest.raises(AssertionError):
        assert_same(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    assert run("resume", tmp_path / "parts", "--env-steps", "8192") == 0
    assert_same(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    assert score(tmp_path / "parts") == score(tmp_path / "whole")


@pytest.mark.parametrize("env", [GYMNASIUM, JAX])
@pytest.mark.slow
def test_a_sweep_of_two_seeds(tmp_path, env):
    folder = tmp_path / "sweep"
    assert ppo(env, folder, 10_240, "--seeds", "2", main=sweep.main) == 0
    scores = [score(folder / "members" / str(i)) for i in range(2)]
    assert min(s["mean"] for s in scores) > LEARNED[env] and scores[0] != scores[1]


def test_an_environment_that_fails_ends_the_run_with_a_sentence(tmp_path, capfd):
    """Its own error is said, and where it was raised, by whichever thread was playing."""
    folder = tmp_path / "run"
    env = "gymnasium/gymnasium_fakes:Failing_step-v0"
    assert ppo(env, folder, 4096, "--unrolls-ahead", "2") == 2
    assert "failed in step: ZeroDivisionError: the wheel came off (gymnas" in capfd.readouterr().err


@pytest.mark.slow
def test_without_a_picture_eval_says_so(tmp_path, capfd):
    folder = tmp_path / "run"
    assert ppo("jax/jax_fakes:own", folder, 1024) == 0
    assert run("eval", folder, "--episodes", "3") == 0
    assert "no gif: 'jax/jax_fakes:own' cannot be drawn here" in capfd.readouterr().out
    assert not (folder / "episode.gif").exists() and (folder / "evaluation.json").exists()


def latest(folder):
    """The number of a run's newest checkpoint, 0 before the first."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


@pytest.mark.slow
def test_ctrl_c_stops_a_run_of_environments_in_processes(tmp_path):
    """The signal goes to every process of the terminal; the environments' live on until the end."""
    words = ["ppo", "--env", f"{GYMNASIUM}:processes=true", *SMALL, "--num-envs", "2"]
    words += ["--env-steps", "1000000", "--minibatches", "1", "--log-every", "64"]
    words += ["--checkpoint-every", "128"]  # environments start afresh there
    process = subprocess.Popen(
        [sys.executable, "-m", "rlsys.train", *words, "--run-dir", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},  # one device
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/metrics.jsonl").exists() or not latest(tmp_path / "run"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert errors.count("\n") <= 1 and "SIGINT: the run stops" in errors, errors
    assert "SIGINT: saving a checkpoint" in output and "make resume" in output
