"""B environments of an EnvPool task, stepped together."""

import collections
import functools
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.envs.spaces import MASK, make_actions, make_observations
from rlsys.envs.tasks import DEFAULTS, Options, check_task, family, make_pool
from rlsys.types import Timestep, UserError


class Episode(NamedTuple):
    """An episode as the task counts it: a whole game, whatever the learner sees of it."""

    episode_return: float  # sum of raw rewards
    length: int  # agent steps; the steps that EnvPool spends on resets are not counted
    env: int  # which of the B environments played it
    task: str  # the Task's name
    ended: bool = True  # False where it is still running


class Envs:
    """B environments of one task.

    EnvPool spends one step on a reset: that step's action is ignored, its reward is 0 and its
    Timestep is `first`; the step before it shows the episode's true last observation. An episode
    that comes to its own end on the very step of its time limit counts as truncated.

    Where `life_loss_ends`, a lost life is such an end too (discount 0), and the step after it plays
    a no-op in place of the agent's action, is `first` and has reward 0: what the no-op earns counts
    in the game's return alone.

    Attributes:
      num_envs: B.
      name: of the task.
      observation_space: of one environment's obs.
      action_space: Discrete(A), or MultiDiscrete of D equal sizes.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        seed: int | Sequence[int],
        options: Options = DEFAULTS,
        num_threads: int = 0,
        *,
        name: str | None = None,
        render: bool = False,
    ):
        """Makes the environments.

        Args:
          task: EnvPool id of a single-player task.
          num_envs: B.
          seed: any integer from 0 up; the same one gives the same Timesteps for the same actions.
            Of several, each is of an equal share of the environments, in order, which are then what
            they would be by themselves.
          options: what to set of the task.
          num_threads: threads that step the environments; if 0 as many as cores, or one where a
            step costs less than handing it to a thread.
          name: of the task among those of a run; its id if None.
          render: whether render() will be called.

        Raises:
          UserError: no such task, it cannot be made here, or it cannot honour the options.
        """
        check_task(task)
        for what, value, least in (("num_envs", num_envs, 1), ("num_threads", num_threads, 0)):
            if value < least:
                raise UserError(f"{what} must be {least} or more, not {value}")
        self.num_envs, self.name = num_envs, task if name is None else name
        self._task, self._options = task, options
        self._num_threads, self._render = num_threads, render
        self._episodes: collections.deque[Episode] = collections.deque()
        self._make(seed)
        spec = self._pool.spec
        self._actions = make_actions(task, spec, options)
        self._observations = make_observations(task, spec, self._actions.axes, options)
        self.action_space = self._actions.space
        self.observation_space = self._observations.space
        self._action_shape = (num_envs, *self._actions.axes[:-1])

    def _make(self, seed: int | Sequence[int]) -> None:
        seeds = [seed] if isinstance(seed, int) else list(seed)
        if min(seeds) < 0:
            raise UserError(f"seed must be 0 or more, not {min(seeds)}")
        self._pool: Any = None  # the old one goes before the new one comes
        self._pool = make_pool(
            self._task, self.num_envs, seeds, self._options, self._num_threads, self._render
        )
        spawned = [np.random.SeedSequence(s).spawn(1)[0] for s in seeds]
        self._blank_rngs = [np.random.default_rng(s) for s in spawned]
        self._started = False

    def reset(self) -> Timestep:
        """Starts all environments; running episodes are dropped."""
        obs, info = self._pool.reset()
        self._started = True
        self._return = np.zeros(self.num_envs)
        self._length = np.zeros(self.num_envs, int)
        self._lives = info.get("lives")  # [B], Atari only
        self._life_lost = np.zeros(self.num_envs, bool)
        zeros = np.zeros(self.num_envs, np.float32)
        first = np.ones(self.num_envs, bool)
        return Timestep(self._observe(obs, info, first), first, zeros, zeros + 1, ~first)

    def step(self, action: np.ndarray) -> Timestep:
        """Plays one step; the first one after restart() (or with no reset() at all) is a reset.

        Args:
          action: [B] int, or [B, D] for D-dimensional actions.

        Raises:
          UserError: the action's shape, type or range is wrong.
        """
        action = self._checked(action)
        if not self._started:
            return self.reset()
        if self._options.life_loss_ends:
            action = np.where(self._life_lost, 0, action)
        obs, reward, terminated, truncated, info = self._pool.step(self._actions.to_pool(action))
        first = info["elapsed_step"] == 0
        reward = np.where(first, np.float32(0), reward)  # DM Control's resets have a reward
        ended = terminated | truncated
        discount = (~terminated).astype(np.float32)
        learner_reward = reward
        if self._options.life_loss_ends:
            first, learner_reward, discount, truncated = self._end_lives(
                info["lives"], ended, first, reward, discount, truncated
            )
        if self._options.clip_rewards:
            learner_reward = np.clip(learner_reward, -1, 1)
        if self._options.reward_scale != 1.0:
            learner_reward = learner_reward * np.float32(self._options.reward_scale)
        self._return += reward
        self._length += ~first
        if ended.any():
            self._finish(ended)
        return Timestep(self._observe(obs, info, first), first, learner_reward, discount, truncated)

    def _checked(self, action: np.ndarray) -> np.ndarray:
        """A wrong action would crash EnvPool, and with it the process."""
        action = np.asarray(action)
        if action.shape != self._action_shape or action.dtype.kind not in "iu":
            raise UserError(
                f"an action of {self._task!r} is int {list(self._action_shape)}, not "
                f"{action.dtype} {list(action.shape)}"
            )
        n = self._actions.axes[-1]
        if action.min() < 0 or action.max() >= n:
            wrong = action[(action < 0) | (action >= n)][0]
            raise UserError(f"an action of {self._task!r} lies in 0 to {n - 1}, not {wrong}")
        return action

    def _end_lives(self, lives, ended, first, reward, discount, truncated):
        """Makes a lost life an episode's end, and the step after it the next one's first."""
        begins = self._life_lost  # this step was the no-op
        # At 0 lives some games play on a little, and then end by themselves.
        self._life_lost = (lives < self._lives) & (lives > 0) & ~ended & ~first & ~begins
        self._lives = lives
        return (
            first | begins,
            np.where(begins, np.float32(0), reward),
            np.where(begins, np.float32(1), discount * ~self._life_lost),
            truncated & ~begins,
        )

    def _finish(self, ended: np.ndarray) -> None:
        which = np.flatnonzero(ended)
        finished = (self._return[which].tolist(), self._length[which].tolist(), which.tolist())
        self._episodes.extend(map(Episode, *finished, itertools.repeat(self.name)))
        self._return[ended] = 0
        self._length[ended] = 0

    def _observe(self, obs: Any, info: dict[str, Any], first: np.ndarray) -> Any:
        """EnvPool's observation as ours, blanked where the options say so."""
        obs = self._observations.from_pool(obs, info)
        if self._options.only_first or self._options.flicker:
            blank = ~first & self._options.only_first
            if self._options.flicker:
                share = self.num_envs // len(self._blank_rngs)
                drawn = np.concatenate([rng.random(share) for rng in self._blank_rngs])
                blank |= drawn < self._options.flicker
            for key, x in obs.items() if isinstance(obs, dict) else [("obs", obs)]:
                if key != MASK:
                    x[blank] = 0  # EnvPool gives new arrays at each step
        self._last_obs = obs
        return obs

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        """Starts afresh, so that what follows depends on the seed alone: environments cannot be
        saved, and this is what a checkpoint holds of them.

        The next step() ignores its action and returns the new environments' first Timestep, like
        any other reset. Running episodes are dropped.

        Args:
          seed: of the new environments.
          timestep: [B, ...] the latest one, x_T.

        Returns:
          timestep, truncated where its episode was running.
        """
        self._make(seed)
        running = (timestep.discount == 1) & ~timestep.first
        return timestep._replace(truncated=timestep.truncated | running)

    def pop_episodes(self) -> list[Episode]:
        """The episodes that have ended since the last call."""
        return [self._episodes.popleft() for _ in range(len(self._episodes))]

    def running_episodes(self) -> list[Episode]:
        """The running episode of each environment, in order, with its return and length so far."""
        so_far = zip(self._return.tolist(), self._length.tolist(), strict=True)
        return [Episode(*x, i, self.name, ended=False) for i, x in enumerate(so_far)]

    def render(self) -> np.ndarray:
        """A picture of environment 0, uint8 [H, W, 3]: EnvPool's, else the observation enlarged.

        Raises:
          UserError: there is neither.
        """
        if not (self._render and self._started):
            raise UserError("render() needs Envs(..., render=True) and a reset() before it")
        if family(self._task) != "mujoco" or _renders(self._task):
            try:
                return np.asarray(self._pool.render(0)[0])
            except Exception:  # no renderer: RuntimeError; its pictures missing: FileNotFoundError
                pass
        return _picture(self._task, self.observation_space, self._last_obs)

    def close(self) -> None:
        """Frees the environments."""
        self._pool = None


