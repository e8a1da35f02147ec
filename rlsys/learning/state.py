"""The LearnerState before the first update."""

from typing import Any

import jax.numpy as jnp

from rlsys import networks, streams
from rlsys.learning.optimizer import learned
from rlsys.types import LearnerState


def initial_state(
    network: networks.AgentNetwork, config: Any, optimizer: Any, **more: Any
) -> LearnerState:
    """Make random parameters and the optimiser's state, from the Config's seed.

    Args:
      optimizer: optax's; its state is made for learned(params).
      more: values of further fields of LearnerState.
    """
    params = networks.init(network, streams.key(config.seed, "parameters"))
    if config.orthogonal:
        params = networks.orthogonalize(params, streams.key(config.seed, "orthogonal"))
    key = streams.key(config.seed, "minibatches")
    step, progress = jnp.zeros((), jnp.int32), jnp.zeros(())
    return LearnerState(params, optimizer.init(learned(params)), key, step, progress, **more)
