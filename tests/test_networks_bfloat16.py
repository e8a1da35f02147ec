"""bfloat16 on request: products in it, everything else float32, and nearly the same gradient."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from made_up import IMAGES, timesteps

from rlsys import algorithms, networks
from rlsys.acting import actor_critic
from rlsys.algorithms import apex, impala, ppo, r2d2
from rlsys.algorithms.impala import Config
from rlsys.learning import learner
from rlsys.networks.dense import Dense
from rlsys.networks.distributions import Categorical
from rlsys.networks.recurrent import lstm_scan
from rlsys.types import TRAJECTORY_SPEC, Trajectory

T, B = 6, 8
KINDS = {"shallow": 8, "impala": 0}  # torso, and size of the core


def network_of(torso, bfloat16):
    return networks.policy_value_network(
        IMAGES, spaces.Discrete(3), torso=torso, hidden_size=16, core_size=KINDS[torso],
        head_size=8, frame_stack=2, bfloat16=bfloat16,
    )  # fmt: skip


@functools.cache
def trajectory_of(torso):
    network = network_of(torso, False)
    random = np.random.default_rng(0)
    action = random.integers(0, 3, (T, B)).astype(np.int32)
    logits = random.normal(size=(T, B, 3)).astype(np.float32)
    steps = timesteps("stacked", T, B)
    return Trajectory(steps, action, Categorical(logits), network.initial(B), np.zeros(B, np.int32))


def state_of(network, rounded=False, seed=0):
    config = dataclasses.replace(CONFIG, seed=seed)
    state = actor_critic.make_state(network, config, impala.optimizer(config, 0.0))
    if not rounded:
        return state
    return state._replace(
        params=jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), state.params)
    )


CONFIG = Config(num_envs=B, batch_size=B, unroll_length=T, refresh_steps=T)


def gradient(network, config, state, trajectory):
    """In place of a learner step: the gradient of the loss."""
    loss = functools.partial(impala.loss, network, config)
    _, grads = learner.value_and_grad(loss)(state.params, state.popart, trajectory)
    return state, grads


def prepared(step, torso, bfloat16, rounded=False, seed=0):
    """A learner step and its arguments; rounded: from rounded parameters."""
    network = network_of(torso, bfloat16)
    mesh = learner.make_mesh(jax.devices()[:1])
    learn = learner.data_parallel(functools.partial(step, network), mesh, TRAJECTORY_SPEC)
    state = learner.place(mesh, state_of(network, rounded, seed))
    return learn, (CONFIG, state, trajectory_of(torso))


@pytest.mark.parametrize("torso", KINDS)
def test_state_and_results_stay_float32(torso):
    learn, arguments = prepared(impala.update, torso, True)
    network, trajectory = network_of(torso, True), trajectory_of(torso)
    outputs = jax.eval_shape(
        network.apply, arguments[1].params, trajectory.steps, trajectory.action,
        trajectory.core_state,
    )  # fmt: skip
    leaves = jax.tree.leaves((jax.eval_shape(learn, *arguments), outputs))
    floats = [x.dtype for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    assert len(floats) > 30 and set(floats) == {np.dtype(np.float32)}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.slow
def test_the_gradient_is_nearly_that_of_float32():
    """About as near as float32's own is with parameters rounded to bfloat16: in the median over
    seeds, since now and then one of the two rounds a ReLU's input to the other side of 0."""
    learn = {how: prepared(gradient, "shallow", how)[0] for how in (False, True)}
    errors, floors = [], []
    for seed in range(5):
        exact, found, floor = (
            learn[bfloat16](*prepared(gradient, "shallow", bfloat16, rounded, seed)[1])[1]["params"]
            for bfloat16, rounded in [(False, False), (True, False), (False, True)]
        )
        errors.append(np.linalg.norm(flat(found) - flat(exact)))
        floors.append(np.linalg.norm(flat(floor) - flat(exact)))
        for name in ("policy", "value"):
            x, y = flat(exact["head"][name]), flat(found["head"][name])
            assert np.linalg.norm(y - x) < 0.02 * np.linalg.norm(x)
    assert min(errors) > 0 and np.median(errors) < 3 * np.median(floors)


def test_gradients_of_biases_add_up_in_float32():
    layer = Dense(4, jnp.bfloat16)
    x, g = np.ones((50_000, 3)), np.random.default_rng(0).normal(0.5, 1, (50_000, 4))

    def loss(params):
        return jnp.sum(layer.apply(params, x).astype(jnp.float32) * g)

    grads = jax.jit(jax.grad(loss))(layer.init(jax.random.key(0), x))
    np.testing.assert_allclose(grads["params"]["bias"], g.sum(0), rtol=1e-3)


def lowered(torso, bfloat16):
    learn, arguments = prepared(impala.update, torso, bfloat16)
    return learn.lower(*arguments).as_text()


def products(text):
    """Types of the first factor and of the result of each matrix product or convolution."""
    lines = [x for x in text.splitlines() if re.search(r"= stablehlo\.(dot_general|convolu)", x)]
    pattern = r": \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>\) -> tensor<[\dx]*(\w+)>"
    return [re.search(pattern, line).groups() for line in lines]


@pytest.mark.parametrize("torso", KINDS)
@pytest.mark.slow
def test_only_the_last_layers_products_are_float32(torso):
    all_float32 = products(lowered(torso, False))
    assert len(all_float32) > 12 and {x for row in all_float32 for x in row} == {"f32"}
    found = products(lowered(torso, True))
    assert len(found) == len(all_float32)
    last = [row for row in found if row[:2] != ("bf16", "bf16")]
    # logits and value: forward, the layer's gradient and its input's; PopArt has its own
    assert len(last) == 6 and {x for row in last for x in row} == {"f32"}


def test_an_lstm_adds_up_in_float32():
    """A cell that gains 1/512 a step, which bfloat16 would lose from 1/2 on."""
    steps, size = 1000, 2
    gates = np.zeros((steps, 1, 4 * size), np.float32)
    gates[..., : 2 * size] = 30.0  # input and forget gates open
    gates[..., 2 * size : 3 * size] = np.arctanh(1 / 512)
    zero = jnp.zeros((1, size))
    keep, recurrent = jnp.ones((steps, 1, 1)), jnp.zeros((size, 4 * size))
    _, c, _ = lstm_scan(gates, keep, recurrent, zero, zero, jnp.bfloat16)
    np.testing.assert_allclose(c, steps / 512, rtol=1e-4)


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_every_config_asks_for_it(name):
    algorithm, config = algorithms.find(name), algorithms.config_of(name, [])
    assert not config.bfloat16
    dtypes = [
        algorithm.make_network(
            dataclasses.replace(config, bfloat16=x), IMAGES, spaces.Discrete(3)
        ).body.dtype
        for x in (False, True)
    ]
    assert dtypes == [jnp.float32, jnp.bfloat16]


@pytest.mark.slow
@pytest.mark.parametrize("module", [ppo, r2d2, apex])
def test_it_learns(module, tmp_path):
    config = dataclasses.replace(
        module.Config(), bfloat16=True, run_dir=str(tmp_path / "run"),
        env_steps=400_000, checkpoint_every=400_000,
    )  # fmt: skip
    found = json.loads((module.train(config) / "evaluation.json").read_text())
    assert found["results"]["greedy"]["mean"] > 150  # 22 at the start
