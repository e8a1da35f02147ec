"""PopArt: value targets of many tasks on one scale, without a change of what the network says.

van Hasselt et al. 2016, "Learning values across many orders of magnitude",
https://arxiv.org/abs/1602.07714, §2; for many tasks Hessel et al. 2019, "Multi-task Deep
Reinforcement Learning with PopArt", https://arxiv.org/abs/1809.04474.

A learner step: update the statistics with the new targets, preserve the last layer's outputs
under them, then learn from normalised targets.

This file needs jax and nothing else: copy it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PopArtState(NamedTuple):
    """Statistics of each of N tasks' targets, in units of return.

    The variance is kept, not the second moment: nu - mu^2 has no digit left in float32 once the
    mean is some 1,000 deviations.
    """

    mean: jax.Array  # [N] mu
    variance: jax.Array  # [N] sigma^2
    count: jax.Array  # type: ignore[assignment]  # [N] float32, samples that each task gave
    rest: jax.Array | float = 0.0  # [N] what float32 cannot hold of the mean beside mean itself


def init(num_tasks: int) -> PopArtState:
    """Statistics that change nothing: mean 0, scale 1."""
    zeros, ones = jnp.zeros(num_tasks, jnp.float32), jnp.ones(num_tasks, jnp.float32)
    # Copies, since a state may be donated, and no buffer twice.
    return PopArtState(zeros, ones, count=jnp.copy(zeros), rest=jnp.copy(zeros))


def scale(
    state: PopArtState, *, min_scale: float | jax.Array = 1e-4, max_scale: float = 1e6
) -> jax.Array:
    """sigma of each task, [N], kept within the bounds that Hessel et al. 2019 use.

    min_scale may be a number or [N], for a loss that wants a larger floor.
    """
    return jnp.clip(jnp.sqrt(state.variance), min_scale, max_scale)


def with_floor(state: PopArtState, relative: float | jax.Array) -> PopArtState:
    """The statistics as a loss may want to see them: sigma at least relative |mu|.

    Where a policy is all but perfect its returns hardly differ, and in units of their deviation
    the smallest error of the values is a large one. Values that must not take over a shared
    network are measured by a share of their size instead. Keep the exact statistics, and give
    what this returns to scale, normalize, unnormalize and preserve_outputs.

    Args:
      state: PopArtState.
      relative: share of |mu| that sigma is not to fall below, at least 0; a number or [N].
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
    """Statistics that have seen a batch of targets y.

      mu <- (1 - w) mu + w mean(y),  nu <- (1 - w) nu + w mean(y^2),  w = 1 - (1 - beta)^n

    for each task, with the means over its n samples: the weight that n updates of the paper's
    step size beta, one sample each, give to the samples together. Hence neither batch size nor
    number of devices matters. (n steps of size beta added up, as often seen, diverge for n beta
    > 2.) A task without samples keeps its statistics.

    It is computed about the batch's own mean, which says the same of sigma^2 = nu - mu^2 and loses
    no digits where the mean is large:

      sigma^2 <- (1 - w) sigma^2 + w var(y) + w (1 - w) (mean(y) - mu)^2

    Args:
      state: PopArtState.
      targets: [T, ...] y, unnormalised; up to about 1e15.
      task: [...] int, of whom y is a target; any shape that broadcasts to that of targets.
      step_size: beta, in (0, 1], a number or [N].
      mask: [T, ...] bool, True where y counts; any shape that broadcasts to that of targets.
      axis_name: of the devices that the batch is spread over, inside shard_map or pmap.

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
    each = y[0] if jnp.ndim(task) < y.ndim else y  # task says nothing of time: sum over it first
    task = _broadcast("task", task, each)
    belongs = jax.nn.one_hot(task, num_tasks, dtype=bool)  # [..., N]

    def totals(*xs):
        """[T, ...] each -> [N] each. No scatter, whose order of summation varies on GPU."""

        def total(x):
            x = jnp.where(counts, x, 0.0)
            x = jnp.sum(x, 0) if each.ndim < x.ndim else x
            return jnp.sum(jnp.where(belongs, x[..., None], 0.0), range(x.ndim))

        sums = [total(x) for x in xs]
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    def of_task(x):
        """[N] -> [T, ...]: each target's own."""
        return jnp.broadcast_to(jnp.asarray(x)[task], y.shape)

    # The batch's mean from the old one, then its spread about a center that is a float32 near it.
    n, sum_d = totals(jnp.ones_like(y), y - of_task(state.mean))
    some = jnp.maximum(n, 1.0)
    center = state.mean + sum_d / some
    e = y - of_task(center)
    sum_e, sum_e2 = totals(e, e**2)
    error = sum_e / some  # mean(y) - center
    variance = jnp.maximum(sum_e2 / some - error**2, 0.0)
    move = (center - state.mean) + (error - state.rest)  # mean(y) - mu

    log_keep = some * jnp.log1p(-jnp.asarray(step_size, jnp.float32))  # -inf for step size 1
    keep, weight = jnp.exp(log_keep), -jnp.expm1(log_keep)
    step = state.rest + weight * move
    mean = state.mean + step
    new = PopArtState(
        mean=mean,
        variance=keep * state.variance + weight * (variance + keep * move**2),
        count=state.count + n,
        rest=step - (mean - state.mean),
    )
    new = jax.tree.map(lambda new, old: jnp.where(n > 0.0, new, old), new, state)
    return jax.lax.stop_gradient(new)


def normalize(state: PopArtState, x: jax.Array, task: jax.Array) -> jax.Array:
    """(x - mu) / sigma of each x's task.

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
    """sigma x + mu of each x's task: undoes normalize, with the same arguments."""
    mean, sigma = _of_task(state, x, task)
    return sigma * x + mean


def preserve_outputs(
    old: PopArtState, new: PopArtState, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The last layer under new statistics, with the unnormalised outputs that it had.

      W' = (sigma / sigma') W,  b' = (sigma b + mu - mu') / sigma'

    Args:
      old: PopArtState that kernel and bias were under.
      new: PopArtState that they shall be under.
      kernel: [D, N] W of the layer that has one normalised value for each task.
      bias: [N] b.

    Returns:
      kernel [D, N] and bias [N]; gradient flows.

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
    """Mean and scale of each x's task, both in the shape of x."""
    mean, sigma = jax.lax.stop_gradient((state.mean[task], scale(state)[task]))
    return _broadcast("task", mean, x), _broadcast("task", sigma, x)


def _broadcast(name, x, to) -> jax.Array:
    try:
        return jnp.broadcast_to(x, to.shape)
    except ValueError:
        raise ValueError(f"{name} {jnp.shape(x)} must broadcast to {to.shape}.") from None
