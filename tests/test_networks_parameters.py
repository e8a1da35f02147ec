"""How networks begin, and how they see images."""

import dataclasses

import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlsys import algorithms, networks
from rlsys.networks.torsos import encode
from tests import made_up


def test_orthogonal_kernels_keep_the_size_of_what_passes():
    params = made_up.params_of("stacked")
    new = networks.orthogonalize(params, jax.random.key(7))
    assert jax.tree.structure(new) == jax.tree.structure(params)
    hidden = 0
    pairs = zip(jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(params), strict=True)
    for (path, x), old in pairs:
        layer, name = (entry.key for entry in path[-2:])
        if name != "kernel" or not layer.startswith(("Conv_", "Dense_")):
            np.testing.assert_array_equal(x, old)
            continue
        hidden += 1
        # Both outputs of the head have a hidden layer each, side by side.
        both = "head" in {entry.key for entry in path}
        for part in np.split(np.float64(x).reshape(-1, x.shape[-1]), 1 + both, axis=1):
            matrix = part if part.shape[0] >= part.shape[1] else part.T
            np.testing.assert_allclose(matrix.T @ matrix, 2 * np.eye(matrix.shape[1]), atol=1e-4)
    assert hidden >= 3


def test_pixels_are_moved_and_scaled_as_the_network_is_told():
    space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    x = np.array([[87, 127, 7]], np.uint8)
    np.testing.assert_allclose(encode(space, x, pixel_offset=87, pixel_scale=40), [[0, 1, -2]])
    np.testing.assert_allclose(encode(space, x)[0], x[0] / 255, rtol=1e-6)
    network, params = made_up.network_of("stacked"), made_up.params_of("stacked")
    steps, action = made_up.timesteps("stacked", 2, 3), np.zeros((1, 3), np.int32)
    body = dataclasses.replace(network.body, pixel_offset=50.0, pixel_scale=20.0)
    moved = dataclasses.replace(network, body=body)
    (pi, _), (other, _) = (
        n.apply(params, steps, action, network.initial(3))[0] for n in (network, moved)
    )
    assert np.abs(pi.logits - other.logits).max() > 1e-3


@pytest.mark.parametrize(
    ("algorithm", "torso"), [("ppo", "nature"), ("impala", "shallow"), ("r2d2", "nature")]
)
def test_pong_has_a_preset_of_its_own_where_there_is_no_accelerator(algorithm, torso):
    words = ["--env", "Pong-v5"]
    here = algorithms.config_of(algorithm, words)  # tests run on a CPU
    assert (here.torso, here.pixel_offset, here.orthogonal) == ("shallow", 87, True)
    assert algorithms.config_of(algorithm, words, on_cpu=True) == here
    sticky = algorithms.config_of(algorithm, ["--env", "Pong-v5:sticky_actions=0.25"])
    assert dataclasses.replace(sticky, env=here.env) == here
    for large in (
        algorithms.config_of(algorithm, words, on_cpu=False),
        algorithms.config_of(algorithm, [*words, "--preset", "atari"]),
    ):
        chosen = large.torso or "nature"
        assert (chosen, large.pixel_offset, large.orthogonal) == (torso, 0, False)
    breakout = algorithms.config_of(algorithm, ["--env", "Breakout-v5"])
    small = algorithm == "ppo"  # which has a preset for any game of Atari's
    chosen = breakout.torso or "nature"
    assert (chosen, breakout.orthogonal) == ("shallow" if small else torso, small)
    assert breakout.pixel_offset == 0 and breakout.env == "Breakout-v5"


def test_several_games_share_the_preset_for_any_game():
    games = ["--env", "Pong-v5,Breakout-v5"]
    config = algorithms.config_of("ppo", games)
    assert (config.torso, config.pixel_offset, config.popart) == ("shallow", 0, True)
    assert not config.env_options.minimal_actions and config.env_options.life_loss_ends
    assert algorithms.config_of("ppo", games, on_cpu=False).torso == "nature"
    assert algorithms.config_of("impala", games).num_envs == 64  # IMPALA has none
