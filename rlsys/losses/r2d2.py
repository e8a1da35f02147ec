"""R2D2 computes the priority and the loss of a sequence from its errors.

Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning",
https://openreview.net/forum?id=r1lyTjAqYX, §2.3.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def sequence_priority(td_error: jax.Array, mask: jax.Array, *, eta: float = 0.9) -> jax.Array:
    """Compute the priorities of sequences in replay.

      p = eta max_i |delta_i| + (1 - eta) mean_i |delta_i|

    The maximum and the mean are over the steps i that the sequence learns from. Padding is not
    one of them: it adds no zero to the mean and does not count in its length.

    Args:
      td_error: [T, ...] delta, time first; anything, also nan, where the mask is False.
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
    """Compute the loss of a batch: squared errors, summed over time, averaged over sequences.

      loss = 1/B sum_b w_b 1/2 sum_t mask_tb delta_tb^2

    The mean is over all B sequences, however many steps each of them learns from. So if a batch is
    split evenly over devices, the mean of their losses is the loss of the whole batch.

    Args:
      td_error: [T, B] delta, time first; anything, also nan, where the mask is False.
      mask: [T, B] bool, True where the step is learned from.
      weights: [B] importance weights, divided by the largest of the whole batch on all devices.

    Returns:
      [] loss; gradient flows into td_error only.

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
