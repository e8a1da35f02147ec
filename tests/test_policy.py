"""Policies with values: what acts, and the terms of the losses."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import MASKED, Stub, network_of, params_of, timesteps

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.algorithms.impala import Config
from rlsys.learning import learner
from rlsys.losses import popart
from rlsys.networks.distributions import Categorical
from rlsys.types import CoreState, Timestep

MASK = np.array([[[1, 0, 1], [0, 1, 0], [0, 0, 0]]], bool)  # of the last, none is legal
LOGITS = np.random.default_rng(0).normal(size=(1, 3, 3)).astype(np.float32)


def softmax(x):
    x = np.exp(np.float64(x) - np.max(x, axis=-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_illegal_actions_have_no_chance_unless_all_are():
    logits = Categorical(LOGITS).only(MASK).logits
    pi = np.asarray(jax.nn.softmax(logits))
    assert (pi[~MASK & MASK.any(-1, keepdims=True)] == 0).all()
    np.testing.assert_array_equal(logits[MASK], LOGITS[MASK])
    np.testing.assert_array_equal(logits[:, 2], LOGITS[:, 2])


def test_illegal_actions_have_no_gradient():
    def loss(logits, action):
        pi = Categorical(logits).only(MASK)
        terms = pi.log_prob(action) - 0.3 * pi.entropy()
        return (terms * np.array([[1.0, -2.0, 3.0]])).sum()

    for action in ([[2, 1, 0]], [[1, 0, 0]]):  # the second's were played where these are illegal
        gradient = jax.grad(loss)(jnp.asarray(LOGITS), np.array(action, np.int32))
        illegal = ~MASK & MASK.any(-1, keepdims=True)
        assert (gradient[illegal] == 0).all() and np.isfinite(gradient).all()
        assert (np.abs(gradient[:, 2]) > 1e-3).all()


def test_each_environment_has_the_value_of_its_own_task():
    values = np.arange(24.0).reshape(4, 2, 3)
    np.testing.assert_array_equal(
        actor_critic.value_of(values, np.array([2, 0])), [[2, 3], [8, 9], [14, 15], [20, 21]]
    )


@functools.cache
def draws(number=4000):
    """Draws so many actions in one state under three masks -> actions and what follows."""

    class Same(Stub):
        def apply(self, params, steps, action, core_state):
            assert action.shape[0] == 0 and steps.first.shape == (1, 3)
            return (Categorical(jnp.asarray(LOGITS)), jnp.zeros((1, 3, 1))), core_state

    obs = {"action_mask": jnp.asarray(MASK[0]), "x": jnp.zeros((3, 4))}
    timestep = Timestep(obs, *np.zeros((4, 3)))
    state = CoreState((), np.zeros(3, np.int32), (), ())
    sample = functools.partial(actor_critic.sample, Same(), None, timestep, state)
    keys = jax.random.split(jax.random.key(0), number)
    return jax.jit(jax.vmap(sample))(keys), jax.jit(functools.partial(sample, greedy=True))(keys[0])


def test_actions_are_drawn_from_the_policy():
    (actions, kept, state), _ = draws()
    pi = softmax(np.asarray(Categorical(LOGITS).only(MASK).logits)[0])
    for b in range(3):
        counts = np.bincount(actions[:, b], minlength=3)
        assert (counts[pi[b] == 0] == 0).all()
        expected = len(actions) * pi[b]
        assert (abs(counts - expected) <= 4 * np.sqrt(expected * (1 - pi[b])) + 1e-6).all()
    together = np.corrcoef(np.asarray(actions)[:, 0], np.asarray(actions)[:, 2])[0, 1]
    assert abs(together) < 0.06  # environments draw apart
    np.testing.assert_array_equal(actions, state.a_tm1)
    np.testing.assert_allclose(softmax(np.asarray(kept.logits[0])), pi, atol=1e-6)


def test_greedy_actions_are_the_likeliest_legal_ones():
    _, (action, _, state) = draws()
    best = np.where(MASK[0] | ~MASK[0].any(-1, keepdims=True), LOGITS[0], -np.inf).argmax(-1)
    np.testing.assert_array_equal(action, best)
    np.testing.assert_array_equal(state.a_tm1, best)
    assert (best != LOGITS[0].argmax(-1)).any()


def test_a_compiled_policy_uses_each_key_once():
    def act(network, params, timestep, core_state, key, *, greedy):
        return jax.random.bits(key), greedy, core_state

    key, seen = jax.random.key(0), []
    for _ in range(3):
        action, greedy, _, key = actor_critic.make_policy(act, None, greedy=True)((), (), (), key)
        assert greedy
        seen += [int(action), int(jax.random.bits(key))]
    assert len(set(seen)) == 6


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e4, 1e4), (-1e4, 1.0), (3.0, 1e-4)])
def test_values_stay_when_statistics_jump(mean, scale):
    """And back: to 1e-5 of the larger scale, which is float32's rounding of the mean."""
    network, params = network_of("memoryless"), params_of("memoryless")
    one = popart.PopArtState(*jnp.array([[1.0, -2.0, 0.5], [2.0, 8.0, 1.25], [9.0, 9.0, 9.0]]))
    two = popart.PopArtState(
        jnp.array([mean, 0.0, -mean]), jnp.array([mean**2 + scale**2, 1.0, mean**2 + 4]), one.count
    )
    steps = jax.tree.map(lambda x: x[:6], timesteps("memoryless", 6, 3))
    task = np.array([0, 1, 2])

    def outputs(params, statistics):
        (logits, values), _ = jax.jit(network.apply)(
            params, steps, np.zeros((5, 3), np.int32), network.initial(3)
        )
        return logits, popart.unnormalize(statistics, actor_critic.value_of(values, task), task)

    for old, new in ((one, two), (two, one)):
        corrected = actor_critic.preserve_outputs(old, new, params)
        (logits, v), (same_logits, same_v) = outputs(params, old), outputs(corrected, new)
        np.testing.assert_array_equal(logits, same_logits)
        size = np.maximum(popart.scale(old), popart.scale(new)) + abs(old.mean) + abs(new.mean)
        assert (np.abs(v - same_v).max(0) <= 1e-5 * size).all()
        layer, was = networks.value_layer(corrected), networks.value_layer(params)
        assert np.abs(layer["kernel"] - was["kernel"]).max() > 1e-3
        rest = networks.with_value_layer(corrected, was)
        jax.tree.map(np.testing.assert_array_equal, rest, params)


