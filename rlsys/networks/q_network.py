"""The Q-network of R2D2: torso, LSTM core, dueling head.

Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning",
section 2.3 and table 2, https://openreview.net/forum?id=r1lyTjAqYX.
"""

import difflib

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks.convolution import FORMS
from rlsys.networks.frames import advance, stack_frames
from rlsys.networks.recurrent import Lstm
from rlsys.networks.torsos import (
    SMALLEST_NATURE,
    TORSOS,
    Torso,
    is_grid,
    is_image,
    shape_of,
    space_leaves,
)
from rlsys.types import CoreState, Timestep, UserError


def legal(obs):
    """The legal actions [..., A] bool that an observation names, or None."""
    return obs.get("action_mask") if isinstance(obs, dict) else None


def without_mask(obs):
    return {k: v for k, v in obs.items() if k != "action_mask"} if isinstance(obs, dict) else obs


class DuelingHead(nn.Module):
    """Q = V + A - mean(A) (Wang et al. 2016, https://arxiv.org/abs/1511.06581, eq. 9).

    Of D-dimensional actions, every dimension has its own advantages and shares the value (Tavakoli
    et al. 2018, https://arxiv.org/abs/1711.08946).
    """

    action_shape: tuple[int, ...]  # (A,) or (D, K)
    hidden_size: int

    @nn.compact
    def __call__(self, x):
        """x [..., H] -> q [..., A] or [..., D, K]."""
        # Both streams' hidden layers as one matrix product.
        value, advantage = jnp.split(nn.relu(nn.Dense(2 * self.hidden_size)(x)), 2, axis=-1)
        v = nn.Dense(1, name="value")(value)
        a = nn.Dense(int(np.prod(self.action_shape)), name="advantage")(advantage)
        a = a.reshape(*x.shape[:-1], *self.action_shape)
        v = v.reshape(*x.shape[:-1], *[1] * len(self.action_shape))
        return v + a - a.mean(axis=-1, keepdims=True)


class QNetwork(nn.Module):
    """Q-values of T steps at once. Make one with q_network(), which checks the fields."""

    observation_space: gymnasium.Space
    action_space: spaces.Discrete | spaces.MultiDiscrete
    torso: str | None
    hidden_size: int
    core_size: int
    head_size: int
    frame_stack: int
    conv: str

    @property
    def action_shape(self) -> tuple[int, ...]:
        """(A,) or, of D-dimensional actions, (D, K)."""
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return (len(self.action_space.nvec), int(self.action_space.nvec[0]))
        return (int(self.action_space.n),)

    def initial(self, batch: int) -> CoreState:
        """CoreState of zeros for environments about to show their first x_t, as numpy arrays.

        frames has every array of the observation but action_mask, with frame_stack - 1 (perhaps 0)
        on its second axis; only images are stacked.
        """
        frames = jax.tree.map(
            lambda x: np.zeros((batch, self.frame_stack - 1, *x.shape[1:]), x.dtype),
            without_mask(sample_obs(self.observation_space)),
        )
        lstm = tuple(np.zeros((batch, self.core_size), np.float32) for _ in range(2))
        a_tm1 = np.zeros((batch, *self.action_shape[:-1]), np.int32)
        return CoreState(lstm if self.core_size else (), a_tm1, frames, np.zeros(batch, np.int32))

    @nn.compact
    def __call__(self, steps: Timestep, action, core_state: CoreState):
        """Q-values of x_0 .. x_{T-1}.

        The core sees the torso's output, the one-hot a_{t-1} and r_t; the last two are zero, and
        the state is forgotten, where x_t is first. Without a core (core_size 0) the network is
        memoryless: it sees neither.

        Args:
          steps: Timestep [T, B, ...] x_0 .. x_{T-1}.
          action: [T-1, B] or [T-1, B, D] int32, a_t taken in x_t.
          core_state: CoreState [B, ...] before x_0.

        Returns:
          q: [T, B, A] or [T, B, D, K] float32, of illegal actions too.
          core_state: CoreState before x_T, but for a_tm1, which stays as it was: set it to a_{T-1}.
        """
        obs, frames, age = without_mask(steps.obs), core_state.frames, core_state.age
        length, batch = steps.first.shape
        if self.frame_stack > 1:
            leaves, past = jax.tree.leaves(obs), jax.tree.leaves(frames)
            for n, space in enumerate(space_leaves(self.observation_space)):
                if is_image(space):
                    leaves[n], _, age = stack_frames(
                        past[n], core_state.age, leaves[n], steps.first
                    )
            frames, obs = jax.tree.map(advance, frames, obs), leaves
        obs = [x.reshape(length * batch, *x.shape[2:]) for x in jax.tree.leaves(obs)]
        x = Torso(self.observation_space, self.torso, self.hidden_size, self.conv, name="torso")(
            obs
        )
        x = x.reshape(length, batch, -1)  # [T, B, hidden_size]

        lstm = core_state.lstm
        if self.core_size:
            started = ~steps.first[..., None]  # [T, B, 1]
            a_tm1 = jnp.concatenate([core_state.a_tm1[None], action])
            a_tm1 = jax.nn.one_hot(a_tm1, self.action_shape[-1]).reshape(length, batch, -1)
            x = jnp.concatenate([x, a_tm1 * started, steps.reward[..., None] * started], axis=-1)
            x, lstm = Lstm(self.core_size, name="core")(x, steps.first, lstm)
        q = DuelingHead(self.action_shape, self.head_size, name="head")(x)
        return q, CoreState(lstm, core_state.a_tm1, frames, age)

    def __hash__(self):  # gymnasium's spaces have none
        return hash((str(self.observation_space), str(self.action_space), self.core_size))


