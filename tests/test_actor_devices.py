"""Whole runs that act on devices of their own: the same results, and they resume."""

import jax
import numpy as np
import pytest
from made_up import close

from rlsys import cli, train
from rlsys.running.checkpoint import Checkpoints

WORDS = (
    "--env Catch-v0 --num-envs 24 --actors 2 --hidden-size 16 --core-size 8 --head-size 16 "
    "--eval-episodes 1 --unroll-length 10 --refresh-steps 10 --env-steps 720 --log-every 240"
).split()
MORE = {
    "impala": ["--batch-size", "24"],
    "ppo": ["--sequence-length", "5", "--epochs", "2", "--minibatches", "2"],
    "r2d2": "--batch-size 12 --replay-capacity 4000 --learning-starts 600 --n 2".split(),
    "apex": "--batch-size 12 --replay-capacity 4000 --learning-starts 600 --core-size 0".split(),
}

LIKE_SGD = {
    "impala": "--optimizer rmsprop --rmsprop-decay 1.0 --optimizer-eps 1e-8 --learning-rate 0.1",
    "r2d2": "--adam-eps 1e6 --learning-rate 1e5",
    "apex": "--rmsprop-decay 1.0 --rmsprop-eps 1.0 --learning-rate 0.1",
}


def params_of(folder):
    return Checkpoints(folder / "checkpoints").restore({"learner": None})[1]["learner"]["params"]


def play(name, folder, *words):
    train.main([name, *WORDS, *MORE[name], "--run-dir", str(folder), *words])
    return params_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["impala", "r2d2", "apex"])
def test_results_do_not_depend_on_who_acts(name, tmp_path):
    """3 devices learn and one acts, or all 4 learn: the same but for rounding, by what is SGD: the
    root mean square never changes from its first value, or Adam's epsilon hides its own."""
    words = LIKE_SGD[name].split()
    split = play(name, tmp_path / "split", "--actor-devices", "1", *words)
    together = play(name, tmp_path / "together", *words)
    close(split, together, rtol=1e-3, atol=1e-5)
    biases = [x for x in jax.tree.leaves(split) if x.ndim == 1]  # which were 0
    assert np.abs(np.concatenate(biases)).max() > 1e-3


@pytest.mark.slow
def test_a_run_that_acts_elsewhere_resumes(tmp_path):
    words = "--actor-devices 2 --checkpoint-every 240 --learning-rate-decay 0".split()
    whole = play("ppo", tmp_path / "whole", *words)
    half = play("ppo", tmp_path / "half", *words, "--env-steps", "240")
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (whole, half)), strict=True))
    train.main(["resume", str(tmp_path / "half"), "--env-steps", "720"])
    jax.tree.map(np.testing.assert_array_equal, whole, params_of(tmp_path / "half"))


def test_what_remains_must_share_the_batch(tmp_path, capsys):
    words = ["impala", *WORDS, *MORE["impala"], "--num-envs", "32", "--batch-size", "32"]
    words += ["--actor-devices", "1", "--run-dir", str(tmp_path / "run")]
    assert cli.exit_code(lambda: train.main(words)) == 2
    assert "a batch of 32 cannot be split evenly over 3 devices" in capsys.readouterr().err
