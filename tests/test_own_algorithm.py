"""An algorithm of the user's own is found by its module, and all commands take it."""

import json
import sys

import jax
import numpy as np
import pytest
from test_train import play

from rlsys import algorithms, cli
from rlsys.running.checkpoint import Checkpoints
from rlsys.sweep.__main__ import main as sweep_main
from rlsys.types import UserError

OWN = "experiments.own_algorithm"
SHORT = "--num-envs 8 --log-every 400 --checkpoint-every 400 --eval-episodes 8"


def score(folder):
    content = json.loads((folder / "evaluation.json").read_text())
    return content["results"][content["score"]]["mean"]


@pytest.mark.slow
def test_it_learns_catch(tmp_path):
    """A policy at random catches a third of the balls: its mean return is about -0.6."""
    assert play(OWN, "--env-steps", 120_000, "--run-dir", tmp_path / "run") == 0
    assert score(tmp_path / "run") > 0.5


def test_its_runs_are_played_exported_and_gone_on_with(tmp_path):
    folder = tmp_path / "run"
    assert play(OWN, *SHORT.split(), "--env-steps", 400, "--run-dir", folder) == 0
    assert json.loads((folder / "config.json").read_text())["algorithm"] == OWN
    assert play("resume", folder, "--env-steps", 800) == 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["env_steps"] == 800
    assert play("eval", folder, "--episodes", 2, "--gif", False) == 0
    assert play("export", folder, "--out", tmp_path / "policy.zip") == 0


@pytest.mark.slow
def test_it_normalizes_observations_if_asked_to(tmp_path):
    words = f"{OWN} {SHORT} --env CartPole-v1 --env-steps 400 --normalize-observations True"
    assert play(*words.split(), "--run-dir", tmp_path / "run") == 0
    _, trees, _ = Checkpoints(tmp_path / "run/checkpoints").restore({"learner": None})
    statistics = jax.tree.leaves(trees["learner"]["params"]["statistics"])
    assert any(np.max(np.abs(x)) > 100 for x in statistics)  # the number of observations seen


@pytest.mark.slow
def test_a_sweep_takes_it(tmp_path):
    words = (
        f"{OWN} {SHORT} --env-steps 400 --learning-rate 1e-3 3e-3 --run-dir {tmp_path / 'sweep'}"
    )
    assert cli.exit_code(lambda: sweep_main(words.split())) == 0
    assert (tmp_path / "sweep/members/1/evaluation.json").exists()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("nowhere.mine", None, "there is no module 'nowhere.mine'"),
        ("papo", None, "there is no algorithm 'papo'; the nearest: ppo"),
        ("mine..", None, "there is no module 'mine..'"),
        ("mine_empty", "", "the module mine_empty has no ALGORITHM"),
        ("mine_wrong", "ALGORITHM = 1", "the module mine_wrong has no ALGORITHM"),
        (
            "mine_named",
            "from rlsys.algorithms.ppo import ALGORITHM",
            "ALGORITHM of the module mine_named needs name='mine_named'",
        ),
    ],
)
def test_what_is_no_algorithm_is_refused(name, content, message, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        algorithms.find(name)
    sys.modules.pop(name, None)


def test_an_error_in_its_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "mine_broken.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        algorithms.find("mine_broken")
