"""Frame stacks: against EnvPool's own, and against a loop over one environment."""

import envpool
import jax
import numpy as np
import pytest

from rlsys.networks import stack_frames


def play_pong(stack_num, actions):
    """Images [T, B, stack_num, 84, 84] and first [T, B] of Pong with short episodes."""
    pool = envpool.make(
        "Pong-v5",
        env_type="gymnasium",
        num_envs=2,
        seed=3,
        stack_num=stack_num,
        max_episode_steps=13,
    )
    obs, info = pool.reset()
    images, first = [obs], [info["elapsed_step"] == 0]
    for action in actions:
        obs, _, _, _, info = pool.step(action)
        images.append(obs)
        first.append(info["elapsed_step"] == 0)
    pool.close()
    return np.stack(images), np.stack(first)


@pytest.mark.parametrize("length", [1, 59])
def test_equals_envpools_own_stacks_over_episode_ends(length):
    actions = np.random.default_rng(0).integers(0, 6, (58, 2)).astype(np.int32)
    single, first = play_pong(1, actions)
    expected, _ = play_pong(4, actions)
    assert first.sum(0).min() >= 4
    assert (expected[..., 0, :, :] != expected[..., 3, :, :]).any((1, 2, 3)).sum() > 30
    single, expected = np.moveaxis(single, 2, -1), np.moveaxis(expected, 2, -1)

    step = jax.jit(stack_frames)
    frames, age = np.zeros((2, 3, 84, 84, 1), np.uint8), np.zeros(2, np.int32)
    stacks = []
    for t in range(0, len(single), length):
        obs = single[t : t + length]
        stacked, frames, age = step(frames, age, obs, first[t : t + length])
        stacks.append(stacked)
    np.testing.assert_array_equal(np.concatenate(stacks), expected)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_equals_a_loop_that_keeps_its_episodes_frames(size):
    rng = np.random.default_rng(size)
    obs = rng.integers(0, 256, (40, 5, 2, 3, 2)).astype(np.uint8)
    first = rng.random((40, 5)) < 0.3
    first[0] = True
    expected = np.zeros((40, 5, 2, 3, 2 * size), np.uint8)
    for b in range(5):
        episode = []
        for t in range(40):
            episode = [obs[t, b]] if first[t, b] else [*episode, obs[t, b]]
            newest = [episode[max(len(episode) - 1 - k, 0)] for k in reversed(range(size))]
            expected[t, b] = np.concatenate(newest, -1)

    frames, age = np.zeros((5, size - 1, 2, 3, 2), np.uint8), np.zeros(5, np.int32)
    step, t = jax.jit(stack_frames), 0
    for length in (1, 1, 1, 7, 2, 7, 1, 2, 2, 7, 7, 2):  # what came before is in frames and age
        piece = slice(t, t + length)
        stacked, frames, age = step(frames, age, obs[piece], first[piece])
        np.testing.assert_array_equal(stacked, expected[piece])
        assert frames.dtype == np.uint8 and age.dtype == np.int32
        t += length
    assert t == 40
