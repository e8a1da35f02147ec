"""A run bears odd surroundings: 64 bits asked for, no home, no temporary folder, no colours."""

import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

import rlsys
from rlsys import algorithms, cli, train
from rlsys.envs import check
from rlsys.running import process
from rlsys.types import UserError
from tests.test_train import REPLAYS, checkpoint, command, logged, play

WORDS = ["r2d2", *REPLAYS["r2d2"], "--env-steps", 800]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A run in ordinary surroundings."""
    folder = tmp_path_factory.mktemp("ordinary") / "run"
    assert play(*WORDS, "--run-dir", folder) == 0
    return folder


@pytest.mark.slow
def test_a_run_in_odd_surroundings_equals_another(ordinary, tmp_path):
    """To the bit; R2D2 did not compile with JAX_ENABLE_X64=1."""
    cache = process.cache_folder()  # or it compiles for half a minute; see below for none
    env = {**os.environ, "XDG_CACHE_HOME": str(cache.parent) if cache else ""}
    env |= {"JAX_ENABLE_X64": "1", "HOME": "/proc/none", "TMPDIR": "/nonexistent", "TERM": "dumb"}
    env |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "40", "NO_COLOR": "1"}
    env |= {"PYTHONPATH": str(Path(train.__file__).parents[1])}
    done = subprocess.run(
        command(*WORDS, "--run-dir", "a née run"), cwd=tmp_path, env=env, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "JAX_ENABLE_X64 is ignored: rlsys computes in 32 bits.\n"
    assert r"a n\xe9e run: config.json" in done.stdout
    one, other = checkpoint(ordinary), checkpoint(tmp_path / "a née run")
    assert one[2] == other[2]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])
    assert jax.tree.map(lambda x: x.dtype, one[1]) == jax.tree.map(lambda x: x.dtype, other[1])
    assert logged(ordinary) == logged(tmp_path / "a née run")


def test_a_program_in_64_bits_is_told_before_it_trains(tmp_path):
    algorithm = algorithms.find("ppo")
    with jax.enable_x64(True), pytest.raises(UserError, match="rlsys trains in 32 bits, and jax"):
        algorithm.train(algorithm.Config(run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_policy_plays_alike_in_a_program_in_64_bits(ordinary, tmp_path):
    assert play("export", ordinary, "--out", tmp_path / "policy.zip") == 0

    def actions():
        policy = rlsys.load_policy(tmp_path / "policy.zip", "ladder")
        policy.reset(64, seed=3)
        draw = np.random.default_rng(0)
        space = policy.observation_space
        for _ in range(5):
            obs = draw.random((64, *space.shape)).astype(space.dtype)
            yield policy.act(obs, draw.random(64))

    with jax.enable_x64(True):
        wide = [*actions()]
        assert jax.numpy.zeros(1).dtype == np.float64
    for one, other in zip(wide, actions(), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("home", ["", "/proc/none", "file"])
def test_without_a_folder_for_it_no_program_is_kept(home, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert process.cache_folder() == tmp_path / ".cache/rlsys"
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if not home:  # nor an entry for the user
        monkeypatch.delenv("HOME")

        def unknown(uid):
            raise KeyError(uid)

        monkeypatch.setattr("pwd.getpwuid", unknown)
    assert process.cache_folder() is None


def test_a_folder_that_cannot_be_written_is_named(capfd):
    def write():
        raise PermissionError(13, "Permission denied", "runs/report")

    assert cli.exit_code(write) == 2
    assert capfd.readouterr().err == "rlsys: runs/report: Permission denied.\n"


@pytest.mark.parametrize(("field", "value"), [("num_envs", 0), ("seed", -1), ("steps", 0)])
def test_the_check_of_environments_refuses_numbers_by_name(field, value, capfd):
    config = check.Config("Catch-v0", **{field: value})
    assert cli.exit_code(lambda: check.main(config)) == 2
    assert capfd.readouterr().err.startswith(f"rlsys: {field} must be ")