def test_popart_metrics_name_each_task():
    config = Config(env="Catch-v0,Catch-v0:permute=1", actors=2, popart=True)
    statistics = popart.PopArtState(*jnp.array([[1.0, -20.0], [9.0, 1.0], [1.0, 1.0]]))
    metrics = actor_critic.popart_metrics(config, statistics)
    assert metrics == {
        "popart_mean/Catch-v0": 1.0, "popart_mean/Catch-v0:permute=1": -20.0,
        "popart_scale/Catch-v0": 3.0, "popart_scale/Catch-v0:permute=1": 2.0,
    }  # fmt: skip
    assert actor_critic.popart_metrics(dataclasses.replace(config, popart=False), statistics) == {}


def test_the_network_is_made_for_the_tasks():
    config = Config(
        env="Catch-v0,Catch-v0:permute=1", actors=2, hidden_size=24, core_size=12, head_size=6
    )
    network = actor_critic.make_network(config, MASKED, network_of("memoryless").action_space)
    body = network.body
    assert (body.hidden_size, body.core_size, network.frame_stack) == (24, 12, 1)
    assert (network.head.num_tasks, network.head.hidden_size) == (2, 6)
    assert body.reward_bound == 1.0 and network.value_body is None


def test_explained_variance_is_that_of_its_definition():
    """In float64, of steps that count, each task in units of its own deviation."""
    random = np.random.default_rng(3)
    task = np.array([0, 1, 0, 1])
    statistics = popart.PopArtState(
        *np.array([[1.0, 500.0], [4.0, 2500.0], [9.0, 9.0]], np.float32)
    )
    target = random.normal([1, 500, 1, 500], [2, 50, 2, 50], (30, 4)).astype(np.float32)
    v = (target + random.normal(0, [1, 30, 1, 30], (30, 4))).astype(np.float32)
    mask = random.random((30, 4)) < 0.8
    config = Config(env="Catch-v0,Catch-v0:permute=1", actors=2)
    moments = actor_critic.moments(config, statistics, v, target, task, mask)
    found = actor_critic.value_metrics(moments)
    scale = np.array([2.0, 50.0])[task]
    y, e = (np.float64(x / scale)[mask] for x in (target - statistics.mean[task], target - v))
    size = np.sqrt(np.mean(np.float64(target / scale)[mask] ** 2))
    expected = {"explained_variance": 1 - e.var() / y.var(), "value_error": e.std() / size}
    chex.assert_trees_all_close(found, expected, rtol=1e-4)
    # Means of two halves, averaged, are those of the whole, as over two devices.
    parts = [([x[i::2] for x in (v, target)], mask[i::2]) for i in range(2)]
    halves = [actor_critic.moments(config, statistics, *x, task, m) for x, m in parts]
    together = jax.tree.map(lambda x, y: (x + y) / 2, *halves)
    chex.assert_trees_all_close(actor_critic.value_metrics(together), found, rtol=1e-4)


