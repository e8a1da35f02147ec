"""A learner step on a replay's samples with a target network, for any algorithm's loss."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlsys import networks
from rlsys.learning import learner
from rlsys.learning.optimizer import descend, linear_decay, step_metrics
from rlsys.learning.state import initial_state
from rlsys.types import LearnerState, Sample


def q_state(network: networks.AgentNetwork, config: Any, optimizer: Callable) -> LearnerState:
    """Make the LearnerState before the first update, with a target network.

    Args:
      optimizer: (config, learning rate) -> optax's.
    """
    new = initial_state(network, config, optimizer(config, config.learning_rate))
    return new._replace(target_params=jax.tree.map(jnp.copy, new.params))


def q_metrics(q, legal, mask) -> dict[str, Any]:
    """Measure Q-values of actions that there are, in the steps that are learned from.

    Args:
      q: [T, B, A] or [T, B, D, K].
      legal: a bool array that broadcasts to q; None where all actions are legal.
      mask: [T, B] bool, True where a step is learned from.

    Returns:
      q_mean, the mean over a step's actions, averaged over steps; and q_abs_max, the largest size
      in a sample, averaged over the samples with a step to learn from.
    """
    legal = jnp.broadcast_to(True if legal is None else legal, q.shape)
    actions = tuple(range(2, q.ndim))
    mean = jnp.mean(q, actions, where=legal)  # [T, B]
    largest = jnp.max(jnp.abs(q), actions, where=legal, initial=0.0)
    largest = jnp.max(largest, 0, where=mask, initial=0.0)  # [B]
    return {
        "q_mean": learner.learned_mean(mean, mask),
        "q_abs_max": learner.learned_mean(largest, jnp.any(mask, 0)),
    }


def q_update(
    network: networks.AgentNetwork,
    config: Any,
    state: LearnerState,
    sample: Sample,
    *,
    loss: Callable,
    optimizer: Callable,
    learned: slice,
) -> tuple[LearnerState, tuple[Any, dict[str, Any]]]:
    """Make one learner step on a sample, inside shard_map.

    Args:
      loss: (network, config, params, target_params, sample) -> scalar, (priorities, metrics).
      optimizer: (config, learning rate) -> optax's.
      learned: the steps of the sample that are learned from, where its mask allows.

    Returns:
      LearnerState, (priorities [B], metrics); all priorities are nan if learning has failed.
    """
    weights = sample.weights / learner.pmax(jnp.max(sample.weights))
    sample = sample._replace(weights=weights)
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (value, (priorities, metrics)), grads = grad(state.params, state.target_params, sample)
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    params, opt_state, updates = descend(
        optimizer(config, rate), grads, state.opt_state, state.params
    )
    played = jax.tree.map(lambda x: x[learned], sample.trajectory.steps.obs)
    params = networks.see(params, played, sample.mask[learned], axis_name=learner.BATCH)
    step = state.step + 1
    target_params = optax.periodic_update(params, state.target_params, step, config.target_update)
    metrics |= step_metrics(config, rate, grads, updates, params)
    # Priorities reach the host at every update, so nan in them tells it of a failure at once.
    failed = ~jnp.isfinite(value + metrics["gradient_norm"] + metrics["params_norm"])
    priorities = jnp.where(failed, jnp.nan, priorities)
    new = state._replace(params=params, opt_state=opt_state, step=step, target_params=target_params)
    return new, (priorities, metrics)
