"""Parameters of agents: random ones, and those of the last layer of the values."""

import functools

import flax.linen as nn
import jax
import numpy as np

from rlsys.networks.agent import AgentNetwork, sample_obs
from rlsys.types import Timestep


def value_layer(params):
    """The last layer of the values of a policy_value_network: kernel [D, N], bias [N]."""
    return params["params"]["head"]["value"]


def with_value_layer(params, layer):
    """params with another last layer of the values."""
    head = {**params["params"]["head"], "value": layer}
    return {**params, "params": {**params["params"], "head": head}}


def init(network: AgentNetwork, key: jax.Array):
    """Random parameters of network, from its spaces alone."""
    obs = jax.tree.map(lambda x: x[None], sample_obs(network.observation_space))
    flags, numbers = np.zeros((1, 1), bool), np.zeros((1, 1), np.float32)
    state = network.initial(1)
    steps = Timestep(obs, flags, numbers, numbers, flags)
    return _jitted_init(network)(key, steps, np.zeros((0, *state.a_tm1.shape), np.int32), state)


def orthogonalize(params, key: jax.Array):
    """params with orthogonal kernels of gain sqrt(2) in the layers that end in a ReLU, which keep
    the size of what passes through them (Saxe et al. 2014, https://arxiv.org/abs/1312.6120).

    The layers that give the result, and the core, stay as they are.
    """
    draw = nn.initializers.orthogonal(2**0.5)
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    keys = jax.random.split(key, len(leaves))

    def new(path, x, key):
        layer, name = (entry.key for entry in path[-2:])
        hidden = name == "kernel" and layer.startswith(("Conv_", "Dense_"))
        return draw(key, x.shape, x.dtype) if hidden else x

    new_leaves = [new(path, x, k) for (path, x), k in zip(leaves, keys, strict=True)]
    return jax.tree_util.tree_unflatten(tree, new_leaves)


@functools.cache
def _jitted_init(network: AgentNetwork):
    return jax.jit(network.init)  # traced once for all members of a sweep
