"""Gymnasium's spaces: actions, observations and masks of legal actions."""

import jax
import numpy as np
import pytest
from environments import assert_same, play
from gymnasium import spaces
from gymnasium_fakes import ACTIONS, OBSERVATIONS, fake

from rlsys.envs import check


def ones(env):
    """The Gymnasium environments within."""
    while not hasattr(env, "_vector"):
        env = env.envs
    return [one.unwrapped for one in env._vector.envs]


PLAYED = {  # the learner's space, an action, and what the environment is told
    "Discrete": (spaces.Discrete(3), 2, 2),
    "DiscreteFrom5": (spaces.Discrete(3), 2, 7),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 3]), [0, 2], [0, 2]),
    "Unequal": (spaces.MultiDiscrete([2, 5, 3]), [1, 4, 0], [1, 4, 0]),
    "MultiDiscreteFrom1": (spaces.MultiDiscrete([2, 4]), [1, 3], [2, 2]),
    "Grid": (spaces.MultiDiscrete([2, 3, 4, 2]), [1, 2, 3, 0], [[1, 2], [3, 0]]),
    "MultiBinary": (spaces.MultiDiscrete([2, 2, 2]), [0, 1, 1], [0, 1, 1]),
    "BinaryGrid": (spaces.MultiDiscrete([2, 2, 2, 2]), [0, 1, 1, 0], [[0, 1], [1, 0]]),
    "Box": (spaces.MultiDiscrete([11, 11]), [0, 5], [-1, 2]),
    "Scalar": (spaces.MultiDiscrete([11]), [10], 2.0),
    "Matrix": (spaces.MultiDiscrete([11] * 6), [0, 5, 10] * 2, [[-1, 0, 1]] * 2),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_actions(name):
    """Each environment itself refuses what is not of its action space."""
    space, action, told = PLAYED[name]
    env = fake(f"Act{name}")
    assert env.action_space == space
    env.reset()
    env.step(np.array([action, np.zeros_like(action)]))
    np.testing.assert_array_equal(ones(env)[0].played, [told])
    play(env, 20)
    assert all(len(one.played) >= 15 for one in ones(env))


@pytest.mark.parametrize("name", ["Box", "Scalar", "Matrix"])
def test_continuous_actions_are_clipped_to_their_bounds(name):
    env = fake(f"Act{name}", continuous=True)
    box = ACTIONS[name]
    assert env.action_space == spaces.Box(box.low.ravel(), box.high.ravel(), dtype=box.dtype.type)
    env.reset()
    env.step(np.full((2, *env.action_space.shape), 100.0))
    np.testing.assert_array_equal(ones(env)[0].played, [box.high])
    play(env, 20)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(name):
    """They are what the environment has shown: starts taken off, channels last."""
    env = fake(f"See{name}", 3)
    timesteps, _ = play(env, 40)
    assert check.check(lambda seed: fake(f"See{name}", 3, seed), 40)[0].kept
    for i, one in enumerate(ones(env)):
        for t, raw in zip(timesteps, one.shown, strict=True):
            assert_same(jax.tree.map(lambda x, i=i: x[i], t.obs), expected(name, raw))


def expected(name, raw):
    """The learner's observation for what a fake has shown."""
    match name:
        case "Channels":
            return np.moveaxis(raw, 0, -1)
        case "Discrete":
            return raw + 2
        case "MultiDiscrete":
            return raw - [1, 2]
        case "Tuple":
            return {"0": raw[0] - 1, "1": raw[1].astype(bool)}
        case "Nested":
            position, (left, right) = raw["goal"]["position"].astype(np.float32), raw["hands"]
            return {
                "goal/position": position,
                "hands/0": left,
                "hands/1/grip": right["grip"].astype(bool),
            }
        case "Box" | "Counts":
            return raw.astype(np.float32)
    return raw


def test_observation_spaces():
    spaces_of = {name: fake(f"See{name}", 1).observation_space for name in OBSERVATIONS}
    assert spaces_of["Box"] == spaces.Box(-1.0, 1.0, (4,), np.float32)
    assert spaces_of["Half"].dtype == np.float32
    assert spaces_of["Channels"] == spaces_of["Image"] == spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert spaces_of["Counts"].dtype == np.float32  # wider than 32 bits
    assert spaces_of["Narrow"] == spaces.Box(-5, 70_000, (2,), np.int32)
    assert spaces_of["Discrete"] == spaces.Discrete(4)
    assert (spaces_of["MultiDiscrete"].nvec == [3, 7]).all()
    assert set(spaces_of["Nested"]) == {"goal/position", "hands/0", "hands/1/grip"}


@pytest.mark.parametrize("name, axes", [("Masked", (3,)), ("MaskedUnequal", (3, 5))])
def test_masks_of_legal_actions(name, axes):
    """A mask that allows no action is taken to allow all."""
    env = fake(name, 3)
    assert env.observation_space["action_mask"] == spaces.MultiBinary(axes)
    timesteps, _ = play(env, 60)
    empty = 0
    for i, one in enumerate(ones(env)):
        for t, raw in zip(timesteps, one.shown, strict=True):
            mask, raw = t.obs["action_mask"][i], raw["action_mask"].astype(bool)
            np.testing.assert_array_equal(mask, raw | ~raw.any(-1, keepdims=True))
            empty += not raw.any(-1).all()
    assert mask.dtype == bool and empty > 3
