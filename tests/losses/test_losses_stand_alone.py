"""Each file of rlsys/losses works when it is copied into an empty folder."""

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import rlsys

LOSSES = pathlib.Path(rlsys.__file__).parent / "losses"
FILES = sorted(path for path in LOSSES.glob("*.py") if path.name != "__init__.py")
MAY_IMPORT = {"jax", "typing", "functools", "collections"}
EXAMPLES = {
    "value_rescaling": "assert abs(m.h_inv(m.h(3.0)) - 3.0) < 1e-5",
    "q_learning": """
i, x = jax.numpy.zeros(2, int), jax.numpy.ones(2)
error = jax.jit(m.n_step_double_q, static_argnums=6)(x[:, None], i, x[:, None], i, x, x, 2)
assert error.tolist() == [2.0, 1.0]
""",
    "n_step": """
x = jax.numpy.ones(3)
returns = jax.jit(m.n_step_return, static_argnums=3)(4 * x, x, 0.5 * x, 2)
assert returns.tolist() == [2.5, 2.5, 3.0]
""",
    "retrace": """
a, x = jax.numpy.zeros(2, int), jax.numpy.ones(2)
target = jax.jit(m.retrace)(x[:, None], a, 4 * x, x, x, 0.5 * x, 0.5 * x, lambda_=1.0)
assert target.tolist() == [3.5, 3.0]
""",
    "team_spirit": """
reward = jax.numpy.array([[4.0, 0.0], [1.0, 5.0]])
assert jax.jit(m.zero_sum)(reward).tolist() == [[1.0, -3.0], [-1.0, 3.0]]
assert jax.jit(m.team_spirit)(reward, 0.5).tolist() == [[3.0, 1.0], [2.0, 4.0]]
""",
    "r2d2": """
x, mask = jax.numpy.ones((3, 2)), jax.numpy.ones((3, 2), bool)
assert m.sequence_loss(x, mask, x[0]) == 1.5
assert m.sequence_priority(x, mask).tolist() == [1.0, 1.0]
""",
    "gae": """
x = jax.numpy.ones((2, 3))
assert jax.jit(m.gae)(x, 2 * x, x, 0.5 * x, lambda_=1.0).tolist() == [[1.5] * 3, [1.0] * 3]
""",
    "vtrace": """
x = jax.numpy.ones((2, 3))
result = jax.jit(m.vtrace)(x, 2 * x, x, 0.5 * x, 2 * x, clip_pg_rho=2.0)
assert result.vs_tm1.tolist() == [[2.5] * 3, [2.0] * 3]
assert result.pg_advantage_tm1.tolist() == [[3.0] * 3, [2.0] * 3]
""",
    "ppo": """
x = jax.numpy.zeros(3)
assert jax.jit(m.clipped_surrogate)(x + 1, x, x + 1).tolist() == (x - 1.2).tolist()
assert jax.jit(m.clipped_value_loss)(x + 1, x, x + 2, clip_eps=0.5).tolist() == [1.125] * 3
""",
    "popart": """
y, task = jax.numpy.array([[1.0, 7.0, 3.0]]), jax.numpy.array([0, 1, 0])
old = m.init(2)
new = jax.jit(m.update)(old, y, task, step_size=1.0)
assert new.mean.tolist() == [2.0, 7.0] and new.count.tolist() == [2.0, 1.0]
assert m.normalize(new, y, task)[:, 0].tolist() == [-1.0]
kernel, bias = m.preserve_outputs(old, new, jax.numpy.ones((4, 2)), jax.numpy.zeros(2))
assert m.unnormalize(new, kernel[:1] + bias[None], jax.numpy.array([0, 1]))[0, 0] == 1.0
""",
    "policy_gradient": """
logits, action = jax.numpy.zeros((3, 2)), jax.numpy.array([0, 1, 0])
log_pi_a = jax.jit(m.log_prob)(logits, action)
assert abs(log_pi_a + jax.numpy.log(2.0)).max() < 1e-6
assert abs(m.entropy(logits) + log_pi_a).max() < 1e-6
assert m.policy_gradient_loss(log_pi_a, 2 * log_pi_a).shape == (3,)
assert m.baseline_loss(log_pi_a, log_pi_a + 2).tolist() == [2.0] * 3
""",
}


def imported(source: str) -> set[str]:
    """Top-level names of the modules that the source imports; '.' for a relative import."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add("." if node.level else node.module.split(".")[0])
    return names


def test_there_are_files_and_each_example_is_of_one():
    assert set(EXAMPLES) <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_jax_only(path):
    names = imported(path.read_text())
    assert "jax" in names
    assert names <= MAY_IMPORT


PROGRAM = """
import importlib, json, pathlib, sys
import jax
for name, example in json.loads(sys.argv[1]).items():
    folder = str(pathlib.Path(name).resolve())
    sys.path.insert(0, folder)
    m = importlib.import_module(name)
    assert str(pathlib.Path(m.__file__).parent) == folder, m.__file__
    exec(example, {"m": m, "jax": jax})
    sys.path.remove(folder)
    assert not {"rlsys", "rlax", "chex", "flax", "optax"} & set(sys.modules), name
    print(name)
"""


def test_each_runs_alone_in_a_folder(tmp_path):
    examples = {path.stem: EXAMPLES.get(path.stem, "") for path in FILES}
    for path in FILES:
        (tmp_path / path.stem).mkdir()
        shutil.copy(path, tmp_path / path.stem)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(examples)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.split() == list(examples), result.stderr
