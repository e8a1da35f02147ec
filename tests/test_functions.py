"""The study of pure functions beside rlax's: both compute the same, and a quick run."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import functions

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rlax.softmax's


def functions_with_peers():
    pairs = functions.pairs(functions.data(20, 8))
    return {name: pair for name, pair in pairs.items() if pair.theirs}


@pytest.mark.parametrize("name", functions_with_peers())
def test_peers_compute_the_same(name):
    """Else their times say nothing. rlax's h is the coarser one (losses/value_rescaling.py)."""
    ours, theirs, arguments = functions_with_peers()[name]
    results = [jax.tree.leaves(jax.jit(f)(*arguments)) for f in (ours, theirs)]
    if name.startswith("n_step"):  # they bootstrap otherwise past the end
        results = [[x[: -functions.N] for x in r] for r in results]
    if name == "vtrace":  # theirs gives errors, ours targets
        results[1] = [results[1][0] + arguments[0], results[1][1]]
    for mine, other in zip(*results, strict=False):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    command = [sys.executable, "-m", "experiments.functions", "--quick", "True"]
    root = Path(functions.__file__).parents[1]
    done = subprocess.run(
        [*command, "--csv", str(tmp_path / "a.csv")], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "a.json").read_text())["figures"]
    assert {"vtrace", "gae", "h"} <= {row["name"] for row in rows} and "vtrace" in done.stdout
    assert all(row["median"] > 0 and len(row["samples"]) == 2 for row in rows)
    assert {row["ceiling_is"] for row in rows} == {"rlax", "copy"}
