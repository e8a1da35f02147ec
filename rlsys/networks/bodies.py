"""Bodies: from what an agent sees to a vector, by an encoding, a torso and perhaps an LSTM."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks.convolution import FORMS
from rlsys.networks.distributions import encode_action
from rlsys.networks.recurrent import Lstm
from rlsys.networks.statistics import Statistics
from rlsys.networks.torsos import (
    SMALLEST_STRIDED,
    STRIDED,
    TORSOS,
    Torso,
    is_grid,
    is_image,
    named_leaves,
    shape_of,
)
from rlsys.types import Timestep, UserError


class Body(nn.Module):
    """Everything of an agent's network but its head."""

    observation_space: gymnasium.Space  # of what it reads; it is shown more, perhaps
    action_space: gymnasium.Space
    torso: str | None
    hidden_size: int
    core_size: int
    conv: str
    reward_bound: float  # the core sees rewards clipped to it, either way; 0 hides them
    dtype: Any = jnp.float32  # that torso and core compute in
    pixel_offset: float = 0.0  # see torsos.encode
    pixel_scale: float = 255.0

    def initial(self, batch: int):
        """Returns the LSTM's (c, h) before an episode, each [batch, core_size]; () without one."""
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


def compute_dtype(bfloat16: bool):
    return jnp.bfloat16 if bfloat16 else jnp.float32


def has_images(space: gymnasium.Space) -> bool:
    return any(map(is_image, named_leaves(space).values()))


def part(space: gymnasium.Space, keys: Sequence[str] | None) -> gymnasium.Space:
    """Returns the part of a Dict space with these keys; the whole space if None.

    Raises:
      UserError: the space is no Dict, or has no such key.
    """
    if keys is None:
        return space
    known = [key for key in space if key != "action_mask"] if isinstance(space, spaces.Dict) else []
    wrong = [key for key in keys if key not in known]
    if wrong or not keys:
        name = repr(wrong[0]) if wrong else "none"
        listed = ", ".join(known) or "no names: it is one array"
        raise UserError(f"a network is to read {name} of an observation that has {listed}")
    return spaces.Dict({key: space[key] for key in keys})  # type: ignore[index]


def make_body(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    torso: str | None = None,
    hidden_size: int = 512,
    core_size: int = 512,
    conv: str = "auto",
    reward_bound: float = float("inf"),
    bfloat16: bool = False,
    pixel_offset: float = 0.0,
    pixel_scale: float = 255.0,
) -> Body:
    """Returns a body for observations and actions of these spaces.

    Args:
      observation_space: of one timestep: Box, Discrete, MultiDiscrete, MultiBinary or Dict of them;
        its "action_mask" is not looked at.
      action_space: of the actions, which the core sees.
      torso: "nature", "shallow", "impala", "grid" or "mlp"; None picks by each array's shape.
      hidden_size: of the torso's dense layer; 0 for none, as R2D2 has it.
      core_size: of the LSTM, 0 for a memoryless network.
      conv: form of the convolutions, see convolution.conv2d.
      reward_bound: the core sees rewards clipped to it, either way; with 0 it sees none.
      bfloat16: compute torso, core and hidden layers in bfloat16. Parameters, the core's state and
        the result stay float32 (recurrent.lstm_scan and heads.py say why).
      pixel_offset, pixel_scale: of images, see torsos.encode.

    Raises:
      UserError: the torso or the form is unknown, or does not fit the observation.
    """
    leaves = [*named_leaves(observation_space).values()]
    if torso is not None and torso not in TORSOS:
        nearest = difflib.get_close_matches(torso, TORSOS, cutoff=0.0)
        raise UserError(f"no torso is called {torso!r}; the nearest are {', '.join(nearest)}")
    if conv not in FORMS:
        raise UserError(f"no form of convolution is called {conv!r}; there are {', '.join(FORMS)}")
    grids = [leaf for leaf in leaves if is_grid(leaf)]
    if torso not in (None, "mlp") and not grids:
        raise UserError(f"torso {torso!r} needs an image or a grid, not {observation_space}")
    smallest = min((min(shape_of(leaf)[:2]) for leaf in grids), default=0)
    if torso in STRIDED and smallest < SMALLEST_STRIDED:
        raise UserError(
            f"torso {torso!r} needs images of {SMALLEST_STRIDED} pixels a side, not {smallest}"
        )
    return Body(
        observation_space,
        action_space,
        torso,
        hidden_size,
        core_size,
        conv,
        reward_bound,
        compute_dtype(bfloat16),
        pixel_offset,
        pixel_scale,
    )
