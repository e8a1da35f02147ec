"""Running statistics of observations, by which a network normalises what it sees.

Each entry of an observation (each pixel of an image) has its own mean and variance, in which every
observation learned from so far counts equally. They lie beside the parameters, in the collection
"statistics" of {"params": ..., "statistics": ...}: actors copy them, checkpoints hold them, and no
gradient reaches them.

Chan et al. 1983, "Algorithms for computing the sample variance",
https://doi.org/10.1080/00031305.1983.10483115: the parallel update.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CLIP = 5.0  # deviations that a normalised entry may be from the mean, either way
LEAST_DEVIATION = 1e-6  # an entry that never changes becomes 0, and not nan


class Statistics(NamedTuple):
    """Describe one array of the observation; [...] is its shape, without stacked frames."""

    mean: Any  # [...] float32
    variance: Any  # [...] float32; a second moment less a squared mean would lose its digits
    rest: Any  # [...] float32 what float32 cannot hold of the mean beside mean itself
    count: Any  # type: ignore[assignment]  # [] float32, observations seen


def init(mean, deviation) -> Statistics:
    """Returns statistics that have seen nothing: the first update replaces them.

    Args:
      mean, deviation: [...] what to normalise by until then.
    """
    mean, deviation = jnp.asarray(mean, jnp.float32), jnp.asarray(deviation, jnp.float32)
    return Statistics(mean, deviation**2, jnp.zeros_like(mean), jnp.zeros(()))


def update(
    state: Statistics, x: jax.Array, mask: jax.Array, *, axis_name: str | None = None
) -> Statistics:
    """Returns statistics that have seen a batch of observations, too.

      mu <- mu + w d,  sigma^2 <- (1 - w) sigma^2 + w s^2 + w (1 - w) d^2,
      w = n / (n + N),  d = m - mu

    with m and s^2 the mean and variance of the batch's n observations, and N seen before. Batch
    size and number of devices do not matter.

    Args:
      x: [T, B, ...] an array of the observation.
      mask: [T, B] bool, True where it counts.
      axis_name: of the devices that the batch is spread over, inside shard_map or pmap.

    Returns:
      Statistics, the same on all devices; as they were, if nothing counts.
    """
    x = x.reshape(-1, *x.shape[2:]).astype(jnp.float32)  # [N, ...]
    counts = mask.reshape(-1, *[1] * (x.ndim - 1)).astype(bool)  # [N, 1, ...]

    def totals(*xs):
        sums = [jnp.sum(jnp.where(counts, x, 0.0), axis=0) for x in xs]
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    # The batch's mean from the old one, then its spread about a center that is a float32 near it.
    start = state
    ones = jnp.ones((x.shape[0], *[1] * (x.ndim - 1)))
    n, sum_d = totals(ones, x - state.mean[None])  # [1, ...] and [...]
    n = n.reshape(())
    some = jnp.maximum(n, 1.0)
    center = state.mean + sum_d / some
    # From the first batch on, steps are small enough for float32 to hold what rest needs of them.
    state = state._replace(mean=jnp.where(state.count > 0.0, state.mean, center))
    sum_e, sum_e2 = totals(x - center[None], (x - center[None]) ** 2)
    error = sum_e / some  # m - center
    spread = jnp.maximum(sum_e2 / some - error**2, 0.0)
    move = (center - state.mean) + (error - state.rest)  # m - mu

    weight = n / jnp.maximum(state.count + n, 1.0)
    step = state.rest + weight * move
    mean = state.mean + step
    new = Statistics(
        mean=mean,
        variance=(1.0 - weight) * (state.variance + weight * move**2) + weight * spread,
        rest=step - (mean - state.mean),
        count=state.count + n,
    )
    return jax.tree.map(lambda new, old: jnp.where(n > 0.0, new, old), new, start)


def normalize(state: Statistics, x: jax.Array) -> jax.Array:
    """Computes (x - mu) / sigma of each entry, held within CLIP.

    Args:
      x: [N, ...]; an image may hold several frames, side by side on its last axis.

    Returns:
      [N, ...] float32.
    """
    deviation = jnp.maximum(jnp.sqrt(state.variance), LEAST_DEVIATION)
    if x.ndim > 1:
        repeats = x.shape[-1] // state.mean.shape[-1]
        tile = (*[1] * (x.ndim - 2), repeats)
        mean, rest, deviation = (jnp.tile(a, tile) for a in (state.mean, state.rest, deviation))
    else:
        mean, rest = state.mean, state.rest
    z = ((x.astype(jnp.float32) - mean[None]) - rest[None]) / deviation[None]
    return jnp.clip(z, -CLIP, CLIP)