@functools.cache
def _renders(task: str) -> bool:
    """Whether MuJoCo draws on this machine; without OpenGL it ends its process, so not in ours."""
    code = (
        "import envpool, sys; pool = envpool.make_gymnasium(sys.argv[1], render_mode='rgb_array'); "
        "pool.reset(); pool.render()"
    )
    with tempfile.TemporaryDirectory() as folder:  # it leaves a log there
        command = [sys.executable, "-c", code, task]
        return subprocess.run(command, capture_output=True, cwd=folder).returncode == 0


def _picture(task: str, space: spaces.Space, obs: Any) -> np.ndarray:
    """The first of a batch of images or grids of bounded numbers, as uint8 [H, W, 3]."""
    if (
        not isinstance(space, spaces.Box)
        or len(space.shape) not in (2, 3)
        or not space.is_bounded()
    ):
        raise UserError(f"{task!r} cannot be drawn here, and its observation is no picture")
    span = np.maximum(space.high.astype(np.float32) - space.low, 1e-6)
    image = ((obs[0] - space.low.astype(np.float32)) / span * 255).astype(np.uint8)
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[-1] != 3:
        image = image.max(-1, keepdims=True).repeat(3, -1)
    scale = max(1, 336 // max(image.shape[:2]))
    return image.repeat(scale, 0).repeat(scale, 1)
