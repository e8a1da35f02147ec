"""Optimisers: literal versions in float64, and optax where it is right."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlsys.learning.optimizer import adam_with_clipped_gradients, linear_decay, step_metrics


def gradients(num_updates, seed=0):
    """Small for long, so that the second moment is small, then large in some entries."""
    random = np.random.default_rng(seed)
    grads = random.normal(size=(num_updates, 6)) * np.array([1e-3, 1e-2, 0.1, 1, 10, 1e-4])
    grads[60::7, ::2] *= 50.0
    return grads.astype(np.float32)


@functools.cache
def descend(optimizer):
    def run(grads):
        def step(state, grad):
            updates, state = optimizer.update({"w": grad}, state, {"w": grad})
            return state, updates["w"]

        return jax.lax.scan(step, optimizer.init({"w": grads[0]}), grads)[1]

    return jax.jit(run)


def test_linear_decay_runs_to_its_end_and_no_further():
    progress = jnp.array([0, 0.5, 1, 1.5])
    np.testing.assert_allclose(linear_decay(0.5, 0.75, progress), [0.5, 0.3125, 0.125, 0.125])
    np.testing.assert_allclose(linear_decay(0.5, 1.0, progress), [0.5, 0.25, 0, 0])
    np.testing.assert_allclose(linear_decay(0.5, 0.0, progress), 0.5)


def test_adam_that_clips_nothing_is_adam():
    grads = gradients(120)
    ours = descend(adam_with_clipped_gradients(0.1, eps=1e-5, clip_sigmas=1e9))(grads)
    np.testing.assert_allclose(ours, descend(optax.adam(0.1, eps=1e-5))(grads), rtol=2e-4)


def test_adam_clips_each_entry_by_its_own_second_moment():
    """The moment is of gradients that are not clipped, and knows the one that it clips."""
    grads, eps, sigmas = gradients(120), 1e-5, 2.0
    optimizer = adam_with_clipped_gradients(0.1, eps=eps, clip_sigmas=sigmas)
    m, v, expected, clipped = np.zeros(6), np.zeros(6), [], np.zeros((120, 6), bool)
    for t, g in enumerate(np.float64(grads), 1):
        v = 0.999 * v + 0.001 * g**2
        sigma = np.sqrt(v / (1 - 0.999**t))
        clipped[t - 1] = abs(g) > sigmas * sigma
        m = 0.9 * m + 0.1 * np.clip(g, -sigmas * sigma, sigmas * sigma)
        expected.append(-0.1 * m / (1 - 0.9**t) / (sigma + eps))
    np.testing.assert_allclose(descend(optimizer)(grads), expected, rtol=5e-4, atol=1e-7)
    some = clipped[:, ::2].mean(), clipped[:, 1::2].mean()
    assert some[0] > 0.05 and clipped.any(0).all() and not clipped.all(0).any()
    # It would show: without the clip the steps are others.
    unclipped = descend(adam_with_clipped_gradients(0.1, eps=eps, clip_sigmas=1e9))(grads)
    assert np.abs(unclipped - np.array(expected)).max() > 0.02


def test_how_large_a_step_is():
    """By hand: a gradient of norm 5, an update of norm 1.3, parameters of norm 13 after it."""
    grads, updates = {"w": np.array([3.0, 4.0])}, {"w": np.array([0.5, 1.2])}
    params = {"w": np.array([5.0, 12.0])}
    for largest, clipped in ((4.9, 1.0), (5.1, 0.0)):
        config = SimpleNamespace(max_gradient_norm=largest)
        found = step_metrics(config, 0.25, grads, updates, params)
        expected = {
            "learning_rate": 0.25, "gradient_norm": 5.0, "gradient_clipped": clipped,
            "params_norm": 13.0, "update_ratio": 0.1,
        }  # fmt: skip
        assert found == pytest.approx(expected)
