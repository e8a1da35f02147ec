"""Agents: a torso, an LSTM core, and a head on it, for Q-values or for a policy and its value."""

import difflib
from typing import Any

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks.convolution import FORMS
from rlsys.networks.frames import advance, stack_frames
from rlsys.networks.heads import DuelingHead, PolicyValueHead
from rlsys.networks.recurrent import Lstm
from rlsys.networks.torsos import (
    SMALLEST_STRIDED,
    STRIDED,
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


def shape_of_action(space: gymnasium.Space) -> tuple[int, ...]:
    """(A,) or, of D-dimensional actions, (D, K).

    Raises:
      UserError: the space is neither Discrete nor MultiDiscrete of equal sizes.
    """
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete) and len(set(space.nvec)) == 1:
        return (len(space.nvec), int(space.nvec[0]))
    raise UserError(f"actions must be Discrete or MultiDiscrete([k] * D), not {space}")


class AgentNetwork(nn.Module):
    """A network of a torso, a core and a head, which reads T steps at once.

    Make one with q_network() or policy_value_network(), which check the fields.
    """

    observation_space: gymnasium.Space
    action_space: spaces.Discrete | spaces.MultiDiscrete
    head: nn.Module  # [T, B, H] -> what the agent returns
    torso: str | None
    hidden_size: int
    core_size: int
    frame_stack: int
    conv: str
    reward_bound: float  # the core sees rewards clipped to it, either way
    dtype: Any = jnp.float32  # that torso, core and hidden layers compute in
    pixel_offset: float = 0.0  # see torsos.encode
    pixel_scale: float = 255.0

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
        a_tm1 = np.zeros((batch, *shape_of_action(self.action_space)[:-1]), np.int32)
        return CoreState(lstm if self.core_size else (), a_tm1, frames, np.zeros(batch, np.int32))

    @nn.compact
    def __call__(self, steps: Timestep, action, core_state: CoreState):
        """Apply torso, core and head to x_0 .. x_{T-1}.

        The core sees the torso's output, the one-hot a_{t-1} and r_t; the last two are zero, and
        the state is forgotten, where x_t is first. Without a core (core_size 0) the network is
        memoryless: it sees neither.

        Args:
          steps: Timestep [T, B, ...] x_0 .. x_{T-1}.
          action: [T-1, B] or [T-1, B, D] int32, a_t taken in x_t.
          core_state: CoreState [B, ...] before x_0.

        Returns:
          of head: Q-values [T, B, A] or [T, B, D, K], of illegal actions too, or the like.
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
        x = Torso(
            self.observation_space,
            self.torso,
            self.hidden_size,
            self.conv,
            self.dtype,
            self.pixel_offset,
            self.pixel_scale,
            name="torso",
        )(obs)
        x = x.reshape(length, batch, -1)  # [T, B, hidden_size], or all features

        lstm = core_state.lstm
        if self.core_size:
            started = ~steps.first[..., None]  # [T, B, 1]
            a_tm1 = jnp.concatenate([core_state.a_tm1[None], action])
            num_actions = shape_of_action(self.action_space)[-1]
            a_tm1 = jax.nn.one_hot(a_tm1, num_actions).reshape(length, batch, -1)
            reward = jnp.clip(steps.reward[..., None], -self.reward_bound, self.reward_bound)
            x = jnp.concatenate([x, a_tm1 * started, reward * started], axis=-1)
            x, lstm = Lstm(self.core_size, self.dtype, name="core")(x, steps.first, lstm)
        return self.head(x), CoreState(lstm, core_state.a_tm1, frames, age)

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
    head_size: int = 512,
    bfloat16: bool = False,
    **body,
) -> AgentNetwork:
    """Q-values by a dueling head: [T, B, A] or [T, B, D, K]. The default sizes are R2D2's.

    Args:
      observation_space, action_space, body: see agent.
      head_size: of the value and the advantage stream's hidden layer.
      bfloat16: see agent.
    """
    head = DuelingHead(shape_of_action(action_space), head_size, compute_dtype(bfloat16))
    return agent(observation_space, action_space, head, bfloat16=bfloat16, **body)


def policy_value_network(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    num_tasks: int = 1,
    head_size: int = 0,
    bfloat16: bool = False,
    **body,
) -> AgentNetwork:
    """Logits [T, B, A] or [T, B, D, K] of a policy, and values [T, B, num_tasks].

    The core sees rewards clipped to [-1, 1], as IMPALA's did.

    Args:
      observation_space, action_space, body: see agent.
      num_tasks: values, one for each task; the policy does not know which it plays.
      head_size: of a hidden layer of the policy's and one of the values' own; 0 for none.
      bfloat16: see agent.
    """
    shape, dtype = shape_of_action(action_space), compute_dtype(bfloat16)
    head = PolicyValueHead(shape, num_tasks, head_size, dtype)
    return agent(observation_space, action_space, head, reward_bound=1.0, bfloat16=bfloat16, **body)


def compute_dtype(bfloat16: bool):
    return jnp.bfloat16 if bfloat16 else jnp.float32


def agent(
    observation_space: gymnasium.Space,
    action_space: Any,
    head: nn.Module,
    *,
    torso: str | None = None,
    hidden_size: int = 512,
    core_size: int = 512,
    frame_stack: int = 1,
    conv: str = "auto",
    reward_bound: float = float("inf"),
    bfloat16: bool = False,
    pixel_offset: float = 0.0,
    pixel_scale: float = 255.0,
) -> AgentNetwork:
    """An agent for observations and actions of these spaces.

    Args:
      observation_space: of one timestep: Box, Discrete, MultiDiscrete, MultiBinary or Dict of them;
        its "action_mask" is not looked at.
      action_space: Discrete(n) or MultiDiscrete([k] * D).
      head: [T, B, H] -> what the agent is to return.
      torso: "nature", "shallow", "impala", "grid" or "mlp"; None picks by each array's shape.
      hidden_size: of the torso's dense layer; 0 for none, as R2D2 has it.
      core_size: of the LSTM, 0 for a memoryless network.
      frame_stack: images seen at once; taken as 1 where the observation has none.
      conv: form of the convolutions, see convolution.conv2d.
      reward_bound: the core sees rewards clipped to it, either way.
      bfloat16: compute torso, core and hidden layers in bfloat16. Parameters, the core's state and
        the result stay float32 (recurrent.lstm_scan and heads.py say why).
      pixel_offset, pixel_scale: of images, see torsos.encode.

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
    if torso in STRIDED and smallest < SMALLEST_STRIDED:
        raise UserError(
            f"torso {torso!r} needs images of {SMALLEST_STRIDED} pixels a side, not {smallest}"
        )
    shape_of_action(action_space)
    if not any(is_image(leaf) for leaf in leaves):
        frame_stack = 1
    return AgentNetwork(
        observation_space,
        action_space,
        head,
        torso,
        hidden_size,
        core_size,
        frame_stack,
        conv,
        reward_bound,
        compute_dtype(bfloat16),
        pixel_offset,
        pixel_scale,
    )
