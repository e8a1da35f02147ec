"""Data parallel: one all-reduce of gradients, and the same results on 8 devices as on 1."""

import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_apex
import test_impala
import test_ppo
import test_r2d2
from made_up import network_of

from rlsys.algorithms import apex, impala, ppo, r2d2
from rlsys.algorithms.ppo_minibatches import BATCH_SPEC
from rlsys.learning import learner
from rlsys.types import SAMPLE_SPEC, TRAJECTORY_SPEC


def impala_step(mesh):
    config, network = test_impala.POPART, network_of("recurrent")
    step = learner.data_parallel(functools.partial(impala.update, network), mesh, TRAJECTORY_SPEC)
    return step, config, impala.make_state(network, config), test_impala.trajectory_of()


def ppo_preparation(mesh):
    config = test_ppo.config_of("recurrent")
    step = learner.data_parallel(
        functools.partial(ppo.prepare, network_of("recurrent")), mesh, TRAJECTORY_SPEC,
        (BATCH_SPEC, learner.REPLICATED),
    )  # fmt: skip
    state = test_ppo.state_of("recurrent", config)
    return step, config, state, test_ppo.trajectory_of("recurrent")


def ppo_step(mesh):
    begin, config, state, trajectory = ppo_preparation(mesh)
    _, (batch, _) = jax.eval_shape(begin, config, state, trajectory)
    step = learner.data_parallel(
        functools.partial(ppo.update, network_of("recurrent")), mesh, BATCH_SPEC
    )
    return step, config, state, batch


def r2d2_step(mesh):
    config, network = test_r2d2.CONFIG, test_r2d2.make_network()
    replay, *_ = test_r2d2.filled_replay(config, test_r2d2.play(60))
    step = learner.data_parallel(
        functools.partial(r2d2.update, network), mesh, SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
    )  # fmt: skip
    return step, config, r2d2.make_state(network, config), replay.sample(8)[1]


def apex_step(mesh):
    config, network = test_apex.CONFIG, test_apex.network_of("stacked")
    replay, *_ = test_apex.filled("stacked")
    step = learner.data_parallel(
        functools.partial(apex.update, network), mesh, SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
    )  # fmt: skip
    return step, config, apex.make_state(network, config), replay.sample(8)[1]


def all_reduces(text):
    """Lists the sizes of the operands of each all-reduce in a compiled program's text."""
    shapes = re.findall(r"= (.+?) all-reduce(?:-start)?\(", text)
    return [
        [
            math.prod(map(int, filter(None, dims.split(","))))
            for dims in re.findall(r"\[([\d,]*)\]", s)
        ]
        for s in shapes
    ]


@pytest.mark.parametrize(
    ("make", "metrics", "others"),
    [
        # Two numbers of each metric that is a mean over the learned steps.
        (impala_step, 1 + 14 + 5, [[3, 3]] * 2),  # PopArt's sums for 3 tasks, those about the mean
        (ppo_step, 1 + 6 + 3, []),
        (r2d2_step, 1 + 6 + 3, [[1]]),  # the largest importance weight
        (apex_step, 1 + 5 + 2, [[1]]),
    ],
)
def test_an_update_averages_its_gradients_by_one_all_reduce(make, metrics, others):
    """The loss and the metrics go with them."""
    step, config, state, batch = make(learner.make_mesh(jax.devices()[:4]))
    found = all_reduces(step.lower(config, state, batch).compile().as_text())
    num_params = sum(x.size for x in jax.tree.leaves(state.params))
    assert num_params > 200
    assert sorted(found) == sorted([[num_params + metrics], *others])


def test_ppo_needs_four_small_sums_before_it_learns():
    """PopArt's two; advantages and values for their means, then for their deviations."""
    step, *inputs = ppo_preparation(learner.make_mesh(jax.devices()[:4]))
    found = all_reduces(step.lower(*inputs).compile().as_text())
    assert sorted(sum(sizes) for sizes in found) == [3, 6, 6, 7]


def test_gradients_are_those_of_the_mean_over_devices():
    """Whatever the loss does, leaf by leaf; what is no metric stays as it was."""
    mesh = learner.make_mesh(jax.devices()[:4])
    x = np.arange(8, dtype=np.float32) ** 2

    def step(config, params, x):
        def loss(params, x):
            y = params["a"][None] ** 2 * x[:, None] + params["b"]
            few = {"few": learner.learned_mean(x, x < 5), "none": learner.learned_mean(x, x < 0)}
            return jnp.mean(y), (x + 1, {"largest": jnp.max(x), **few})

        return params, learner.value_and_grad(loss)(params, x)

    out = (learner.REPLICATED, (learner.SHARDED, learner.REPLICATED)), learner.REPLICATED
    step = learner.data_parallel(step, mesh, learner.SHARDED, out)
    params = {"a": jnp.array([1.0, 2.0, -3.0]), "b": jnp.array(5.0)}
    _, ((value, (aux, metrics)), grads) = step((), learner.place(mesh, params), x)
    np.testing.assert_allclose(value, 14 / 3 * x.mean() + 5, rtol=1e-6)
    np.testing.assert_allclose(grads["a"], 2 / 3 * x.mean() * np.array([1, 2, -3]), rtol=1e-6)
    np.testing.assert_allclose(grads["b"], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(aux, x + 1)
    np.testing.assert_allclose(metrics["largest"], (1 + 9 + 25 + 49) / 4)
    np.testing.assert_allclose(metrics["few"], (0 + 1 + 4) / 3, rtol=1e-6)  # 2, 1, 0, 0 a device
    assert metrics["none"] == 0


@pytest.mark.slow
def test_the_number_of_devices_does_not_change_the_result_up_to_8():
    """The algorithms' own tests of that, with 8 devices in a process of its own."""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    test = "test_the_number_of_devices_does_not_change_the_result"
    tests = [
        f"{Path(__file__).parent}/test_{name}"
        for name in (
            f"impala.py::{test}[config1]",
            f"ppo.py::{test}[recurrent]",
            f"r2d2.py::{test}",
            f"apex.py::{test}",
        )
    ]
    words = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run([*words, *tests, "-rA"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr
