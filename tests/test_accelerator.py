"""The check of an accelerator: it finds a wrong result, and runs on a CPU too."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import experiments
from experiments.accelerator import __main__ as accelerator
from experiments.accelerator import equations
from experiments.bench import report


def test_distance():
    tree = {"a": np.float32([3.0, 4.0]), "n": np.int32(7)}
    other = {"a": np.float32([3.0, 4.5]), "n": np.int32(9)}
    assert equations.distance(tree, tree) == 0.0
    np.testing.assert_allclose(equations.distance(other, tree), 0.1)


def test_every_equation_is_near_the_cpus_in_float64_and_a_wrong_one_is_not(monkeypatch):
    monkeypatch.setattr(equations.algorithms, "NAMES", ())
    figures = [*equations.equations(False, 0.0)]
    assert {f.name for f in figures} == set(equations.pure()) and len(figures) >= 16
    assert not any(report.below_bar(f) for f in figures)

    honest = equations.pure()
    function, arrays = honest["GAE"]

    def rounded(*x):  # as hardware would that multiplies in bfloat16
        return function(*(y.astype("bfloat16").astype(y.dtype) if y.dtype == "float32" else y
                          for y in x))  # fmt: skip

    monkeypatch.setattr(equations, "pure", lambda: {"GAE": (rounded, arrays)})
    assert all(report.below_bar(f) for f in equations.equations(False, 0.0))


@pytest.mark.slow
def test_the_whole_command(tmp_path):
    words = f"-m experiments.accelerator --quick True --seconds 3 --csv {tmp_path}/found.csv"
    done = subprocess.run(
        [sys.executable, *words.split()], cwd=Path(experiments.__path__[0]).parent,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There is no accelerator" in done.stdout
    rows = [*csv.DictReader((tmp_path / "found.csv").open())]
    assert {row["section"] for row in rows} == set(accelerator.SECTIONS)
    assert all(float(row["median"]) > 0 for row in rows if row["section"] != "equations")
    assert "| training |" in (tmp_path / "found.md").read_text()
