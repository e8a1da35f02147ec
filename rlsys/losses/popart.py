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
    """Statistics of each of N tasks' targets, in units of return."""

    mean: jax.Array  # [N] mu
    second_moment: jax.Array  # [N] nu, of y^2
    count: jax.Array  # type: ignore[assignment]  # [N] float32, samples that each task gave


def init(num_tasks: int) -> PopArtState:
    """Statistics that change nothing: mean 0, scale 1."""
    zeros, ones = jnp.zeros(num_tasks, jnp.float32), jnp.ones(num_tasks, jnp.float32)
    return PopArtState(mean=zeros, second_moment=ones, count=jnp.copy(zeros))  # may be donated


def scale(state: PopArtState, *, min_scale: float = 1e-4, max_scale: float = 1e6) -> jax.Array:
    """sigma = sqrt(nu - mu^2) of each task, [N], kept within bounds.

    float32 tells a sigma from 0 where it is above about |mu| / 1000.
    """
    variance = state.second_moment - state.mean**2
    return jnp.sqrt(jnp.clip(variance, min_scale**2, max_scale**2))


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
    belongs = jax.nn.one_hot(_broadcast("task", task, each), num_tasks, dtype=bool)  # [..., N]

    def total(x):
        """[T, ...] -> [N]. No scatter, whose order of summation varies on GPU."""
        x = jnp.where(counts, x, 0.0)
        x = jnp.sum(x, 0) if each.ndim < x.ndim else x
        return jnp.sum(jnp.where(belongs, x[..., None], 0.0), range(x.ndim))

    totals = total(jnp.ones_like(y)), total(y), total(y**2)
    n, sum_y, sum_y2 = totals if axis_name is None else jax.lax.psum(totals, axis_name)
    some = jnp.maximum(n, 1.0)
    log_keep = some * jnp.log1p(-jnp.asarray(step_size, jnp.float32))  # -inf for step size 1
    keep, weight = jnp.exp(log_keep), -jnp.expm1(log_keep)

    def moved(old, batch_sum):
        return jnp.where(n > 0.0, keep * old + weight * (batch_sum / some), old)

    new = PopArtState(
        mean=moved(state.mean, sum_y),
        second_moment=moved(state.second_moment, sum_y2),
        count=state.count + n,
    )
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
