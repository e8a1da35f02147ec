"""What the back-ends share: seeds, restarts, checks of actions, and the episodes' returns."""

import collections
import itertools
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Episode
from rlsys.envs.options import Task
from rlsys.envs.spaces import check_action
from rlsys.types import Timestep, UserError


class Played(NamedTuple):
    """What a step of B environments gave."""

    obs: Any  # [B, ...] in observation_space
    first: np.ndarray  # [B] bool, the step was spent on a reset
    reward: np.ndarray  # [B] float32, raw
    terminated: np.ndarray  # [B] bool, the episode came to its own end
    truncated: np.ndarray  # [B] bool, it was cut off by a time limit


class Backend:
    """B environments of one task; see interface.Envs. A back-end fills in _make, _reset, _step and
    _draw, and sets the four spaces.

    Wrappers stand around it: it knows raw rewards only.
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    raw_observation_space: spaces.Space
    raw_action_space: spaces.Space

    def __init__(self, task: Task, num_envs: int, seed: int | Sequence[int], *, render: bool):
        """Makes the environments. Arguments as of make.make.

        Raises:
          UserError: they cannot be made, or cannot honour the task's options.
        """
        if num_envs < 1:
            raise UserError(f"num_envs must be 1 or more, not {num_envs}")
        self.num_envs, self.name = num_envs, task.name
        self._task, self._can_render = task, render
        self._episodes: collections.deque[Episode] = collections.deque()
        self._begin(seed)

    def _make(self, seeds: list[int]) -> None:
        """Makes new environments in place of the old ones. seeds: [B], of each, below 2^31."""
        raise NotImplementedError

    def _reset(self) -> Any:
        """Starts all episodes; returns obs."""
        raise NotImplementedError

    def _step(self, action: np.ndarray) -> Played:
        """Plays a step, and spends it on the reset where the last one ended its episode."""
        raise NotImplementedError

    def _draw(self) -> np.ndarray | None:
        """A picture of environment 0, uint8 [H, W, 3], or None where it has none of its own."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the environments."""
        raise NotImplementedError

    def _begin(self, seed: int | Sequence[int]) -> None:
        self._make(environment_seeds(self.num_envs, seed))
        self._started = False

    def reset(self) -> Timestep:
        self._obs = self._reset()
        self._started = True
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, int)
        zeros = np.zeros(self.num_envs, np.float32)
        first = np.ones(self.num_envs, bool)
        return Timestep(self._obs, first, zeros, zeros + 1, ~first)

    def step(self, action: np.ndarray) -> Timestep:
        # A wrong action would crash EnvPool, and with it the process.
        action = check_action(self.name, self.action_space, self.num_envs, action)
        if not self._started:
            return self.reset()
        self._obs, first, reward, terminated, truncated = self._step(action)
        ended = terminated | truncated
        self._return += reward
        self._length += ~first
        if ended.any():
            self._finish(ended)
        return Timestep(self._obs, first, reward, (~terminated).astype(np.float32), truncated)

    def _finish(self, ended: np.ndarray) -> None:
        which = np.flatnonzero(ended)
        finished = (self._return[which].tolist(), self._length[which].tolist(), which.tolist())
        self._episodes.extend(map(Episode, *finished, itertools.repeat(self.name)))
        self._return[ended] = 0
        self._length[ended] = 0

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._begin(seed)
        running = (timestep.discount == 1) & ~timestep.first
        return timestep._replace(truncated=timestep.truncated | running)

    def pop_episodes(self) -> list[Episode]:
        return [self._episodes.popleft() for _ in range(len(self._episodes))]

    def running_episodes(self) -> list[Episode]:
        so_far = zip(self._return.tolist(), self._length.tolist(), strict=True)
        return [Episode(*x, i, self.name, ended=False) for i, x in enumerate(so_far)]

    def render(self) -> np.ndarray:
        """The environment's own picture, else the observation enlarged."""
        if not (self._can_render and self._started):
            raise UserError("render() needs make(..., render=True) and a reset() before it")
        drawn = self._draw()
        if drawn is not None and drawn.dtype == np.uint8 and drawn.ndim == 3:
            return drawn
        return _picture(self.name, self.observation_space, self._obs)


def cannot_make(library: str, env_id: str, error: Exception) -> UserError:
    """A sentence on what went wrong, and where if it was in code that Python shows."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    words = " ".join(str(error).split()).rstrip(".")
    reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return UserError(f"{library} cannot make {env_id!r} here: {reason}{where}")


def environment_seeds(num_envs: int, seed: int | Sequence[int]) -> list[int]:
    """Seeds of each of num_envs environments, below 2^31.

    The i-th environment has the i-th word of numpy's SeedSequence(seed), less its lowest bit.
    EnvPool's and Gymnasium's own rule, seed + i, would play the same episodes for seeds 0 and 1.

    Args:
      seed: any integer from 0 up; of several, each is of an equal share of the environments, in
        order, which are then what they would be by themselves.

    Raises:
      UserError: a seed is negative.
    """
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if min(seeds) < 0:
        raise UserError(f"seed must be 0 or more, not {min(seeds)}")
    share = num_envs // len(seeds)
    words = [np.random.SeedSequence(s).generate_state(share) for s in seeds]
    return (np.concatenate(words) >> 1).tolist()


def _picture(name: str, space: spaces.Space, obs: Any) -> np.ndarray:
    """The first of a batch of images or grids of bounded numbers, as uint8 [H, W, 3]."""
    if (
        not isinstance(space, spaces.Box)
        or len(space.shape) not in (2, 3)
        or not space.is_bounded()
    ):
        raise UserError(f"{name!r} cannot be drawn here, and its observation is no picture")
    span = np.maximum(space.high.astype(np.float32) - space.low, 1e-6)
    image = ((obs[0] - space.low.astype(np.float32)) / span * 255).astype(np.uint8)
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[-1] != 3:
        image = image.max(-1, keepdims=True).repeat(3, -1)
    scale = max(1, 336 // max(image.shape[:2]))
    return image.repeat(scale, 0).repeat(scale, 1)
