"""EnvPool's tasks."""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlsys.envs import envpool_rates, envpool_settings
from rlsys.envs.backend import Backend, Played, successes
from rlsys.envs.envpool_spaces import make_actions, make_observations
from rlsys.envs.options import Task
from rlsys.types import UserError


class EnvPoolEnvs(Backend):
    """Plays B environments of an EnvPool task.

    EnvPool itself spends one step on a reset: that step's action is ignored, and the step before it
    shows the episode's true last observation. An episode that comes to its own end on the very step
    of its time limit counts as truncated.

    Attributes:
      lives: [B] int, how many the agent has left; None but in Atari.
    """

    lives: np.ndarray | None = None

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        num_threads: int = 0,
        render: bool = False,
        variant: str | None = None,
    ):
        """Makes the environments; make.make explains the arguments.

        Args:
          variant: the folder below which EnvPool reads its files, while it makes the environments.
        """
        self.check(task.env_id)
        if num_threads < 0:
            raise UserError(f"num_threads must be 0 or more, not {num_threads}")
        self._num_threads, self._variant = num_threads, variant
        super().__init__(task, num_envs, seed, render=render)
        spec = self._pool.spec
        is_atari = self.family(task.env_id) == "atari"
        every = is_atari and not task.options.minimal_actions
        self._actions = make_actions(spec, all_atari=every)
        self.action_space = self._actions.space
        self._observations = make_observations(spec, self.action_space)
        self.observation_space = self._observations.space
        self.raw_action_space = self.action_space
        self.raw_observation_space = self.observation_space

    check = staticmethod(envpool_settings.check)
    family = staticmethod(envpool_settings.family_of)

    def _make(self, seeds: list[int]) -> None:
        self._pool: Any = None  # the old one goes before the new one comes
        self._pool = self._new_pool(seeds)
        spec = self._pool.spec
        self._one_player = spec.config.max_num_players == 1
        self._action_type = spec.action_array_spec[spec._action_keys[-1]].dtype

    def _new_pool(self, seeds: list[int]) -> Any:
        """Makes an EnvPool with an environment for each seed."""
        return envpool_settings.make_pool(
            self._task.env_id,
            len(seeds),
            seeds,
            self._task.options,
            self._num_threads,
            self._can_render,
            self._variant,
        )

    def _reset(self) -> Any:
        obs, info = self._pool.reset()
        self.lives = info.get("lives")
        return self._observations.from_pool(obs, info)

    def send(self, action: np.ndarray) -> None:
        self.send_together([self], [slice(None)], action)

    @classmethod
    def send_together(
        cls, several: Sequence[Any], rows: Sequence[slice], action: np.ndarray
    ) -> None:
        first = several[0]
        action = first._actions.convert(action).astype(first._action_type, order="C")
        for one, own in zip(several, rows, strict=True):
            if first._one_player:
                # EnvPool's send() looks up at each step whose actions these are, in 20 us.
                ids = one._pool.all_env_ids
                one._pool._send([ids, ids, action[own]])
            else:
                one._pool.send(action[own])

    def _step(self, action: np.ndarray) -> Played:
        self.send(action)
        return self.receive()

    def receive(self) -> Played:
        return self._played(*self._pool.recv(reset=False, return_info=True))

    @classmethod
    def receive_together(cls, several: Sequence[Any]) -> Played:
        # The two halves of recv(): what costs the most, to name the arrays, is done once for all.
        arrays = [one._pool._recv() for one in several]
        joined = [np.concatenate(parts) for parts in zip(*arrays, strict=True)]
        return several[0]._played(*several[0]._pool._to(joined, reset=False, return_info=True))

    def _played(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Played:
        self.lives = info.get("lives")
        first = info["elapsed_step"] == 0
        reward = np.where(first, np.float32(0), reward)  # DM Control's resets have a reward
        obs = self._observations.from_pool(obs, info)
        return Played(obs, first, reward, terminated, truncated, successes(info))

    def _draw(self) -> np.ndarray | None:
        env_id = self._task.env_id
        if self.family(env_id) != "mujoco" or _renders(env_id):
            try:
                return np.asarray(self._pool.render(0)[0])
            except Exception:  # no renderer: RuntimeError; its pictures missing: FileNotFoundError
                pass
        return None

    @property
    def steps_per_second(self) -> float | None:
        env_id = self._task.env_id
        own = envpool_settings.base_path(env_id)
        return envpool_rates.steps_per_second(env_id, self.family(env_id), self._pool.spec, own)

    def close(self) -> None:
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
