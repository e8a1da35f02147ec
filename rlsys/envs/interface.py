"""The interface of a batch of environments, which every back-end and every wrapper has.

Each must keep three rules. The first two serve rules 1 and 2 of rlsys/types.py.
1. One step is spent on a reset: it ignores its action, has reward 0 and shows an episode's `first`
   observation. The step before it shows the last episode's true last observation, and has
   `discount` 0 or `truncated` True.
2. A step that ends its episode by a time limit alone is `truncated` and keeps `discount` 1. On a
   step that comes to its own end too, `discount` is 0 and `truncated` False (EnvPool's tasks say
   `truncated` there).
3. A game of two players is two rows, one after the other; a game of two teams is a row for each
   player, one team after the other. A row whose player waits, or is dead, has exactly one legal
   action, which is not played, and `to_move` is False there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces

from rlsys.types import Timestep


class Episode(NamedTuple):
    """Says how one episode went. The task decides what an episode is: a whole game, for instance,
    even where the learner sees an end at each lost life."""

    episode_return: float  # sum of raw rewards
    length: int  # agent steps; the steps that are spent on resets are not counted
    env: int  # which of the B environments played it; of a team the first
    task: str  # the Task's name
    ended: bool = True  # False where it is still running
    successes: float | None = None  # goals reached, as backend.successes counts; None: not told


class Envs(Protocol):
    """Plays B environments of one task together. Arrays are numpy's; their first axis is B.

    Attributes:
      num_envs: B.
      name: the name of the task.
      team_size: the number of neighbouring rows that are one team and tell one episode; 1 where
        every row is by itself.
      observation_space: the space of one environment's obs: Box, Discrete, MultiDiscrete or
        MultiBinary, or one Dict of them. Images are [H, W, C], floats are float32, categories are
        int32 from 0, and a mask of the legal actions is called "action_mask".
      action_space: Discrete(A) or MultiDiscrete, counted from 0, or a Box [D] of numbers.
      raw_observation_space, raw_action_space: as somebody who plays the task without rlsys meets
        them; of EnvPool's tasks the two above, before any option.
    """

    num_envs: int
    name: str
    team_size: int
    observation_space: spaces.Space
    action_space: spaces.Space
    raw_observation_space: spaces.Space
    raw_action_space: spaces.Space

    @property
    def to_move(self) -> Any:
        """[B] bool, which rows choose the next action; () where every row always does."""
        ...

    @property
    def drawn(self) -> Any:
        """[B, n] float32, what randomise/groups.py has drawn of the physics behind the last
        Timestep; () where nothing is drawn."""
        ...

    @property
    def drawn_names(self) -> tuple[str, ...]:
        """The names of the n numbers of drawn."""
        ...

    @property
    def steps_per_second(self) -> float | None:
        """The number of steps in a second of the task's own time; None if it does not tell."""
        ...

    def reset(self) -> Timestep:
        """Starts new episodes in all environments and drops those that were running."""
        ...

    def step(self, action: np.ndarray) -> Timestep:
        """Plays one step; the first step after restart(), or with no reset() before it, is a reset.

        Args:
          action: [B] int for Discrete, [B, D] int for MultiDiscrete, [B, D] float for Box.

        Returns:
          A Timestep of arrays that later steps do not change.

        Raises:
          UserError: the action's shape, type or range is wrong.
        """
        ...

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        """Starts the environments afresh, so that all that follows depends on the seed alone. A
        checkpoint does this, as environments cannot be saved: a resumed run then plays what an
        uninterrupted one plays.

        The next step() ignores its action and returns the new environments' first Timestep, like
        any other reset. Running episodes are dropped.

        Args:
          seed: the seed of the new environments, as make() takes it.
          timestep: [B, ...] the latest Timestep, x_T.

        Returns:
          The same Timestep, but truncated where its episode was running.
        """
        ...

    def pop_episodes(self) -> list[Episode]:
        """Returns the episodes that have ended since the last call."""
        ...

    def pop_draws(self) -> list[Any]:
        """Returns the draws of physics since the last call; see randomise/groups.py."""
        ...

    def set_ranges(self, ranges: Any) -> None:
        """Has the next draws of physics come from these ranges; see randomise/adapt.py. It is for
        tasks whose ranges are adapted."""
        ...

    def pop_trials(self) -> list[Any]:
        """Returns what was played at the ends of ranges since the last call; see
        randomise/adapt.py."""
        ...

    def running_episodes(self) -> list[Episode]:
        """Returns each environment's, or each team's, running episode, in order, as it stands."""
        ...

    def render(self) -> np.ndarray:
        """Draws environment 0 as uint8 [H, W, 3].

        Raises:
          UserError: the environments were made without render=True, or have no picture.
        """
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...
