"""Parameters of agents: random ones, the last layer of the values, and what they have seen.

Parameters are a dict {"params": ...}, with {"statistics": ...} beside it where observations are
normalised.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlsys.networks import statistics
from rlsys.networks.agent import AgentNetwork, sample_obs
from rlsys.networks.torsos import named_leaves
from rlsys.types import Timestep


def value_layer(params):
    """Returns the last layer of the values of a policy_value_network: kernel [D, N], bias [N]."""
    return params["params"]["head"]["value"]


def with_value_layer(params, layer):
    """Returns params with another last layer of the values."""
    head = {**params["params"]["head"], "value": layer}
    return {**params, "params": {**params["params"], "head": head}}


def init(network: AgentNetwork, key: jax.Array):
    """Returns random parameters of network, and statistics that have seen nothing, from its
    spaces."""
    obs = jax.tree.map(lambda x: x[None], sample_obs(network.observation_space))
    flags, numbers = np.zeros((1, 1), bool), np.zeros((1, 1), np.float32)
    state = network.initial(1)
    steps = Timestep(obs, flags, numbers, numbers, flags)
    return _jitted_init(network)(key, steps, state.a_tm1[None][:0], state)


def see(params, obs, mask, *, axis_name: str | None = None):
    """Returns params whose statistics have seen a batch of observations, too; the same where it has
    none.

    An update calls it when it has learned, so that it learns from observations as actors saw them.

    Args:
      params: of an agent.
      obs: [T, B, ...] x_0 .. x_{T-1}.
      mask: [T, B] bool, True where a_t is learned from: so the last observation of an episode,
        which is followed by a reset, does not count.
      axis_name: of the devices that the batch is spread over.
    """
    if "statistics" not in params:
        return params
    arrays = named_leaves(obs)
    new = {
        name: statistics.update(old, arrays[name], mask, axis_name=axis_name)
        for name, old in params["statistics"].items()
    }
    return {**params, "statistics": new}


def orthogonalize(params, key: jax.Array):
    """Returns params with orthogonal kernels of gain sqrt(2) in the layers that end in a ReLU,
    which keep the size of what passes through them (Saxe et al. 2014,
    https://arxiv.org/abs/1312.6120).

    The layers that give the result, and the core, stay as they are. Where the hidden layers of a
    head's two outputs are one kernel, each of them is drawn by itself.
    """
    draw = nn.initializers.orthogonal(2**0.5)
    leaves, tree = jax.tree_util.tree_flatten_with_path(params["params"])
    keys = jax.random.split(key, len(leaves))

    def new(path, x, key):
        *above, layer, name = (entry.key for entry in path)
        if name != "kernel" or not layer.startswith(("Conv_", "Dense_")):
            return x
        width = params["params"]["head"]["value"]["kernel"].shape[0] if "head" in above else None
        if width in (None, x.shape[-1]):
            return draw(key, x.shape, x.dtype)
        parts = [draw(k, (x.shape[0], width), x.dtype) for k in jax.random.split(key)]
        return jnp.concatenate(parts, axis=-1)

    new_leaves = [new(path, x, k) for (path, x), k in zip(leaves, keys, strict=True)]
    return {**params, "params": jax.tree_util.tree_unflatten(tree, new_leaves)}


@functools.cache
def _jitted_init(network: AgentNetwork):
    return jax.jit(network.init)  # traced once for all members of a sweep