def test_explained_variance_of_what_hardly_differs_and_of_nothing():
    config, task, mask = Config(), np.zeros(4, int), np.ones((8, 4), bool)
    statistics = popart.init(1)._replace(mean=np.full(1, 100.0), variance=np.full(1, 100.0))
    target = np.full((8, 4), 100.0, np.float32)

    def measured(v, mask=mask):
        found = actor_critic.moments(config, statistics, v, target, task, mask)
        return jax.tree.map(float, actor_critic.value_metrics(found))

    error = np.random.default_rng(0).normal(0, 1, target.shape).astype(np.float32)
    near = measured(target + error)
    assert near["explained_variance"] == -1  # -1 is the least
    np.testing.assert_allclose(near["value_error"], error.std() / 100, rtol=1e-3)
    assert measured((target + error) * np.float32([1, 30, 1, 30]))["explained_variance"] == -1
    assert all(np.isfinite(x) for x in measured(target, np.zeros_like(mask)).values())


@pytest.mark.parametrize("deviation", [1e4, 1.0, 1e-5, 1e-7, 1e-9])
def test_a_constant_value_explains_nothing_however_small_returns_are(deviation):
    config, task, mask = Config(popart=False), np.zeros(4, int), np.ones((8, 4), bool)
    target = np.random.default_rng(0).normal(0, deviation, (8, 4)).astype(np.float32)

    def on_a_device(v, target):
        found = actor_critic.moments(config, popart.init(1), v, target, task, mask)
        return actor_critic.value_metrics(found)

    def measured(v, target):
        found = jax.vmap(on_a_device, axis_name=learner.BATCH)(v[None], target[None])
        return jax.tree.map(lambda x: float(x[0]), found)

    found, size = measured(np.zeros_like(target), target), np.sqrt(np.mean(np.float64(target) ** 2))
    np.testing.assert_allclose(found["explained_variance"], 0.0, atol=1e-6)
    np.testing.assert_allclose(found["value_error"], target.std() / size, rtol=1e-4)
    assert measured(target, np.zeros_like(target))["value_error"] == 10.0  # and no more


@pytest.mark.parametrize("mean", [0.0, 3e3, -1e4])
@pytest.mark.parametrize("off", [0.0, 1.0])
def test_explained_variance_without_popart_keeps_the_digits_of_large_returns(mean, off):
    """Two devices, on which the means differ; off: by how much all values are wrong."""
    random, config = np.random.default_rng(0), Config(popart=False)
    target = random.normal(mean, 1, (2, 50, 8)).astype(np.float32)
    target[1] += 2
    v = (target + random.normal(off, 0.3, target.shape)).astype(np.float32)
    task, mask = np.zeros(8, int), random.random(target.shape) < 0.7

    def on_a_device(*args):
        found = actor_critic.moments(config, popart.init(1), *args[:2], task, args[2])
        return actor_critic.value_metrics(jax.lax.pmean(found, learner.BATCH))

    found = jax.vmap(on_a_device, axis_name=learner.BATCH)(v, target, mask)
    y, e = np.float64(target)[mask], (np.float64(target) - v)[mask]
    size = np.sqrt(np.mean(y**2))
    expected = {"explained_variance": 1 - e.var() / y.var(), "value_error": e.std() / size}
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], found), expected, rtol=1e-3)
