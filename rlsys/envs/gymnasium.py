"""Gymnasium's environments, by its own vector environments: ENV=gymnasium/<id>, or
ENV=gymnasium/<module>:<function> for a function that returns one.

The actor's own thread steps them one after the other (SyncVectorEnv), as most environments need
less time for a step than it takes to hand it to another process, 0.1 to 0.2 ms. Where a step takes
longer, `processes=true` gives each environment a process of its own (AsyncVectorEnv).
"""

import importlib
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from rlsys.envs.backend import (
    Backend,
    Played,
    argument_names,
    cannot_make,
    failed,
    render_fps,
    successes,
)
from rlsys.envs.options import Task, check_family
from rlsys.envs.spaces import make_actions, make_observations
from rlsys.types import UserError

MOST_PROCESSES = 256


class GymnasiumEnvs(Backend):
    """Plays B environments of a Gymnasium task.

    Gymnasium's next-step autoreset spends one step on a reset, and the step before it shows the
    episode's true last observation. A step that ends its episode and reaches the time limit too
    counts as an end.
    """

    _vector: Any = None

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        num_threads: int = 0,
        render: bool = False,
        variant: dict[str, float] | None = None,
    ):
        """Makes the environments; make.make explains the arguments.

        Args:
          variant: keyword arguments of what makes an environment, drawn at random.
        """
        self._arguments = variant or {}
        self.check(task.env_id)
        check_family(task.env_id, "gymnasium", task.options)
        if task.options.processes and num_envs > MOST_PROCESSES:
            raise UserError(
                f"processes=true would start {num_envs} processes at once, for one actor's "
                f"environments; {MOST_PROCESSES} are the most"
            )
        super().__init__(task, num_envs, seed, render=render)
        self.raw_action_space = self._vector.single_action_space
        self.raw_observation_space = self._vector.single_observation_space
        self._actions = make_actions(task.name, self.raw_action_space)
        self.action_space = self._actions.space
        self._observations = make_observations(
            task.name, self.raw_observation_space, self.action_space
        )
        self.observation_space = self._observations.space

    @staticmethod
    def check(env_id: str) -> None:
        """Raises:
        UserError: Gymnasium knows no such id and the module has no such function, or the module
          cannot be imported.
        """
        try:
            if not _function(env_id):
                gymnasium.spec(env_id.removeprefix("gymnasium/").rpartition(":")[2])
        except Exception as error:  # whatever the module raises
            raise cannot_make("Gymnasium", env_id, error) from error

    @staticmethod
    def arguments(env_id: str) -> list[str]:
        """Returns the names of the arguments that make an environment; "**" if it takes any."""
        creator: Any = _function(env_id)
        if not creator:
            spec = gymnasium.spec(env_id.removeprefix("gymnasium/").rpartition(":")[2])
            creator = spec.entry_point
            if isinstance(creator, str):
                creator = load_env_creator(creator)
        return argument_names(creator)

    @staticmethod
    def family(env_id: str) -> str:
        return "gymnasium"

    def _make(self, seeds: list[int]) -> None:
        self.close()
        self._seeds: list[int] | list[None] = list(seeds)
        env_id = self._task.env_id
        one = _Maker(env_id, self._task.options.max_episode_steps, self._arguments)
        in_processes = self._task.options.processes and not self._can_render
        try:
            ones = [one] * self.num_envs
            if self._can_render:
                ones[0] = one.drawing()
            if in_processes:
                _start_fork_server()
                self._vector = AsyncVectorEnv(
                    ones, context="forkserver", autoreset_mode=AutoresetMode.NEXT_STEP
                )
            else:
                self._vector = SyncVectorEnv(ones, autoreset_mode=AutoresetMode.NEXT_STEP)
        except Exception as error:  # whatever the environment raises
            raise cannot_make("Gymnasium", env_id, error) from error
        self._ended = np.zeros(self.num_envs, bool)

    def _reset(self) -> Any:
        # Seeds are given once: a later reset() goes on with each environment's random numbers.
        seeds, self._seeds = self._seeds, [None] * self.num_envs
        try:
            obs, _ = self._vector.reset(seed=seeds)
        except Exception as error:  # whatever the environment raises
            raise failed(self.name, "reset", error) from error
        self._ended = np.zeros(self.num_envs, bool)
        return self._observations.convert(obs)

    def _step(self, action: np.ndarray) -> Played:
        first, action = self._ended, self._actions.convert(action)
        try:
            obs, reward, terminated, truncated, info = self._vector.step(action)
        except Exception as error:  # whatever the environment raises
            raise failed(self.name, "step", error) from error
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        self._ended = terminated | truncated
        return Played(
            self._observations.convert(obs),
            first,
            np.array(reward, np.float32),
            terminated,
            truncated & ~terminated,
            successes(info),
        )

    def _draw(self) -> np.ndarray | None:
        try:
            return np.asarray(self._vector.envs[0].render())
        except Exception:  # whatever a renderer raises, a missing library above all
            return None

    @property
    def steps_per_second(self) -> float | None:
        return render_fps(self._vector.metadata)

    def close(self) -> None:
        if self._vector is not None:
            self._vector.close()
        self._vector = None


def _start_fork_server() -> None:
    """Starts the server from which processes are forked, with the imports that each of them needs.

    Each runs the imports of this program's main module, which take seconds from nothing and
    milliseconds in a fork that has them. The server never starts JAX's threads; a fork of a process
    that has some, like this one, may wait for ever.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    names = [name for name in sys.modules if name.startswith("rlsys.")]
    names = [name for name in names if main is None or name != main.name]  # it runs in each
    multiprocessing.get_context("forkserver").set_forkserver_preload(names)
    resource_tracker.ensure_running()  # the server would start it, which unblocks signals
    # Ctrl-C is for the trainer, which saves a checkpoint and closes the others. The server and its
    # forks inherit that it is blocked for them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _function(env_id: str) -> Any:
    """Returns the function that an env_id names, and None where it is an id of Gymnasium's."""
    module, _, name = env_id.removeprefix("gymnasium/").rpartition(":")
    found = getattr(importlib.import_module(module), name, None) if module else None
    return found if callable(found) and name not in gymnasium.registry else None


class _Maker:
    """Makes one environment. It is a class, and no closure, so that it can be sent to a process."""

    def __init__(
        self,
        env_id: str,
        max_episode_steps: int | None,
        arguments: dict[str, float],
        render_mode: str | None = None,
    ):
        self._env_id, self._arguments, self._render_mode = env_id, arguments, render_mode
        self._max_episode_steps = max_episode_steps

    def __call__(self) -> gymnasium.Env:
        options: dict[str, Any] = dict(self._arguments)
        if self._render_mode is not None:
            options["render_mode"] = self._render_mode
        if function := _function(self._env_id):
            env = function(**options)
            if self._max_episode_steps is not None:
                env = TimeLimit(env, self._max_episode_steps)
            return env
        options["disable_env_checker"] = True  # rlsys.envs.check checks more
        if self._max_episode_steps is not None:
            options["max_episode_steps"] = self._max_episode_steps
        return gymnasium.make(self._env_id.removeprefix("gymnasium/"), **options)

    def drawing(self) -> "_Maker":
        """Returns a maker of the same environment with pictures, if it has any."""
        env = self()
        modes = env.metadata.get("render_modes") or ()
        env.close()
        function = _function(self._env_id)
        takes = not function or {"render_mode", "**"} & set(argument_names(function))
        mode = "rgb_array" if "rgb_array" in modes and takes else None
        return _Maker(self._env_id, self._max_episode_steps, self._arguments, mode)
