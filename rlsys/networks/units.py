"""Hidden units, and which of them still do something."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def relu(module: nn.Module, x):
    """Computes nn.relu of x [..., D] in a module; on request keeps which of the D units are ever
    above 0."""
    x = nn.relu(x)
    if module.is_mutable_collection("intermediates"):
        module.sow("intermediates", "alive", jnp.any(x > 0, axis=range(x.ndim - 1)))
    return x


def alive_units(network: nn.Module, params, *inputs):
    """Tells which hidden units are above 0 for any of the inputs: [number of units] bool.

    Args:
      inputs: of network.
    """
    _, kept = network.apply(params, *inputs, mutable=["intermediates"])
    return jnp.concatenate([jnp.zeros(0, bool), *jax.tree.leaves(kept)])
