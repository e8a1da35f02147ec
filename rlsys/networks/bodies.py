"""Bodies: from what an agent sees to a vector, by an encoding, a torso and perhaps an LSTM."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import gymnasium
import jax.numpy as jnp
import numpy as np

from rlsys.networks.distributions import encode_action
from rlsys.networks.recurrent import Lstm
from rlsys.networks.statistics import Statistics
from rlsys.networks.torsos import Torso, named_leaves
from rlsys.types import Timestep


class Body(nn.Module):
    """Everything of an agent's network but its head."""

    observation_space: gymnasium.Space  # of what it reads; it is shown more, perhaps
    action_space: gymnasium.Space
    torso: str | None
    hidden_size: int
    core_size: int
    conv: str
    reward_bound: float  # the core sees rewards clipped to it, either way
    dtype: Any = jnp.float32  # that torso and core compute in
    pixel_offset: float = 0.0  # see torsos.encode
    pixel_scale: float = 255.0

    def initial(self, batch: int):
        """The LSTM's (c, h) before an episode, each [batch, core_size]; () without one."""
        if not self.core_size:
            return ()
        return tuple(np.zeros((batch, self.core_size), np.float32) for _ in range(2))

    @nn.compact
    def __call__(
        self,
        obs: Mapping[str, Any],
        statistics: Mapping[str, Statistics],
        steps: Timestep,
        a_tm1,
        lstm,
    ):
        """Vectors of T steps of B environments.

        The core sees the torso's output, a_{t-1} and r_t; the last two are zero, and the state is
        forgotten, where x_t is first. Without a core the body is memoryless: it sees neither.

        Args:
          obs: arrays [T, B, ...] by name, see torsos.named_leaves; images with their frames.
          statistics: of the arrays that are normalised, by name.
          steps: Timestep [T, B, ...] whose first and reward the core sees.
          a_tm1: [T, B] or [T, B, D] a_{t-1}.
          lstm: (c, h) before x_0, or () without a core.

        Returns:
          [T, B, H], H being core_size, else hidden_size, else the number of all features; and the
          LSTM's state after the last step.
        """
        length, batch = steps.first.shape
        names = [*named_leaves(self.observation_space)]
        torso = Torso(
            self.observation_space,
            self.torso,
            self.hidden_size,
            self.conv,
            self.dtype,
            self.pixel_offset,
            self.pixel_scale,
            name="torso",
        )
        x = torso(
            [obs[name].reshape(length * batch, *obs[name].shape[2:]) for name in names],
            [statistics.get(name) for name in names],
        )
        x = x.reshape(length, batch, -1)  # [T, B, hidden_size], or all features
        if self.core_size:
            started = ~steps.first[..., None]  # [T, B, 1]
            acted = encode_action(self.action_space, a_tm1)  # [T, B, F]
            reward = jnp.clip(steps.reward[..., None], -self.reward_bound, self.reward_bound)
            x = jnp.concatenate([x, acted * started, reward * started], axis=-1)
            x, lstm = Lstm(self.core_size, self.dtype, name="core")(x, steps.first, lstm)
        return x, lstm

    def __hash__(self):  # gymnasium's spaces have none
        return hash((str(self.observation_space), str(self.action_space), self.core_size))
