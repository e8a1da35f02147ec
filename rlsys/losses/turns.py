"""This file cuts the returns of a player who moves in turn with others to the player's own turns.

The rule is ours.

This file needs jax and nothing else: copy it.
"""

from typing import NamedTuple

import jax


class Turns(NamedTuple):
    """Says how a player's steps are learned from."""

    complete: jax.Array  # [T, ...] bool, the unroll shows what became of the step
    lambda_t: jax.Array  # [T, ...] for gae or vtrace, at x_1 .. x_T


def turns(to_move, discount_t, truncated_t, *, lambda_) -> Turns:
    """Compute which steps to learn from, and lambda, so that no return bootstraps from a state in
    which another player is to move.

    Such a state is nobody's to learn, as the player does not act there, so its value means nothing.
    With lambda_t = 1 it cancels from the sum of temporal differences around it. Where an unroll
    ends, or a time limit cuts an episode, while another player moves, the last step of the player
    is not complete, and the one before must not reach beyond it: lambda_t = 0 there.

    Args:
      to_move: [T + 1, ...] bool, the player chooses the action in x_0 .. x_T.
      discount_t: [T, ...] 0 where x_1 .. x_T ended its episode.
      truncated_t: [T, ...] bool, x_1 .. x_T is its episode's last by time limit only.
      lambda_: number or [T, ...], for the player's own states; 0 where an episode is truncated.

    Returns:
      Turns. A step with `complete` False must not be learned from.
    """
    known_t = to_move[1:] | (discount_t == 0)

    def backwards(later, at_t):
        known, truncated = at_t
        return known | (later & ~truncated), later & ~truncated

    # complete[t]: of the step from x_t; after[t]: of the step from x_{t+1}, within its episode.
    nothing = known_t[-1] & False
    _, after = jax.lax.scan(backwards, nothing, (known_t, truncated_t), reverse=True)
    complete = known_t | after
    last = truncated_t[-1] | True  # at x_T lambda does not matter
    goes_on = jax.numpy.concatenate([complete[1:], last[None]])
    own = jax.numpy.where(goes_on, lambda_, 0.0)
    lambda_t = jax.numpy.where(to_move[1:] | truncated_t, own, 1.0)
    return Turns(complete, lambda_t)
