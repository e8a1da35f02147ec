"""Rewards of players in teams are made zero-sum between teams and shared within a team.

Berner et al. 2019, "Dota 2 with Large Scale Deep Reinforcement Learning",
https://arxiv.org/abs/1912.06680, the appendix on reward weights.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def zero_sum(reward: jax.Array) -> jax.Array:
    """Subtract from each player's reward the mean reward of its opponents.

      r_i <- r_i - mean_{j not in i's team} r_j

    The rewards of all players of a game then sum to 0, so what helps an opponent costs as much.
    With two teams, as in the paper, the opponents are the other team; with more, all other teams.

    Args:
      reward: [..., team, player] r_i, of 2 teams or more of equal size.

    Returns:
      [..., team, player] rewards in the same unit; gradient flows.

    Raises:
      ValueError: there are no axes for team and player, or fewer than 2 teams, or no players.
    """
    _check_shape(reward)
    teams = reward.shape[-2]
    if teams < 2:
        raise ValueError(f"zero-sum rewards need at least 2 teams, not those of {reward.shape}.")
    mean = jnp.mean(reward, -1)  # [..., team]
    # Not the sum over all teams minus the own team's: in float32 a large reward of the own team
    # would round away digits of the others'.
    others = [jnp.mean(jnp.delete(mean, team, axis=-1), -1) for team in range(teams)]
    return reward - jnp.stack(others, -1)[..., None]


def team_spirit(reward: jax.Array, tau: float | jax.Array) -> jax.Array:
    """Share a part tau of the rewards of a team equally between its players.

      r_i <- (1 - tau) r_i + tau mean_{j in i's team} r_j

    With tau 0 each player plays for itself, with tau 1 for its team. The mean of each team does not
    change, so zero_sum may come before or after. The paper raises tau from 0.3 to 1 over training.

    Args:
      reward: [..., team, player] r_i.
      tau: team spirit, between 0 and 1, a number.

    Returns:
      [..., team, player] rewards in the same unit; gradient flows.

    Raises:
      ValueError: there are no axes for team and player, or no players, or tau is no number.
    """
    _check_shape(reward)
    if jnp.ndim(tau) > 0:
        raise ValueError(f"tau {jnp.shape(tau)} must be a number.")
    mean = jnp.mean(reward, -1, keepdims=True)  # [..., team, 1]
    return (1.0 - tau) * reward + tau * mean


def _check_shape(reward) -> None:
    if jnp.ndim(reward) < 2 or reward.shape[-1] == 0:
        raise ValueError(f"reward {jnp.shape(reward)} must be [..., team, player] with players.")
