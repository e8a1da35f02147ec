"""Plays games of two equal teams in JAX, whose players all act at each step.

Each player of a game is a row of the batch, with its own observation, action and reward. Rows are
ordered by game, team and player. A player that cannot act, because it is dead for instance, has
exactly one legal action, and `to_move` is False for its row.

    smax/5m                   a game of JaxMARL's SMAX; see smax.py
    teams/<module>:<class>    a game of your own, written as a class that takes no arguments

Such a class has the attribute `team_size`, the number N of a team's players, and

    observation_space   of one player: a Dict with "action_mask" [A], True where an action is legal
    action_space        of one player, Discrete(A)
    reset(key) -> obs, state
    step(key, state, action) -> obs, state, reward, done, info

obs are arrays [2 N, ...], action and reward are [2 N]; the first team's players come first. The
reward is the game's result alone: 0 until the last step, and there 1 for the players who have won,
-1 for those who have lost, 0 for a draw. info["events"] [2 N], which may be missing, rewards a
player for what it did itself; it is added to the learner's rewards (the option event_rewards).
info["truncated"] marks a time limit, as for any environment in JAX.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.envs import jax_interfaces, smax
from rlsys.envs.backend import Played, cannot_make
from rlsys.envs.interface import Episode
from rlsys.envs.jax_envs import JaxEnvs, Program, find_module, program_of
from rlsys.envs.options import NO_LIMIT, Task
from rlsys.envs.spaces import MASK
from rlsys.types import UserError

TEAMS = 2
WITHIN = ("heuristic",)  # opponents that the environment itself plays, so that one team has rows


class Layout(NamedTuple):
    """Says how the rows of a game are ordered."""

    teams: int  # the number of teams that have rows: 2, or 1 against an opponent
    players: int  # the number of players of each team

    @property
    def rows(self) -> int:
        """The number of rows of a game."""
        return self.teams * self.players


def is_team_game(env_id: str) -> bool:
    """Returns whether a task is a game of two teams; env_id: its id, or its name."""
    word, slash, _ = env_id.partition("/")
    return bool(slash) and word in ("smax", "teams")


@functools.cache
def team_size(env_id: str) -> int:
    """Returns the number of players of a team; 1 for a task that is no game of two teams.

    The module of `teams/<module>:<class>` is imported. When it is imported, it must not ask JAX for
    its devices.

    Raises:
      UserError: there is no such game.
    """
    if not is_team_game(env_id):
        return 1
    if env_id.startswith("smax/"):
        return smax.team_size(env_id)
    size = getattr(_class(env_id), "team_size", None)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{env_id!r} needs team_size, the number of a team's players, not {size}")
    return size


def _class(env_id: str) -> Callable[[], Any]:
    """Imports the class that an id names.

    Raises:
      UserError: there is none.
    """
    module, _, name = env_id.removeprefix("teams/").partition(":")
    find_module(env_id, module, name, "a team game is named teams/<module>:<class>")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module raises
        raise cannot_make("JAX", env_id, error) from error


@functools.cache
def load(env_id: str, opponent: str, max_episode_steps: int) -> Program:
    """Makes a game, once in a process, so that it is compiled once for all actors.

    Args:
      opponent: one of WITHIN, which plays the second team; if empty, both teams have rows.
      max_episode_steps: the time limit.

    Raises:
      UserError: it cannot be made, or its functions do not fit together.
    """
    if env_id.startswith("smax/"):
        smax.check(env_id)
        return program_of(env_id, lambda: smax.read(env_id, opponent), max_episode_steps)
    return program_of(env_id, lambda: _read(_class(env_id)()), max_episode_steps)


def _read(game: Any) -> jax_interfaces.PureEnv:
    """Returns a game of your own as pure functions; its rewards [2 N, 2] are results and events."""

    def step(key, state, action):
        obs, state, reward, done, info = game.step(key, state, action)
        events = info.get("events", jnp.zeros_like(reward))
        rewards = jnp.stack([reward, events], axis=-1)
        return obs, state, rewards, *jax_interfaces.ends(done, info)

    return jax_interfaces.PureEnv(
        game.observation_space,
        game.action_space,
        game.reset,
        step,
        lambda state: game.render(state),
        players=TEAMS * game.team_size,
    )


class TeamEnvs(JaxEnvs):
    """Plays games of two teams, with a row for each player.

    Attributes:
      to_move: [B] bool, whether a player chooses its next action: it has more than one legal
        action, and its game has not just ended.
      events: [B] float32, what each player earned in the last step by its own events; 0 on a game's
        last step, whose reward is the result alone.
    """

    to_move: np.ndarray
    events: np.ndarray

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        num_threads: int = 0,
        render: bool = False,
    ):
        self.team_size = team_size(task.env_id)
        self._players = self.team_size * (1 if task.options.opponent in WITHIN else TEAMS)
        num_seeds = 1 if np.ndim(seed) == 0 else len(seed)  # type: ignore[arg-type]
        if num_envs % (self._players * num_seeds):
            raise UserError(
                f"a game of {task.name!r} has {self._players} rows, so num_envs must be a multiple "
                f"of {self._players}, not {num_envs // num_seeds}"
            )
        super().__init__(task, num_envs, seed, num_threads=num_threads, render=render)
        space = self.observation_space
        if not (isinstance(space, spaces.Dict) and MASK in space.spaces):
            raise UserError(f"{task.name!r} must show each player its legal actions as {MASK!r}")

    @staticmethod
    def check(env_id: str) -> None:
        """Checks that a game is there. Whether JaxMARL is installed is asked only when a game is
        made, because a preset may name a game that nobody plays.

        Raises:
          UserError: there is no such game.
        """
        team_size(env_id)

    @staticmethod
    def family(env_id: str) -> str:
        return env_id.partition("/")[0]

    def _load(self, task: Task) -> Program:
        limit = task.options.max_episode_steps or NO_LIMIT
        opponent = task.options.opponent if task.options.opponent in WITHIN else ""
        return load(task.env_id, opponent, limit)

    def _make(self, seeds: list[int]) -> None:
        super()._make(seeds[:: self._players])
        self.to_move = np.zeros(self.num_envs, bool)  # the next step is a reset

    def _reset(self) -> Any:
        obs = super()._reset()
        self._see(obs, np.zeros(self.num_envs, bool))
        self.events = np.zeros(self.num_envs, np.float32)
        return obs

    def _step(self, action: np.ndarray) -> Played:
        played = super()._step(action)
        first, terminated, truncated = (
            x.repeat(self._players) for x in (played.first, played.terminated, played.truncated)
        )
        ended = terminated | truncated
        self._see(played.obs, ended)
        result, events = np.moveaxis(played.reward.reshape(self.num_envs, 2), 1, 0)
        self.events = np.where(ended, np.float32(0), events)
        return Played(played.obs, first, result, terminated, truncated)

    def _see(self, obs: Any, ended: np.ndarray) -> None:
        """Sets to_move; ended: [B] bool, the game ended at this step."""
        self.to_move = (obs[MASK].sum(-1) > 1) & ~ended

    def pop_episodes(self) -> list[Episode]:
        return [x for x in super().pop_episodes() if x.env % self.team_size == 0]

    def running_episodes(self) -> list[Episode]:
        return super().running_episodes()[:: self.team_size]
