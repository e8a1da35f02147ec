"""Heads, which turn a body's output into Q-values, or into a policy and its values.

Hidden layers compute in `dtype`, and the last layers always in float32. The last layers are small,
so that costs little, and bfloat16's step of 1 in 256 would be too coarse for them: Q-values of
different actions differ by less, ratios of policies are exponentials of differences, and PopArt
corrects the values' layer by less.
"""

from typing import Any

import flax.linen as nn
import gymnasium
import jax.numpy as jnp
import numpy as np

from rlsys.networks import distributions
from rlsys.networks.dense import Dense
from rlsys.networks.units import relu


class DuelingHead(nn.Module):
    """Computes Q = V + A - mean(A) (Wang et al. 2016, https://arxiv.org/abs/1511.06581, eq. 9).

    If actions have D dimensions, each dimension has advantages of its own, and all share the value
    (Tavakoli et al. 2018, https://arxiv.org/abs/1711.08946). The mean is over the actions that a
    dimension has, which may be fewer than K.
    """

    action_space: gymnasium.Space  # Discrete or MultiDiscrete
    hidden_size: int  # 0 for linear streams
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Returns q [..., A] or [..., D, K]; x: [..., H]."""
        value = advantage = x.astype(jnp.float32)
        if self.hidden_size:
            # Both streams' hidden layers as one matrix product.
            hidden = relu(self, Dense(2 * self.hidden_size, self.dtype)(x))
            value, advantage = jnp.split(hidden.astype(jnp.float32), 2, axis=-1)
        v = Dense(1, name="value")(value)
        shape = distributions.action_shape(self.action_space)
        a = Dense(int(np.prod(shape)), name="advantage")(advantage)
        a = a.reshape(*x.shape[:-1], *shape)
        v = v.reshape(*x.shape[:-1], *[1] * len(shape))
        valid = distributions.valid_actions(self.action_space)
        return v + a - a.mean(axis=-1, keepdims=True, where=valid)


class PolicyHead(nn.Module):
    """Computes the policy of a PolicyValueHead whose values have a body of their own.

    Its parameters have the same names as the policy's there, so that it can use them.
    """

    action_space: gymnasium.Space
    hidden_size: int  # 0 for a linear head
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Returns a Distribution over actions in [...] states, and () as values; x: [..., H]."""
        x = x.astype(jnp.float32)
        if self.hidden_size:
            x = relu(self, Dense(self.hidden_size, self.dtype)(x)).astype(jnp.float32)
        num_outputs = int(np.prod(distributions.action_shape(self.action_space)))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        outputs = Dense(num_outputs, kernel_init=small, name="policy")(x)
        return distributions.policy(self.action_space, outputs, self.param), ()


class PolicyValueHead(nn.Module):
    """Computes a policy's distribution over actions, and a value for each task.

    The last layers start with small weights, so that the first policy is nearly the same in all
    states (uniform, if it is categorical) and the first values nearly 0 at any scale of rewards.
    """

    action_space: gymnasium.Space
    num_tasks: int
    hidden_size: int  # 0 for linear heads
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, value_x=None):
        """Returns the policy and the values.

        Args:
          x: [..., H] the output of the policy's body.
          value_x: [..., H'] the output of the values' body; None if that is x.

        Returns:
          a Distribution over actions in [...] states, and values [..., num_tasks].
        """
        policy, value = (y.astype(jnp.float32) for y in (x, x if value_x is None else value_x))
        if self.hidden_size and value_x is None:
            # Both streams' hidden layers as one matrix product.
            hidden = relu(self, Dense(2 * self.hidden_size, self.dtype)(x))
            policy, value = jnp.split(hidden.astype(jnp.float32), 2, axis=-1)
        elif self.hidden_size:
            policy, value = (
                relu(self, Dense(self.hidden_size, self.dtype)(y)).astype(jnp.float32)
                for y in (x, value_x)
            )
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        num_outputs = int(np.prod(distributions.action_shape(self.action_space)))
        outputs = Dense(num_outputs, kernel_init=small, name="policy")(policy)
        value = Dense(self.num_tasks, kernel_init=small, name="value")(value)
        return distributions.policy(self.action_space, outputs, self.param), value
