"""The base of the back-ends: it seeds, restarts, checks actions, and adds up episodes' returns."""

import collections
import importlib
import inspect
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

import rlsys
from rlsys.envs.interface import Episode
from rlsys.envs.options import Task
from rlsys.envs.spaces import check_action
from rlsys.types import Timestep, UserError

NOT_ITS_OWN = (  # beginnings of the files that are no environment's own code
    "<",
    *(
        f"{Path(str(package.__file__)).parent}{os.sep}"
        for package in (rlsys, gymnasium, jax, importlib)
    ),
)


class Played(NamedTuple):
    """Holds the results of one step of B environments."""

    obs: Any  # [B, ...] in observation_space
    first: np.ndarray  # [B] bool, the step was spent on a reset
    reward: np.ndarray  # [B] float32, raw
    terminated: np.ndarray  # [B] bool, the episode came to its own end
    truncated: np.ndarray  # [B] bool, it was cut off by a time limit
    successes: Any = None  # [B] as successes() counts; None if the task does not tell


def successes(info: Mapping[str, Any]) -> np.ndarray | None:
    """Counts the goals that each episode has reached so far, from what a task tells beside a step.

    A task that sets a new goal after each counts them itself, as "success_count": OpenAI et al.
    2018, section 6.2, calls them consecutive successes. With one goal an episode, "is_success"
    (Plappert et al. 2018, "Multi-Goal Reinforcement Learning") or "success" says whether it is
    reached now, so that what counts is whether it is at the end.

    Returns:
      [B] float, or None if the task tells nothing of the kind.
    """
    for name in ("success_count", "is_success", "success"):
        found = np.asarray(info.get(name))
        if found.dtype.kind in "biuf" and found.ndim == 1:  # others use the word as they like
            return found.astype(float)
    return None


def join(parts: Sequence[Any]) -> Any:
    """Joins arrays, or trees of them such as Played, along the environments."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


class Backend:
    """Plays B environments of one task, as interface.Envs says. Each back-end inherits from it,
    defines _make, _reset, _step, _draw and close, and sets the four spaces.

    It sees raw rewards only, as the wrappers are around it.
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    raw_observation_space: spaces.Space
    raw_action_space: spaces.Space

    to_move: Any = ()
    team_size = 1
    drawn: Any = ()
    drawn_names: tuple[str, ...] = ()

    def __init__(self, task: Task, num_envs: int, seed: int | Sequence[int], *, render: bool):
        """Makes the environments; make.make explains the arguments.

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
        """Makes new environments in place of the old ones. seeds: [B] one for each, below 2^31."""
        raise NotImplementedError

    def _reset(self) -> Any:
        """Starts new episodes in all environments and returns obs [B, ...]."""
        raise NotImplementedError

    def _step(self, action: np.ndarray) -> Played:
        """Plays a step; where the last step ended an episode, this one is spent on the reset."""
        raise NotImplementedError

    def send(self, action: np.ndarray) -> None:
        """Begins a step, where the back-end can, for receive() to end. It checks no action."""
        self._sent = action

    @classmethod
    def send_together(
        cls, several: Sequence[Any], rows: Sequence[slice], action: np.ndarray
    ) -> None:
        """Begins a step of several back-ends of this class and one task, each with its rows of
        action; it checks no action."""
        for one, own in zip(several, rows, strict=True):
            one.send(action[own])

    def receive(self) -> Played:
        """Ends the step that send() has begun. It counts nothing, as step() does."""
        return self._step(self._sent)

    @classmethod
    def receive_together(cls, several: Sequence[Any]) -> Played:
        """Ends the steps of several back-ends of this class and one task, their rows joined."""
        return join([one.receive() for one in several])

    def _draw(self) -> np.ndarray | None:
        """Draws environment 0 as uint8 [H, W, 3], or returns None if it has no picture."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the environments."""
        raise NotImplementedError

    @property
    def steps_per_second(self) -> float | None:
        """The number of steps in a second of the task's own time; None if it does not tell."""
        return None

    def _begin(self, seed: int | Sequence[int]) -> None:
        self._make(environment_seeds(self.num_envs, seed))
        self._started = False

    def reset(self) -> Timestep:
        self._obs = self._reset()
        self._started = True
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, int)
        self._successes: np.ndarray | None = None
        zeros = np.zeros(self.num_envs, np.float32)
        first = np.ones(self.num_envs, bool)
        return Timestep(self._obs, first, zeros, zeros + 1, ~first)

    def step(self, action: np.ndarray) -> Timestep:
        # A wrong action would crash EnvPool, and with it the process.
        action = check_action(self.name, self.action_space, self.num_envs, action)
        if not self._started:
            return self.reset()
        self._obs, first, reward, terminated, truncated, self._successes = self._step(action)
        ended = terminated | truncated
        self._return += reward
        self._length += ~first
        if ended.any():
            self._finish(ended)
        return Timestep(self._obs, first, reward, (~terminated).astype(np.float32), truncated)

    def _finish(self, ended: np.ndarray) -> None:
        self._episodes += [self._episode(i, ended=True) for i in np.flatnonzero(ended).tolist()]
        self._return[ended] = 0
        self._length[ended] = 0

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._begin(seed)
        running = (timestep.discount == 1) & ~timestep.first
        return timestep._replace(truncated=timestep.truncated | running)

    def pop_episodes(self) -> list[Episode]:
        return [self._episodes.popleft() for _ in range(len(self._episodes))]

    def pop_draws(self) -> list[Any]:
        return []

    def set_ranges(self, ranges: Any) -> None:
        """Only where physics are drawn are there ranges to set."""

    def pop_trials(self) -> list[Any]:
        return []

    def running_episodes(self) -> list[Episode]:
        return [self._episode(i, ended=False) for i in range(self.num_envs)]

    def _episode(self, i: int, *, ended: bool) -> Episode:
        """Returns how the episode of environment i stands."""
        found = None if self._successes is None else float(self._successes[i])
        length, total = int(self._length[i]), float(self._return[i])
        return Episode(total, length, i, self.name, ended, found)

    def render(self) -> np.ndarray:
        """Returns the environment's own picture or, if it has none, its observation enlarged."""
        if not (self._can_render and self._started):
            raise UserError("render() needs make(..., render=True) and a reset() before it")
        drawn = self._draw()
        if drawn is not None and drawn.dtype == np.uint8 and drawn.ndim == 3:
            return drawn
        return _picture(self.name, self.observation_space, self._obs)


