"""Builds an agent's network: one body or two, and a head for Q-values or a policy and values."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks.bodies import Body, compute_dtype, has_images, make_body, part
from rlsys.networks.distributions import (
    action_shape,
    is_continuous,
    sample_action,
    valid_actions,
)
from rlsys.networks.frames import advance, stack_frames
from rlsys.networks.heads import DuelingHead, PolicyHead, PolicyValueHead
from rlsys.networks.torsos import first_statistics, is_image, is_number, named_leaves, shape_of
from rlsys.types import CoreState, Timestep, UserError


def without_mask(obs):
    """Returns an observation without its mask of legal actions."""
    return {k: v for k, v in obs.items() if k != "action_mask"} if isinstance(obs, dict) else obs


class AgentNetwork(nn.Module):
    """Computes Q-values, or a policy and values, of T steps at once, by a torso, a core and a head.

    Make one with q_network(), policy_value_network() or policy_network(), which check the fields.
    """

    observation_space: gymnasium.Space
    action_space: Any
    head: nn.Module  # takes the vectors [T, B, H] of each body, and gives what the agent returns
    body: Body  # the only one, or the policy's if values have their own
    value_body: Body | None  # the values' own, if they have one
    frame_stack: int  # the number of images that are seen at once
    normalized: bool = False  # whether arrays of numbers are normalised by running statistics

    def setup(self):
        nn.share_scope(self, self.body)  # so that its parameters are named "torso" and "core"

    def initial(self, batch: int) -> CoreState:
        """Returns a CoreState of zeros, as numpy arrays, for environments that begin.

        Its frames have every array of the observation but action_mask, with a second axis of size
        frame_stack - 1, which may be 0. Only images are stacked.
        """
        frames = jax.tree.map(
            lambda x: np.zeros((batch, self.frame_stack - 1, *x.shape[1:]), x.dtype),
            without_mask(sample_obs(self.observation_space)),
        )
        lstm = self.body.initial(batch)
        if self.value_body is not None:
            of_value = self.value_body.initial(batch)
            lstm = {"policy": lstm, "value": of_value} if lstm or of_value else ()
        one = sample_action(self.action_space)
        a_tm1 = np.zeros((batch, *one.shape[1:]), one.dtype)
        return CoreState(lstm, a_tm1, frames, np.zeros(batch, np.int32))

    def legal(self, obs):
        """Returns which actions the observation's mask and the sizes of the action space allow.

        It is a bool array that broadcasts to [T, B, A] or [T, B, D, K], or None if all are legal.

        Args:
          obs: [T, B, ...] observations.
        """
        mask = obs.get("action_mask") if isinstance(obs, dict) else None
        valid = valid_actions(self.action_space)
        if valid is None:
            return mask
        return valid[None, None] if mask is None else mask & valid[None, None]

    @nn.compact
    def __call__(self, steps: Timestep, action, core_state: CoreState):
        """Applies torso, core and head to x_0 .. x_{T-1}.

        Args:
          steps: Timestep [T, B, ...] x_0 .. x_{T-1}. Arrays of the observation that are not in
            observation_space are ignored.
          action: [T-1, B] or [T-1, B, D] a_t taken in x_t.
          core_state: CoreState [B, ...] before x_0.

        Returns:
          the head's result: Q-values [T, B, A] or [T, B, D, K], of illegal actions too; or the
            policy's Distribution and values.
          core_state: CoreState before x_T, except for a_tm1, which is not changed: the caller sets
            it to a_{T-1}.
        """
        steps = steps._replace(obs=read(self.observation_space, steps.obs))
        frames, age, lstm = core_state.frames, core_state.age, core_state.lstm
        all_spaces, obs = named_leaves(self.observation_space), named_leaves(steps.obs)
        statistics = {
            name: self.variable("statistics", name, self.first_statistics, space).value
            for name, space in all_spaces.items()
            if self.normalized and is_number(space)
        }
        if self.frame_stack > 1:
            past = named_leaves(frames)
            for name, space in all_spaces.items():
                if is_image(space):
                    obs[name], _, age = stack_frames(
                        past[name], core_state.age, obs[name], steps.first
                    )
            frames = jax.tree.map(advance, frames, without_mask(steps.obs))
        a_tm1 = jnp.concatenate([core_state.a_tm1[None], action])
        inputs = obs, statistics, steps, a_tm1
        if self.value_body is None:
            x, lstm = self.body(*inputs, lstm)
            return self.head(x), CoreState(lstm, core_state.a_tm1, frames, age)
        of_policy, of_value = (lstm["policy"], lstm["value"]) if lstm else ((), ())
        x, of_policy = self.body(*inputs, of_policy)
        value_x, of_value = self.value_body(*inputs, of_value)
        lstm = {"policy": of_policy, "value": of_value} if lstm else ()
        return self.head(x, value_x), CoreState(lstm, core_state.a_tm1, frames, age)

    def convolving(self, form: str) -> "AgentNetwork":
        """Returns the same network with convolutions in another form; see convolution.py."""
        values = self.value_body and self.value_body.clone(conv=form)
        return self.clone(body=self.body.clone(conv=form), value_body=values)

    def first_statistics(self, space: gymnasium.Space):
        """Returns an array's statistics before any was seen: those that torsos.encode assumes."""
        return first_statistics(space, self.body.pixel_offset, self.body.pixel_scale)

    def __hash__(self):  # flax hashes all fields, and gymnasium's spaces cannot be hashed
        return hash((str(self.observation_space), str(self.action_space), self.body.core_size))


