"""PopArt brings value targets of many tasks to one scale; unnormalised outputs stay the same.

van Hasselt et al. 2016, "Learning values across many orders of magnitude",
https://arxiv.org/abs/1602.07714, §2; for many tasks Hessel et al. 2019, "Multi-task Deep
Reinforcement Learning with PopArt", https://arxiv.org/abs/1809.04474.

In a learner step, update the statistics with the new targets, preserve the last layer's outputs
under them, then learn from normalised targets.

This file needs jax and nothing else: copy it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PopArtState(NamedTuple):
    """Holds the mean and the variance of the targets of each of N tasks, in units of return.

    The variance is kept, not the second moment nu: in float32, nu - mu^2 has no digit left once the
    mean is some 1,000 deviations.
    """

    mean: jax.Array  # [N] mu
    variance: jax.Array  # [N] sigma^2
    count: jax.Array  # type: ignore[assignment]  # [N] float32, number of targets seen
    rest: jax.Array | float = 0.0  # [N] the exact mean minus the rounded `mean`


def init(num_tasks: int) -> PopArtState:
    """Return the first PopArtState, which changes nothing: mean 0, scale 1 of every task."""
    zeros, ones = jnp.zeros(num_tasks, jnp.float32), jnp.ones(num_tasks, jnp.float32)
    # Copies: a state may be donated, and the same buffer may not be donated twice.
    return PopArtState(zeros, ones, count=jnp.copy(zeros), rest=jnp.copy(zeros))


def scale(
    state: PopArtState, *, min_scale: float | jax.Array = 1e-4, max_scale: float = 1e6
) -> jax.Array:
    """Compute sigma of each task, within the bounds that Hessel et al. 2019 use.

    Args:
      state: PopArtState.
      min_scale: lower bound of sigma, in units of return, a number or [N].
      max_scale: upper bound of sigma.

    Returns:
      [N] sigma, in units of return; gradient flows.
    """
    return jnp.clip(jnp.sqrt(state.variance), min_scale, max_scale)


def with_floor(state: PopArtState, relative: float | jax.Array) -> PopArtState:
    """Return statistics whose sigma is at least relative |mu|, for a loss to use.

    The returns of a policy that is all but perfect hardly differ. In units of their deviation the
    smallest error of a value is large, and its loss takes over a network shared with the policy.
    The floor measures errors by a share of the values' size instead; the papers have none. Update
    the exact state, and give those returned here to scale, normalize, unnormalize and
    preserve_outputs.

    Args:
      state: PopArtState.
      relative: smallest sigma as a share of |mu|, at least 0; a number or [N].

    Returns:
      PopArtState of which only the variance may differ.
    """
    floor = relative * jnp.abs(state.mean)
    return state._replace(variance=jnp.maximum(state.variance, floor**2))


def update(
    state: PopArtState,
    targets: jax.Array,
    task: jax.Array,
    *,
    step_size: float | jax.Array,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> PopArtState:
    """Update the statistics with a batch of targets y.

      mu <- (1 - w) mu + w mean(y),  nu <- (1 - w) nu + w mean(y^2),  w = 1 - (1 - beta)^n

    This is done for each task, with means over its n targets. w is the weight that n updates of the
    paper's step size beta, one target each, give to all n together, so neither the batch size nor
    the number of devices matters. (Adding up n steps of size beta, as is often done, diverges if
    n beta > 2.) A task without targets in the batch keeps its statistics.

    The variance sigma^2 = nu - mu^2 is computed about the batch's own mean, which is the same in
    exact arithmetic and loses no digits where the mean is large:

      sigma^2 <- (1 - w) sigma^2 + w var(y) + w (1 - w) (mean(y) - mu)^2

    Args:
      state: PopArtState.
      targets: [T, ...] y, unnormalised; up to about 1e15.
      task: [...] int, the task of each target; any shape that broadcasts to that of targets.
      step_size: beta, in (0, 1], a number or [N].
      mask: [T, ...] bool, True where y counts; any shape that broadcasts to that of targets.
      axis_name: name of the axis of devices that the batch is spread over, inside shard_map or
        pmap; None if the batch is whole.

    Returns:
      PopArtState, the same on all devices; no gradient flows.

    Raises:
      ValueError: shapes do not agree.
    """
    num_tasks = state.mean.shape[0]
    if jnp.shape(step_size) not in ((), (num_tasks,)):
        raise ValueError(f"step_size {jnp.shape(step_size)} must be a number or [{num_tasks}].")
    y = jnp.asarray(targets, jnp.float32)
    counts = jnp.ones_like(y, bool) if mask is None else _broadcast("mask", mask, y).astype(bool)
    each = y[0] if jnp.ndim(task) < y.ndim else y  # task has no time axis: sum over time first
    task = _broadcast("task", task, each)
    belongs = jax.nn.one_hot(task, num_tasks, dtype=bool)  # [..., N]

    def totals(*xs):
        """Sums each x [T, ...] by task: [N]. No scatter: on GPU its order of summation varies."""

        def total(x):
            x = jnp.where(counts, x, 0.0)
            x = jnp.sum(x, 0) if each.ndim < x.ndim else x
            return jnp.sum(jnp.where(belongs, x[..., None], 0.0), range(x.ndim))

        sums = [total(x) for x in xs]
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    def of_task(x):
        """Gives each target its task's x: [N] -> [T, ...]."""
        return jnp.broadcast_to(jnp.asarray(x)[task], y.shape)

    # First the batch's mean, relative to the old; then its spread about center, that mean rounded.
    n, sum_d = totals(jnp.ones_like(y), y - of_task(state.mean))
    some = jnp.maximum(n, 1.0)
    center = state.mean + sum_d / some
    e = y - of_task(center)
    sum_e, sum_e2 = totals(e, e**2)
    error = sum_e / some  # mean(y) - center
    variance = jnp.maximum(sum_e2 / some - error**2, 0.0)

    log_keep = some * jnp.log1p(-jnp.asarray(step_size, jnp.float32))  # -inf for step size 1
    keep, weight = jnp.exp(log_keep), -jnp.expm1(log_keep)
    # If nothing old is kept, start at center: a step from far away would be rounded at its size.
    start = jnp.where(keep > 0.0, state.mean, center), jnp.where(keep > 0.0, state.rest, 0.0)
    move = (center - start[0]) + (error - start[1])  # mean(y) - mu
    step = start[1] + weight * move
    mean = start[0] + step
    new = PopArtState(
        mean=mean,
        variance=keep * state.variance + weight * (variance + keep * move**2),
        count=state.count + n,
        rest=step - (mean - start[0]),
    )
    new = jax.tree.map(lambda new, old: jnp.where(n > 0.0, new, old), new, state)
    return jax.lax.stop_gradient(new)