def sample_obs(space: gymnasium.Space):
    """A batch of one observation of zeros: [1, ...] arrays in the tree of the space."""
    if isinstance(space, spaces.Dict):
        return {key: sample_obs(space[key]) for key in space}
    return np.zeros((1, *shape_of(space)), jax.dtypes.canonicalize_dtype(space.dtype))


def q_network(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    torso: str | None = None,
    hidden_size: int = 512,
    core_size: int = 512,
    head_size: int = 512,
    frame_stack: int = 1,
    conv: str = "auto",
) -> QNetwork:
    """A Q-network for observations and actions of these spaces; the default sizes are the paper's.

    Args:
      observation_space: of one timestep: Box, Discrete, MultiDiscrete, MultiBinary or Dict of them;
        its "action_mask" is not looked at.
      action_space: Discrete(n) or MultiDiscrete([k] * D).
      torso: "nature", "impala", "grid" or "mlp"; None picks by each array's shape.
      hidden_size: of the torso's dense layer.
      core_size: of the LSTM, 0 for a memoryless network.
      head_size: of the value and the advantage stream's hidden layer.
      frame_stack: images seen at once; taken as 1 where the observation has none.
      conv: form of the convolutions, see convolution.conv2d.

    Raises:
      UserError: the torso or the form is unknown, or does not fit the observation, or the action
        space is neither of the two.
    """
    leaves = space_leaves(observation_space)
    if torso is not None and torso not in TORSOS:
        nearest = difflib.get_close_matches(torso, TORSOS, cutoff=0.0)
        raise UserError(f"no torso is called {torso!r}; the nearest are {', '.join(nearest)}")
    if conv not in FORMS:
        raise UserError(f"no form of convolution is called {conv!r}; there are {', '.join(FORMS)}")
    grids = [leaf for leaf in leaves if is_grid(leaf)]
    if torso not in (None, "mlp") and not grids:
        raise UserError(f"torso {torso!r} needs an image or a grid, not {observation_space}")
    smallest = min((min(shape_of(leaf)[:2]) for leaf in grids), default=0)
    if torso == "nature" and smallest < SMALLEST_NATURE:
        raise UserError(
            f"torso 'nature' needs images of {SMALLEST_NATURE} pixels a side, not {smallest}"
        )
    if not isinstance(action_space, spaces.Discrete):
        if not isinstance(action_space, spaces.MultiDiscrete) or len(set(action_space.nvec)) != 1:
            raise UserError(
                f"actions must be Discrete or MultiDiscrete([k] * D), not {action_space}"
            )
    if not any(is_image(leaf) for leaf in leaves):
        frame_stack = 1
    return QNetwork(
        observation_space,
        action_space,
        torso,
        hidden_size,
        core_size,
        head_size,
        frame_stack,
        conv,
    )


def init(network: QNetwork, key: jax.Array):
    """Random parameters of network, from its spaces alone."""
    obs = jax.tree.map(lambda x: x[None], sample_obs(network.observation_space))
    flags, numbers = np.zeros((1, 1), bool), np.zeros((1, 1), np.float32)
    state = network.initial(1)
    steps = Timestep(obs, flags, numbers, numbers, flags)
    return jax.jit(network.init)(key, steps, np.zeros((0, *state.a_tm1.shape), np.int32), state)
