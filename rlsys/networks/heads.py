"""Heads: from a body's output to Q-values, or to a policy and its values.

Hidden layers compute in dtype. The layers that give the result are float32 always: they are small,
Q-values of neighbouring actions differ by less than bfloat16's step of 1 in 256, ratios of policies
are exponentials of differences, and PopArt corrects the values' layer by less than that step.
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
    """Q = V + A - mean(A) (Wang et al. 2016, https://arxiv.org/abs/1511.06581, eq. 9).

    Of D-dimensional actions, every dimension has its own advantages and shares the value (Tavakoli
    et al. 2018, https://arxiv.org/abs/1711.08946).
    """

    action_shape: tuple[int, ...]  # (A,) or (D, K)
    hidden_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """x [..., H] -> q [..., A] or [..., D, K]."""
        # Both streams' hidden layers as one matrix product.
        hidden = relu(self, Dense(2 * self.hidden_size, self.dtype)(x))
        value, advantage = jnp.split(hidden.astype(jnp.float32), 2, axis=-1)
        v = Dense(1, name="value")(value)
        a = Dense(int(np.prod(self.action_shape)), name="advantage")(advantage)
        a = a.reshape(*x.shape[:-1], *self.action_shape)
        v = v.reshape(*x.shape[:-1], *[1] * len(self.action_shape))
        return v + a - a.mean(axis=-1, keepdims=True)


class PolicyHead(nn.Module):
    """The policy of a PolicyValueHead whose values have a body of their own, without the values.

    Its parameters have the same names.
    """

    action_space: gymnasium.Space
    hidden_size: int  # 0 for a linear head
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """x [..., H] -> Distribution of [...] states, and () in place of values."""
        x = x.astype(jnp.float32)
        if self.hidden_size:
            x = relu(self, Dense(self.hidden_size, self.dtype)(x)).astype(jnp.float32)
        num_outputs = int(np.prod(distributions.action_shape(self.action_space)))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        outputs = Dense(num_outputs, kernel_init=small, name="policy")(x)
        return distributions.policy(self.action_space, outputs, self.param), ()


class PolicyValueHead(nn.Module):
    """A policy's distribution over actions, and a value for each task.

    The layers that give the result start small, so that the first policy is nearly the same in all
    states (uniform, if it is categorical) and the first values nearly 0 at any scale of rewards.
    """

    action_space: gymnasium.Space
    num_tasks: int
    hidden_size: int  # 0 for linear heads
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, value_x=None):
        """The policy and the values.

        Args:
          x: [..., H].
          value_x: [..., H'] what values are made of, if not of x.

        Returns:
          Distribution of [...] states; values [..., num_tasks].
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
