"""The interface of a batch of environments, which every back-end and every wrapper has.

The three rules that each must keep (rlsys/types.py):
1. One step is spent on a reset: it ignores its action, has reward 0 and shows an episode's `first`
   observation. The step before it shows the last episode's true last observation, and has
   `discount` 0 or `truncated` True.
2. A step that ends its episode by a time limit alone is `truncated` and keeps `discount` 1. On a
   step that comes to its own end too, `discount` is 0 and `truncated` False (EnvPool's tasks say
   `truncated` there).
3. Steps that another policy than the learner's played are marked in `Trajectory.learns`. None of
   today's environments has any: each row is one environment, played by the learner's policy alone.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from gymnasium import spaces

from rlsys.types import Timestep


class Episode(NamedTuple):
    """An episode as the task counts it: a whole game, whatever the learner sees of it."""

    episode_return: float  # sum of raw rewards
    length: int  # agent steps; the steps that are spent on resets are not counted
    env: int  # which of the B environments played it
    task: str  # the Task's name
    ended: bool = True  # False where it is still running


class Envs(Protocol):
    """B environments of one task, stepped together. Arrays are numpy's; their first axis is B.

    Attributes:
      num_envs: B.
      name: the task's.
      observation_space: of one environment's obs: Box, Discrete, MultiDiscrete or MultiBinary, or
        one Dict of them. Images are [H, W, C], floats float32, categories int32 from 0; a mask of
        the legal actions is called "action_mask".
      action_space: Discrete(A) or MultiDiscrete, counted from 0, or a Box [D] of numbers.
      raw_observation_space, raw_action_space: as somebody who plays the task without rlsys meets
        them; of EnvPool's tasks the two above, before any option.
    """

    num_envs: int
    name: str
    observation_space: spaces.Space
    action_space: spaces.Space
    raw_observation_space: spaces.Space
    raw_action_space: spaces.Space

    def reset(self) -> Timestep:
        """Starts all environments; running episodes are dropped."""
        ...

    def step(self, action: np.ndarray) -> Timestep:
        """Plays one step; the first one after restart() (or with no reset() at all) is a reset.

        Args:
          action: [B] int for Discrete, [B, D] int for MultiDiscrete, [B, D] float for Box.

        Returns:
          A Timestep of arrays that later steps do not change.

        Raises:
          UserError: the action's shape, type or range is wrong.
        """
        ...

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        """Starts afresh, so that what follows depends on the seed alone: environments cannot be
        saved, and this is what a checkpoint holds of them.

        The next step() ignores its action and returns the new environments' first Timestep, like
        any other reset. Running episodes are dropped.

        Args:
          seed: of the new environments, as make() takes it.
          timestep: [B, ...] the latest one, x_T.

        Returns:
          timestep, truncated where its episode was running.
        """
        ...

    def pop_episodes(self) -> list[Episode]:
        """The episodes that have ended since the last call."""
        ...

    def running_episodes(self) -> list[Episode]:
        """The running episode of each environment, in order, with its return and length so far."""
        ...

    def render(self) -> np.ndarray:
        """A picture of environment 0, uint8 [H, W, 3].

        Raises:
          UserError: the environments were not made for it, or there is none.
        """
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...
