"""Agents as one usually writes them in flax: stacked frames, nn.Conv, nn.max_pool, a scanned cell.

Their parameters are as many as ours, and they are called alike, so that any algorithm can learn
with them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks import AgentNetwork
from rlsys.types import CoreState


class Nature(nn.Module):
    """Mnih et al. 2015."""

    @nn.compact
    def __call__(self, x):
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(nn.Conv(features, (size, size), (stride, stride), "VALID")(x))
        return x


class Impala(nn.Module):
    """Espeholt et al. 2018, fig. 3."""

    @nn.compact
    def __call__(self, x):
        for features in (16, 32, 32):
            x = nn.Conv(features, (3, 3))(x)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
            for _ in range(2):
                y = nn.Conv(features, (3, 3))(nn.relu(x))
                x = x + nn.Conv(features, (3, 3))(nn.relu(y))
        return nn.relu(x)


class Core(nn.Module):
    """A cell that forgets at the first step of each episode, for nn.scan."""

    size: int

    @nn.compact
    def __call__(self, carry, inputs):
        x, first = inputs
        carry = jax.tree.map(lambda s: jnp.where(first[:, None], 0.0, s), carry)
        return nn.OptimizedLSTMCell(self.size)(carry, x)


class StockAgent(AgentNetwork):
    """An AgentNetwork of images with their frames already stacked (frame_stack 1)."""

    @nn.compact
    def __call__(self, steps, action, core_state):
        length, batch = steps.first.shape
        x = steps.obs.reshape(length * batch, *steps.obs.shape[2:]).astype(jnp.float32) / 255.0
        body = self.body
        x = {"nature": Nature, "impala": Impala}[body.torso or "nature"]()(x)
        x = x.reshape(length * batch, -1)
        x = nn.relu(nn.Dense(body.hidden_size)(x)) if body.hidden_size else x
        x = x.reshape(length, batch, -1)
        lstm = core_state.lstm
        if body.core_size:
            started = ~steps.first[..., None]
            a_tm1 = jnp.concatenate([core_state.a_tm1[None], action])
            a_tm1 = jax.nn.one_hot(a_tm1, self.action_space.n)
            reward = jnp.clip(steps.reward[..., None], -body.reward_bound, body.reward_bound)
            x = jnp.concatenate([x, a_tm1 * started, reward * started], axis=-1)
            core = nn.scan(Core, variable_broadcast="params", split_rngs={"params": False})
            axes = tuple(jax.typeof(x).manual_axis_type.varying)
            own = jax.typeof(lstm[0]).manual_axis_type.varying
            missing = tuple(axis for axis in axes if axis not in own)
            carry = jax.tree.map(lambda s: jax.lax.pcast(s, missing, to="varying"), lstm)
            lstm, x = core(body.core_size)(carry, (x, steps.first))
        state = CoreState(lstm, core_state.a_tm1, core_state.frames, core_state.age)
        return self.head(x), state

    __hash__ = AgentNetwork.__hash__


def stock(network: AgentNetwork) -> StockAgent:
    """The same agent in stock flax, to be given stacked frames."""
    height, width, channels = network.observation_space.shape or ()
    stacked = spaces.Box(0, 255, (height, width, channels * network.frame_stack), np.uint8)
    return StockAgent(stacked, network.action_space, network.head, network.body, None, 1)
