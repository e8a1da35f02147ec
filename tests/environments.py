"""Environments for tests: to make them by id and options, to play them, and what must hold."""

import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlsys import envs
from rlsys.envs.rules import random_action
from rlsys.types import UserError


def make(env_id, num_envs, seed, options=envs.Options(), *, name=None, **more):
    """Environments of one task, called by its id unless named."""
    return envs.make(envs.Task(name or env_id, env_id, options), num_envs, seed, **more)


def play(env, steps, seed=0):
    """Timesteps x_0 .. x_steps under random legal actions, and the actions."""
    rng = np.random.default_rng(seed)
    timesteps, actions = [env.reset()], []
    for _ in range(steps):
        actions.append(random_action(env, timesteps[-1].obs, rng))
        timesteps.append(env.step(actions[-1]))
    return timesteps, actions


def assert_same(a, b):
    """Asserts that two trees have the same arrays."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_in_space(space, x, batch):
    """Keys, shapes, dtypes, and the ranges of what is counted."""
    if isinstance(space, spaces.Dict):
        assert set(x) == set(space)
        for key in space:
            assert_in_space(space[key], x[key], batch)
        return
    assert x.shape == (batch, *space.shape)
    if isinstance(space, spaces.Discrete):
        assert x.dtype == np.int32
        assert (0 <= x).all() and (x < space.n).all()
    elif isinstance(space, spaces.MultiBinary):
        assert x.dtype == bool
    else:
        assert x.dtype == space.dtype != np.float64
        assert np.isfinite(x).all()
        if x.dtype.kind != "f":  # rounding takes some floats a little past their bounds
            assert (space.low <= x).all() and (x <= space.high).all()


def assert_aligned(timesteps):
    first, reward, discount, truncated = (
        np.stack([getattr(t, name) for t in timesteps])
        for name in ("first", "reward", "discount", "truncated")
    )
    assert (first.dtype, reward.dtype, discount.dtype, truncated.dtype) == (
        bool,
        np.float32,
        np.float32,
        bool,
    )
    ended = (discount == 0) | truncated
    assert first[0].all()
    np.testing.assert_array_equal(first[1:], ended[:-1])
    assert (reward[first] == 0).all() and not ended[first].any()
    assert (discount[truncated] == 1).all()
    assert set(np.unique(discount)) <= {0.0, 1.0}


def assert_episodes(timesteps, episodes):
    """Returns and lengths are those of the steps between one first and the next."""
    expected = []
    for env in range(len(timesteps[0].first)):
        total, length = 0.0, 0
        for t in timesteps[1:]:
            total, length = total + float(t.reward[env]), length + (not t.first[env])
            if t.discount[env] == 0 or t.truncated[env]:
                expected.append((total, length, env))
                total, length = 0.0, 0
    found = sorted((e.episode_return, e.length, e.env) for e in episodes)
    np.testing.assert_allclose(sorted(expected), found, rtol=1e-5)


def assert_refused(words, message):
    """Environments of a task are refused, in one sentence that matches the message."""
    with pytest.raises(UserError, match=message) as info:
        (task,) = envs.read_tasks(words, envs.Options())
        envs.make(task, 2, 0)
    assert "\n" not in str(info.value)
