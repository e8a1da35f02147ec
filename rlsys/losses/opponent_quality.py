"""A past self is drawn as an opponent with a probability that grows with its quality.

Berner et al. 2019, "Dota 2 with Large Scale Deep Reinforcement Learning",
https://arxiv.org/abs/1912.06680, section 3.3 and appendix N, "Opponent sampling".

This file needs jax and nothing else: copy it.
"""

import jax


def opponent_probabilities(quality: jax.Array) -> jax.Array:
    """Compute how likely each past self is drawn.

      p_i = exp(q_i) / sum_j exp(q_j)

    Args:
      quality: [N] q_i of N past selves.

    Returns:
      [N] probabilities.
    """
    return jax.nn.softmax(quality)


def quality_after_win(
    quality: jax.Array, i: int, *, eta: float = 0.01, p_i: float | None = None
) -> jax.Array:
    """Lower the quality of past self i, which the learner has beaten.

      q_i <- q_i - eta / (N p_i)

    Divided by p_i, the mean step does not depend on how often i is drawn. That holds only for the
    p_i with which i was drawn: if many games end before the next draw and the step is taken with
    the present p_i, each win makes the next step larger, without bound. Nothing changes on a loss.

    Args:
      quality: [N] q of N past selves.
      i: the one that lost, 0 to N - 1.
      eta: the size of a step.
      p_i: the probability with which i was drawn for the game; None for the present one.

    Returns:
      [N] qualities.
    """
    chance = opponent_probabilities(quality)[i] if p_i is None else p_i
    return quality.at[i].add(-eta / (len(quality) * chance))