def normalize(state: PopArtState, x: jax.Array, task: jax.Array) -> jax.Array:
    """Compute (x - mu) / sigma with mu and sigma of each x's task.

    Args:
      state: PopArtState.
      x: [T, ...] in units of return.
      task: [...] int; any shape that broadcasts to that of x.

    Returns:
      [T, ...] normalised; gradient flows into x only.

    Raises:
      ValueError: shapes do not agree.
    """
    mean, sigma = _of_task(state, x, task)
    return (x - mean) / sigma


def unnormalize(state: PopArtState, x: jax.Array, task: jax.Array) -> jax.Array:
    """Compute sigma x + mu of each x's task, which undoes normalize.

    Args:
      state: PopArtState.
      x: [T, ...] normalised.
      task: [...] int; any shape that broadcasts to that of x.

    Returns:
      [T, ...] in units of return; gradient flows into x only.

    Raises:
      ValueError: shapes do not agree.
    """
    mean, sigma = _of_task(state, x, task)
    return sigma * x + mean


def preserve_outputs(
    old: PopArtState, new: PopArtState, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rescale the last layer so that its unnormalised outputs stay equal under new statistics.

      W' = (sigma / sigma') W,  b' = (sigma b + mu - mu') / sigma'

    Args:
      old: PopArtState that kernel and bias belong to.
      new: PopArtState that the result is to belong to.
      kernel: [D, N] W of the layer, which has one normalised value for each task.
      bias: [N] b of the layer.

    Returns:
      kernel W' [D, N] and bias b' [N]; gradient flows.

    Raises:
      ValueError: shapes do not agree.
    """
    if kernel.ndim != 2 or not kernel.shape[1:] == bias.shape == old.mean.shape == new.mean.shape:
        raise ValueError(
            f"kernel {kernel.shape} must be [D, N] and bias {bias.shape} [N]"
            f" for statistics [N] {old.mean.shape} and {new.mean.shape}."
        )
    ratio = scale(old) / scale(new)
    bias = ratio * bias + (old.mean - new.mean) / scale(new)
    return kernel * ratio[None], bias


def _of_task(state, x, task) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the scale of each x's task, both in the shape of x."""
    mean, sigma = jax.lax.stop_gradient((state.mean[task], scale(state)[task]))
    return _broadcast("task", mean, x), _broadcast("task", sigma, x)


def _broadcast(name, x, to) -> jax.Array:
    try:
        return jnp.broadcast_to(x, to.shape)
    except ValueError:
        raise ValueError(f"{name} {jnp.shape(x)} must broadcast to {to.shape}.") from None