def read(space: gymnasium.Space, obs):
    """Returns the arrays of an observation that a space has. A space that is one array takes "obs"
    out of a dict."""
    if not isinstance(obs, dict):
        return obs
    if not isinstance(space, spaces.Dict):
        return obs["obs"]
    return {key: x for key, x in obs.items() if key in space.spaces}


def sample_obs(space: gymnasium.Space):
    """Returns a batch of one observation of zeros: [1, ...], in a dict if the space is a Dict.

    Its arrays have the types that environments give: bool for MultiBinary, else the space's.
    """
    if isinstance(space, spaces.Dict):
        return {key: sample_obs(space[key]) for key in space}
    dtype = bool if isinstance(space, spaces.MultiBinary) else space.dtype
    return np.zeros((1, *shape_of(space)), jax.dtypes.canonicalize_dtype(dtype))


def check_images(
    observation_space: gymnasium.Space,
    frame_stack: int = 1,
    pixel_offset: float = 0.0,
    pixel_scale: float = 255.0,
    **others,
) -> None:
    """Checks that arguments of a network which say how it sees images have images to act on.

    Args:
      others: ignored.

    Raises:
      UserError: one is set that the observation cannot honour.
    """
    del others
    if frame_stack > 1 and not has_images(observation_space):
        raise UserError(f"frame_stack {frame_stack} is for images, and the observation has none")
    leaves = named_leaves(observation_space).values()
    if any(is_number(x) and x.dtype == np.uint8 for x in leaves):
        return
    for name, value, default in [("offset", pixel_offset, 0.0), ("scale", pixel_scale, 255.0)]:
        if value != default:
            raise UserError(
                f"pixel_{name} {value} is for the grey levels of images, and the observation has "
                f"none"
            )


def q_network(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    head_size: int = 512,
    bfloat16: bool = False,
    normalize_observations: bool = False,
    frame_stack: int = 1,
    **body,
) -> AgentNetwork:
    """Makes a network of Q-values by a dueling head: [T, B, A] or [T, B, D, K].

    Args:
      observation_space: see make_body.
      action_space: Discrete or MultiDiscrete.
      head_size: the size of the hidden layer of the value and of that of the advantages; R2D2's is
        the default, and 0 is for none.
      bfloat16, body: see make_body.
      normalize_observations: normalise arrays of numbers by running statistics; see statistics.py.
      frame_stack: the number of images seen at once.

    Raises:
      UserError: see make_body and check_images; or the actions are continuous.
    """
    action_shape(action_space)
    if is_continuous(action_space):
        raise UserError(f"Q-values need actions that can be counted, not {action_space}")
    only = make_body(observation_space, action_space, bfloat16=bfloat16, **body)
    check_images(observation_space, frame_stack, **body)
    head = DuelingHead(action_space, head_size, compute_dtype(bfloat16))
    return AgentNetwork(
        observation_space, action_space, head, only, None, frame_stack, normalize_observations
    )


