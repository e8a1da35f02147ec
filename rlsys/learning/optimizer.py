"""Optimisers of the papers that optax lacks, and metrics of a learner step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def learned(params: dict[str, Any]) -> dict[str, Any]:
    """The part of LearnerState.params that is differentiated and optimised: all but the statistics
    of observations."""
    return {name: tree for name, tree in params.items() if name != "statistics"}


def descend(optimizer: optax.GradientTransformation, grads, opt_state, params):
    """Make one step of an optimiser; params that are not learned stay.

    Args:
      grads, opt_state: of learned(params).
      params: as LearnerState has them.

    Returns:
      params and opt_state after the step; updates, what was added to learned(params).
    """
    part = learned(params)
    updates, opt_state = optimizer.update(grads, opt_state, part)
    return {**params, **optax.apply_updates(part, updates)}, opt_state, updates


def linear_decay(learning_rate, decay, progress):
    """Lower the learning rate linearly over the run.

    Args:
      learning_rate: the rate at the start.
      decay: share of the rate, from 0 to 1, that is gone at the end of the run.
      progress: share of the run's environment steps that have been played, LearnerState.progress.
        The decay goes by steps, as the number of updates is not always known beforehand.
    """
    return learning_rate * (1.0 - decay * jnp.clip(progress, 0.0, 1.0))


def adam_with_clipped_gradients(learning_rate, *, eps: float, clip_sigmas: float):
    """Make an Adam that first clips each gradient entry to +-clip_sigmas sqrt(v).

    v is Adam's second moment of the gradient before clipping, corrected for bias. Berner et al.
    2019, "Dota 2 with Large Scale Deep Reinforcement Learning", https://arxiv.org/abs/1912.06680,
    appendix C, clips at 5 sqrt(v).
    """
    b1, b2 = 0.9, 0.999
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(grads, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, grads)
        nu_hat = jax.tree.map(lambda v: v / (1 - b2**count), nu)

        def clip(g, v):
            bound = clip_sigmas * jnp.sqrt(v)
            return jnp.clip(g, -bound, bound)

        grads = jax.tree.map(clip, grads, nu_hat)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        mu_hat = jax.tree.map(lambda m: m / (1 - b1**count), mu)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    clipped = optax.GradientTransformation(adam.init, update)
    return optax.chain(clipped, optax.scale_by_learning_rate(learning_rate))


class CentredState(NamedTuple):
    """Holds the running mean and variance of each gradient entry."""

    mean: Any
    variance: Any


def centred_rmsprop(learning_rate, *, decay: float, eps: float):
    """Make an RMSProp that divides by the gradient's deviation from its mean.

      m <- decay m + (1 - decay) g,    step = -learning_rate g / sqrt(v + eps)

    v is the variance about the moving mean, equal to the moving second moment minus m^2. It is
    stored itself, because that difference can be negative in float32 where a large gradient stays
    the same, and its root is then nan. Graves 2013, "Generating Sequences With Recurrent Neural
    Networks", https://arxiv.org/abs/1308.0850, eq. 38 to 45, without momentum.
    """

    def init(params):
        return CentredState(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))

    def update(grads, state, params=None):
        del params
        variance = jax.tree.map(
            lambda v, m, g: decay * (v + (1 - decay) * (g - m) ** 2),
            state.variance, state.mean, grads,
        )  # fmt: skip
        mean = jax.tree.map(lambda m, g: m + (1 - decay) * (g - m), state.mean, grads)
        updates = jax.tree.map(lambda g, v: g * jax.lax.rsqrt(v + eps), grads, variance)
        return updates, CentredState(mean, variance)

    centred = optax.GradientTransformation(init, update)
    return optax.chain(centred, optax.scale_by_learning_rate(learning_rate))


def step_metrics(config, rate, grads, updates, params) -> dict[str, jax.Array]:
    """Measure how large a learner step is.

    Args:
      config: has max_gradient_norm, which the gradient's norm is compared with.
      rate: the learning rate of the step.
      grads: the gradients before they were clipped.
      updates: the amounts that were added to the parameters.
      params: the parameters after the step.

    Returns:
      metrics by name: the learning rate, the norm of the gradient, whether it was above
      max_gradient_norm (1 or 0, which the log averages to a share), the norm of the parameters, and
      the norm of the updates divided by that of the parameters.
    """
    norm, params_norm = optax.global_norm(grads), optax.global_norm(learned(params))
    return {
        "learning_rate": rate,
        "gradient_norm": norm,
        "gradient_clipped": (norm > config.max_gradient_norm).astype(jnp.float32),
        "params_norm": params_norm,
        "update_ratio": optax.global_norm(updates) / jnp.maximum(params_norm, 1e-9),
    }
