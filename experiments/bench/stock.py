"""Agents as one usually writes them in flax: stacked frames, nn.Conv, nn.max_pool, a scanned cell.

They have as many parameters as ours and are called alike, so any algorithm can learn with them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks import AgentNetwork
from rlsys.networks.convolution import vary_alike
from rlsys.types import CoreState, Trajectory


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

    def convolve(self, x):
        if self.body.torso == "nature":  # Mnih et al. 2015
            for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
                x = nn.relu(nn.Conv(features, (size, size), (stride, stride), "VALID")(x))
            return x
        for features in (16, 32, 32):  # Espeholt et al. 2018, fig. 3
            x = nn.Conv(features, (3, 3))(x)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
            for _ in range(2):
                y = nn.Conv(features, (3, 3))(nn.relu(x))
                x = x + nn.Conv(features, (3, 3))(nn.relu(y))
        return nn.relu(x)

    @nn.compact
    def __call__(self, steps, action, core_state):
        length, batch = steps.first.shape
        x = steps.obs.reshape(length * batch, *steps.obs.shape[2:]).astype(jnp.float32) / 255.0
        body = self.body
        x = self.convolve(x).reshape(length, batch, -1)
        x = nn.relu(nn.Dense(body.hidden_size)(x)) if body.hidden_size else x
        lstm = core_state.lstm
        if body.core_size:
            started = ~steps.first[..., None]
            a_tm1 = jnp.concatenate([core_state.a_tm1[None], action])
            a_tm1 = jax.nn.one_hot(a_tm1, self.action_space.n)
            reward = jnp.clip(steps.reward[..., None], -body.reward_bound, body.reward_bound)
            x = jnp.concatenate([x, a_tm1 * started, reward * started], axis=-1)
            core = nn.scan(Core, variable_broadcast="params", split_rngs={"params": False})
            x, *carry = vary_alike(x, *lstm)
            lstm, x = core(body.core_size)(tuple(carry), (x, steps.first))
        state = CoreState(lstm, core_state.a_tm1, core_state.frames, core_state.age)
        return self.head(x), state

    __hash__ = AgentNetwork.__hash__


def stock(network: AgentNetwork) -> StockAgent:
    """Return the same agent in stock flax, to be given stacked frames."""
    height, width, channels = network.observation_space.shape or ()
    space = spaces.Box(0, 255, (height, width, channels * network.frame_stack), np.uint8)
    return StockAgent(space, network.action_space, network.head, network.body, None, 1)


def stacked(network: StockAgent, trajectory: Trajectory, depth: int) -> Trajectory:
    """Return what was played in stacks of so many frames, all alike, which costs the same."""
    steps, core_state = trajectory.steps, network.initial(len(trajectory.task_id))
    steps = steps._replace(obs=steps.obs.repeat(depth, axis=-1))
    return trajectory._replace(steps=steps, core_state=core_state)
