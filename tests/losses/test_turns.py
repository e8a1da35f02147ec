"""turns: a player's advantages are those of its own states alone, whatever lies between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsys.losses.gae import gae
from rlsys.losses.turns import turns

GAMMA, LAMBDA = 0.9, 0.7


def literal(to_move, ended, truncated, reward, v):
    """Advantages of one row's own steps by definition, float64; nan where a step is not complete.

    From one own state to the next lie rewards and powers of gamma; a time limit bootstraps.
    """
    length = len(reward)
    advantage = np.full(length, np.nan)

    def step(t):
        """Returns the error of the player's step at t, its next step or None, and the discount."""
        total, discount = 0.0, 1.0
        for s in range(t + 1, length + 1):
            total += discount * reward[s - 1]
            discount *= GAMMA
            if ended[s - 1]:
                return total - v[t], None, 0.0
            if to_move[s]:
                error = total + discount * v[s] - v[t]
                return error, (None if truncated[s - 1] else s), discount
            if truncated[s - 1]:
                return np.nan, None, 0.0
        return np.nan, None, 0.0

    for t in reversed(range(length)):
        if not to_move[t]:
            continue
        advantage[t], following, discount = step(t)
        if following is not None and following < length and not np.isnan(advantage[following]):
            advantage[t] += discount * LAMBDA * advantage[following]
    return advantage


def made_up(seed, length=23, batch=64):
    rng = np.random.default_rng(seed)
    to_move = rng.random((length + 1, batch)) < 0.5
    ended = rng.random((length, batch)) < 0.1
    truncated = ~ended & (rng.random((length, batch)) < 0.1)
    to_move[1:][ended] = False
    reward, v = rng.normal(size=(length, batch)), rng.normal(size=(length + 1, batch))
    return to_move, ended, truncated, reward, v


def ours(to_move, ended, truncated, reward, v):
    discount_t, limit = 1.0 - ended, LAMBDA * (1.0 - truncated)
    own = turns(jnp.array(to_move), jnp.array(discount_t), jnp.array(truncated), lambda_=limit)
    values = [jnp.array(x) for x in (v[:-1], v[1:], reward, GAMMA * discount_t)]
    return gae(*values, lambda_=own.lambda_t), own.complete


@pytest.mark.parametrize("seed", range(3))
def test_advantages_are_those_of_the_players_own_states(seed):
    to_move, ended, truncated, reward, v = made_up(seed)
    v = np.where(to_move, v, 1e3)  # of states in which another moves: nonsense
    for row in range(to_move.shape[1]):  # a truncated row that waits bootstraps from nothing
        v[1:][truncated[:, row] & to_move[1:, row], row] += 0.5
    with jax.enable_x64(True):
        advantage, complete = ours(to_move, ended, truncated, reward, v)
    rows = [
        literal(*(x[:, row] for x in (to_move, ended, truncated, reward, v)))
        for row in range(to_move.shape[1])
    ]
    expected, own = np.stack(rows, axis=1), to_move[:-1]
    np.testing.assert_array_equal(np.asarray(complete)[own], ~np.isnan(expected)[own])
    where = own & np.asarray(complete)
    assert 0.3 < where.mean() < 0.5
    np.testing.assert_allclose(np.asarray(advantage)[where], expected[where], rtol=1e-9, atol=1e-9)


def test_without_other_players_it_is_plain_gae():
    to_move, ended, truncated, reward, v = made_up(3)
    to_move[:] = True
    advantage, complete = ours(to_move, ended, truncated, reward, v)
    limit = LAMBDA * (1.0 - truncated)
    plain = gae(v[:-1], v[1:], reward, GAMMA * (1.0 - ended), lambda_=limit)
    np.testing.assert_allclose(advantage, plain, rtol=1e-6)
    assert complete.all()


def test_a_reward_reaches_the_action_before_the_others_move():
    """x_0 is mine, x_1 the other's, who ends the game: I lose by it."""
    to_move, ended = np.array([[True], [False], [False]]), np.array([[False], [True]])
    reward, v = np.array([[0.0], [-1.0]]), np.array([[0.25], [77.0], [77.0]])
    advantage, complete = ours(to_move, ended, np.zeros_like(ended), reward, v)
    np.testing.assert_allclose(advantage[0], -GAMMA - 0.25, rtol=1e-5)
    assert complete[0]


def test_one_step_and_nothing_known():
    to_move, ended = np.array([[True], [False]]), np.array([[False]])
    advantage, complete = ours(to_move, ended, ended, np.zeros((1, 1)), np.zeros((2, 1)))
    assert advantage.shape == complete.shape == (1, 1)
    assert not complete.any()