def policy_value_network(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    num_tasks: int = 1,
    head_size: int = 0,
    bfloat16: bool = False,
    normalize_observations: bool = False,
    frame_stack: int = 1,
    separate: bool = False,
    policy_keys: Sequence[str] | None = None,
    value_keys: Sequence[str] | None = None,
    value_core_size: int | None = None,
    **body,
) -> AgentNetwork:
    """Makes a network of a policy, a Distribution over actions in [T, B] states, and of values
    [T, B, num_tasks].

    Discrete and MultiDiscrete actions have a categorical policy, Box actions a Gaussian one. The
    core sees rewards clipped to [-1, 1], as IMPALA's did. A reward tells of the exact state, so the
    policy's core sees 0 in its place where policy_keys says what the policy may read.

    Args:
      observation_space: see make_body.
      action_space: Discrete, MultiDiscrete or Box [D].
      num_tasks: the number of values, one for each task. The policy does not know which task it
        plays.
      head_size: the size of the head's hidden layers, one for the policy and one for the values; 0
        for none.
      bfloat16, body: see make_body.
      normalize_observations: normalise arrays of numbers by running statistics; see statistics.py.
      frame_stack: the number of images seen at once.
      separate: whether the values have a body of their own.
      policy_keys, value_keys: names of the observation's arrays that the policy reads, and of those
        that the values read; None for all.
      value_core_size: the size of the values' own LSTM; None for the same as the policy's.

    Raises:
      UserError: see make_body and check_images; or policy and values should read different arrays
        with one body.
    """
    if not separate and policy_keys != value_keys:
        raise UserError(
            f"policy and values can only read different arrays, {policy_keys} and {value_keys}, "
            f"with separate networks"
        )
    action_shape(action_space)
    body |= {"reward_bound": 1.0, "bfloat16": bfloat16}
    own = body if policy_keys is None else body | {"reward_bound": 0.0}
    of_policy = make_body(part(observation_space, policy_keys), action_space, **own)
    of_value = None
    if separate:
        if value_core_size is not None:
            body |= {"core_size": value_core_size}
        of_value = make_body(part(observation_space, value_keys), action_space, **body)
    check_images(observation_space, frame_stack, **body)
    head = PolicyValueHead(action_space, num_tasks, head_size, compute_dtype(bfloat16))
    return AgentNetwork(
        observation_space,
        action_space,
        head,
        of_policy,
        of_value,
        frame_stack,
        normalize_observations,
    )


def policy_network(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    head_size: int = 0,
    bfloat16: bool = False,
    normalize_observations: bool = False,
    frame_stack: int = 1,
    reward_bound: float = 1.0,
    **body,
) -> AgentNetwork:
    """Makes a network of a policy alone: a Distribution over actions in [T, B] states, and () in
    place of values. The arguments are those of policy_value_network, with which policy and values
    were learned; what they say of images is ignored if only the values saw images. The core sees
    rewards clipped to reward_bound, either way; with 0 it sees none."""
    body |= {"reward_bound": reward_bound, "bfloat16": bfloat16}
    only = make_body(observation_space, action_space, **body)
    head = PolicyHead(action_space, head_size, compute_dtype(bfloat16))
    frame_stack = frame_stack if has_images(observation_space) else 1
    return AgentNetwork(
        observation_space, action_space, head, only, None, frame_stack, normalize_observations
    )


def policy_alone(network: AgentNetwork) -> AgentNetwork:
    """Returns the part of a network that acts: without the values and without the arrays that only
    they read. If the values have no body of their own, it returns the network itself.

    The result takes the whole network's parameters, and ignores those of the values. It plays any
    task that shows the arrays that the policy reads.
    """
    if not isinstance(network, AgentNetwork) or network.value_body is None:
        return network  # it has one body, or is no AgentNetwork
    head, space = network.head, network.observation_space
    if isinstance(space, spaces.Dict):
        known = named_leaves(network.body.observation_space)
        kept = {k: x for k, x in space.items() if k == "action_mask" or k in known}
        space = kept["obs"] if list(kept) == ["obs"] else spaces.Dict(kept)
    return AgentNetwork(
        space,
        network.action_space,
        PolicyHead(head.action_space, head.hidden_size, head.dtype),
        network.body.clone(observation_space=space),
        None,
        network.frame_stack if has_images(space) else 1,
        network.normalized,
    )