def cannot_make(library: str, env_id: str, error: Exception) -> UserError:
    """Returns an error that says in one sentence why an environment cannot be made."""
    return UserError(f"{library} cannot make {env_id!r} here: {_reason(error)}")


def failed(name: str, where: str, error: Exception) -> UserError:
    """Returns an error that says in one sentence what an environment raised in reset or step."""
    return UserError(f"{name!r} failed in {where}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Gives an exception's type, its words, and the line of the environment that raised it."""
    words = " ".join(str(error).split()).rstrip(".")
    reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(NOT_ITS_OWN)
    ]
    if not frames:
        return reason
    return f"{reason} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def argument_names(function: Any) -> list[str]:
    """Returns the names of the keyword arguments that a function takes; "**" if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    any_of_them = [x for x in parameters if x.kind is x.VAR_KEYWORD]
    named = [x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
    return [*named, "**"] if any_of_them else named


def render_fps(metadata: Any) -> float | None:
    """Return the `render_fps` of Gymnasium's metadata, None unless it is a positive number."""
    rate = metadata.get("render_fps")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def environment_seeds(num_envs: int, seed: int | Sequence[int]) -> list[int]:
    """Draws a seed below 2^31 for each of num_envs environments.

    The i-th environment has the i-th word of numpy's SeedSequence(seed), less its lowest bit.
    EnvPool's and Gymnasium's own rule, seed + i, would play the same episodes for seeds 0 and 1.

    Args:
      seed: any integer from 0 up. If there are several, each seeds an equal share of the
        environments, in order, as it would seed them alone.

    Raises:
      UserError: a seed is negative, or the shares are not equal.
    """
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if min(seeds) < 0:
        raise UserError(f"seed must be 0 or more, not {min(seeds)}")
    if num_envs % len(seeds):
        raise UserError(f"{len(seeds)} seeds cannot share {num_envs} environments evenly")
    share = num_envs // len(seeds)
    words = [np.random.SeedSequence(s).generate_state(share) for s in seeds]
    return (np.concatenate(words) >> 1).tolist()


def _picture(name: str, space: spaces.Space, obs: Any) -> np.ndarray:
    """Draws the first of a batch of images or grids of bounded numbers, as uint8 [H, W, 3]."""
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
