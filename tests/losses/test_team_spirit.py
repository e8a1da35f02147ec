"""Rewards of teams against float64 loops, identities and cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlsys.losses.team_spirit import team_spirit, zero_sum

SHAPES = [(2, 1), (2, 5), (3, 4), (7, 2, 5), (4, 6, 3, 2)]


def random_reward(seed, *shape):
    return np.random.default_rng(seed).normal(scale=3, size=shape).astype(np.float32)


def each_game(reward):
    """Games [team, player] of reward [..., team, player], in float64."""
    return reward.reshape(-1, *reward.shape[-2:]).astype(np.float64)


def literal_zero_sum(game):
    result = np.zeros_like(game)
    for team in range(len(game)):
        opponents = [float(r) for other in range(len(game)) if other != team for r in game[other]]
        for player in range(game.shape[1]):
            result[team, player] = game[team, player] - sum(opponents) / len(opponents)
    return result


def literal_team_spirit(game, tau):
    result = np.zeros_like(game)
    for team, rewards in enumerate(game):
        mean = sum(float(r) for r in rewards) / len(rewards)
        for player, r in enumerate(rewards):
            result[team, player] = (1 - tau) * float(r) + tau * mean
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_literal_float64_loops(shape):
    reward = random_reward(0, *shape)
    for run in (zero_sum, jax.jit(zero_sum)):
        ours = run(reward)
        assert ours.shape == shape and ours.dtype == jnp.float32
        expected = [literal_zero_sum(game) for game in each_game(reward)]
        np.testing.assert_allclose(each_game(np.asarray(ours)), expected, rtol=1e-5, atol=1e-5)
    for run in (team_spirit, jax.jit(team_spirit)):
        for tau in (0.0, 0.3, 1.0):
            ours = run(reward, tau)
            assert ours.shape == shape and ours.dtype == jnp.float32
            expected = [literal_team_spirit(game, tau) for game in each_game(reward)]
            np.testing.assert_allclose(each_game(np.asarray(ours)), expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    """Two teams of two: 4 and 0, whose mean is 2; 1 and 5, whose mean is 3."""
    reward = np.array([[4.0, 0.0], [1.0, 5.0]], np.float32)
    np.testing.assert_array_equal(zero_sum(reward), [[1.0, -3.0], [-1.0, 3.0]])
    np.testing.assert_array_equal(team_spirit(reward, 0.5), [[3.0, 1.0], [2.0, 4.0]])


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_sum_sums_to_zero(shape):
    ours = zero_sum(random_reward(1, *shape))
    np.testing.assert_allclose(np.sum(ours, (-2, -1)), np.zeros(shape[:-2]), atol=1e-4)
    assert np.all(np.any(ours != 0, (-2, -1)))


def test_zero_sum_of_a_zero_sum_game_of_two_players_doubles_it():
    """The winner's 1 and the loser's -1 become 2 and -2: who wins is the same, the scale is not."""
    np.testing.assert_array_equal(zero_sum(jnp.array([[1.0], [-1.0]])), [[2.0], [-2.0]])


def test_zero_sum_does_not_say_which_player_of_a_team_earned_it():
    """Differences within a team are left as they are."""
    reward = random_reward(2, 5, 2, 4)
    ours = np.asarray(zero_sum(reward))
    within = np.diff(reward, axis=-1)
    np.testing.assert_allclose(np.diff(ours, axis=-1), within, rtol=1e-5, atol=1e-5)


def test_swapping_teams_or_players_swaps_rewards_and_games_do_not_mix():
    reward = random_reward(3, 6, 2, 3)
    for run in (zero_sum, lambda x: team_spirit(x, 0.4)):
        np.testing.assert_array_equal(run(reward[:, ::-1]), run(reward)[:, ::-1])
        players = run(reward[:, :, ::-1])[:, :, ::-1]
        np.testing.assert_allclose(players, run(reward), rtol=1e-5, atol=1e-5)
        for game in range(6):
            alone = run(reward[game])
            np.testing.assert_allclose(alone, run(reward)[game], rtol=1e-6, atol=1e-6)


def test_no_spirit_changes_nothing_and_full_spirit_makes_teammates_equal():
    reward = random_reward(4, 5, 2, 4)
    np.testing.assert_array_equal(team_spirit(reward, 0.0), reward)
    ours = team_spirit(reward, 1.0)
    mean = np.broadcast_to(reward.mean(-1, keepdims=True), reward.shape)
    np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=1e-5)


def test_the_order_does_not_matter_and_the_mean_of_a_team_is_kept():
    reward = random_reward(5, 5, 3, 4)
    one = team_spirit(zero_sum(reward), 0.3)
    other = zero_sum(team_spirit(reward, 0.3))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    kept = team_spirit(reward, 0.3).mean(-1)
    np.testing.assert_allclose(kept, reward.mean(-1), rtol=1e-5, atol=1e-5)


def test_alone_in_a_team_there_is_nobody_to_share_with():
    reward = random_reward(6, 5, 2, 1)
    np.testing.assert_allclose(team_spirit(reward, 0.7), reward, rtol=1e-6)


def test_gradients():
    reward = random_reward(7, 3, 2, 4)
    run = jax.jit(lambda x, tau: team_spirit(zero_sum(x), tau))
    check_grads(run, (reward, 0.3), order=1, atol=1e-2, rtol=1e-2)
    grad = jax.grad(lambda x: zero_sum(x)[0, 0])(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_array_equal(grad, [[1.0, 0.0], [-0.5, -0.5]])


def test_a_sweeps_taus_by_vmap():
    reward, taus = random_reward(8, 3, 2, 4), np.array([0.0, 0.5, 1.0], np.float32)
    swept = jax.vmap(team_spirit, (None, 0))(reward, taus)
    for tau, ours in zip(taus, swept, strict=True):
        np.testing.assert_allclose(ours, team_spirit(reward, float(tau)), rtol=1e-6, atol=1e-6)


def test_devices_agree():
    reward = random_reward(9, 8, 2, 3)
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    run = jax.shard_map(
        lambda x: team_spirit(zero_sum(x), 0.3),
        mesh=mesh,
        in_specs=jax.P("batch"),
        out_specs=jax.P("batch"),
    )
    ours = jax.jit(run)(reward)
    assert len(ours.sharding.device_set) == 4
    np.testing.assert_allclose(ours, team_spirit(zero_sum(reward), 0.3), rtol=1e-5, atol=1e-5)


def test_extreme_rewards_stay_finite_and_keep_the_others_digits():
    big = np.full((3, 2), 1e30, np.float32) * np.array([[1.0], [-1.0], [0.0]], np.float32)
    for sign in (-1.0, 1.0):
        for ours in (zero_sum(sign * big), team_spirit(sign * big, 0.5)):
            assert np.all(np.isfinite(ours))
    # A reward of 1e8 in float32 is a multiple of 8: 4 added to it and taken from it is lost.
    reward = np.array([[1e8, 0.0], [1.0, 1.0], [3.0, 3.0]], np.float32)
    assert zero_sum(reward)[0, 1] == -2.0


def test_what_cannot_be_computed_is_refused_in_a_sentence():
    for run in (zero_sum, lambda x: team_spirit(x, 0.5)):
        with pytest.raises(
            ValueError, match=r"reward \(4,\) must be \[\.\.\., team, player\].*\.$"
        ):
            run(np.zeros(4))
        with pytest.raises(ValueError, match=r"reward \(2, 0\) must be .* with players\.$"):
            run(np.zeros((2, 0)))
    with pytest.raises(ValueError, match=r"at least 2 teams, not those of \(1, 5\)\.$"):
        zero_sum(np.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"tau \(2,\) must be a number\.$"):
        team_spirit(np.zeros((2, 5)), np.zeros(2))
