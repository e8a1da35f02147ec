"""experiments.kill finds a difference where there is one, and none where there is none."""

import csv
import os
import subprocess
import sys

import pytest
from test_install import ROOT

from experiments import kill


def test_what_differs_is_named():
    one = {"['learner'].params": ("<f4", (2,), b"01234567"), "line 0 loss": 1.0, "line 1 loss": 2.0}
    assert kill.differences(one, dict(one)) == []
    assert kill.differences(one, one | {"line 0 loss": 1.5}) == ["line 0 loss"]
    assert kill.differences(one, {**one, "line 2 loss": None}) == ["line 2 loss"]
    few = {name: value for name, value in one.items() if name != "line 1 loss"}
    assert kill.differences(one, few) == ["line 1 loss"]


@pytest.mark.slow
def test_a_run_that_was_killed_twice_equals_one_that_was_not(tmp_path):
    words = "--only ppo --kills 2 --env-steps 60000 --csv kill.csv --runs runs".split()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.kill", *words], cwd=tmp_path, env=env,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "kill.csv").open()))
    assert [row["kill"] for row in rows] == ["1", "2"]
    assert all(row["equal"] == "True" for row in rows)
