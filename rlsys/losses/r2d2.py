"""What R2D2 makes of a sequence's errors: its priority and its loss.

Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning",
https://openreview.net/forum?id=r1lyTjAqYX, §2.3.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def sequence_priority(td_error: jax.Array, mask: jax.Array, *, eta: float = 0.9) -> jax.Array:
    """Priorities of sequences in replay.

      p = eta max_i |delta_i| + (1 - eta) mean_i |delta_i|

    over the steps i that the sequence learns from; padding counts neither as a zero in the mean
    nor in its length.

    Args:
      td_error: [T, ...] delta, time first; what is not learned from may be anything.
      mask: [T, ...] bool, True where the step is learned from.
      eta: weight of the largest error, between 0 and 1.

    Returns:
      [...] priorities, 0 where no step is learned from; no gradient flows.

    Raises:
      ValueError: shapes do not agree.
    """
    if td_error.shape != mask.shape:
        raise ValueError(f"td_error {td_error.shape} and mask {mask.shape} must have one shape.")
    error = jnp.where(mask, jnp.abs(td_error), 0.0)
    mean = jnp.sum(error, 0) / jnp.maximum(jnp.sum(mask, 0), 1)
    return jax.lax.stop_gradient(eta * jnp.max(error, 0) + (1.0 - eta) * mean)


def sequence_loss(td_error: jax.Array, mask: jax.Array, weights: jax.Array) -> jax.Array:
    """Squared errors, summed over time and averaged over the batch.

      loss = 1/B sum_b w_b 1/2 sum_t mask_tb delta_tb^2

    The mean is over all B sequences, however many steps each learns from, so the mean of equal
    shards' losses is the loss of the whole batch.

    Args:
      td_error: [T, B] delta, time first; what is not learned from may be anything.
      mask: [T, B] bool, True where the step is learned from.
      weights: [B] importance weights, over the largest of the whole batch on all devices.

    Returns:
      [] loss; gradient flows through td_error.

    Raises:
      ValueError: shapes do not agree, or B is 0.
    """
    if td_error.shape != mask.shape or td_error.shape[1:] != weights.shape:
        raise ValueError(
            f"td_error {td_error.shape} and mask {mask.shape} must be [T, B]"
            f" for weights [B] {weights.shape}."
        )
    if weights.size == 0:
        raise ValueError(f"a batch needs at least one sequence, not weights {weights.shape}.")
    error = jnp.where(mask, td_error, 0.0)
    return jnp.mean(jax.lax.stop_gradient(weights) * 0.5 * jnp.sum(error**2, 0))
