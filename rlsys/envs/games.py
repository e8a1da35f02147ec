"""EnvPool's games of two players who move in turn, by themselves or against each other.

A game is two rows of a batch, player 0's and player 1's, one after the other. Each row sees the
game from its own side at every step, acts at every step, and is rewarded for what became of it. A
row that waits has one legal action, 0, which is not played: `to_move` says which rows choose. Dice
and cards are nobody's move.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlsys.envs.backend import Played
from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.envs.options import Task
from rlsys.envs.spaces import MASK
from rlsys.types import UserError

PLAYERS = 2


class GameEnvs(EnvPoolEnvs):
    """Plays B / 2 games of an EnvPool task of two players who move in turn.

    Attributes:
      to_move: [B] bool, who chooses the next action: one row of each game that goes on, no row of a
        game that has just ended.
    """

    to_move: np.ndarray

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        num_threads: int = 0,
        render: bool = False,
    ):
        num_seeds = 1 if np.ndim(seed) == 0 else len(seed)  # type: ignore[arg-type]
        if num_envs % (PLAYERS * num_seeds):
            each = f" of each of {num_seeds}" if num_seeds > 1 else ""
            raise UserError(
                f"{task.name!r} has two players, each with a row of its own, so num_envs{each} "
                f"must be even, not {num_envs // num_seeds}"
            )
        super().__init__(task, num_envs, seed, num_threads=num_threads, render=render)

    def _make(self, seeds: list[int]) -> None:
        self.num_games = self.num_envs // PLAYERS
        self._pool = None
        self._pool = self._new_pool(seeds[::PLAYERS])
        self._games = np.arange(self.num_games, dtype=np.int32)
        self.to_move = np.zeros(self.num_envs, bool)  # the next step is a reset

    def _reset(self) -> Any:
        obs, info = self._pool.reset()
        order, rows = self._order(info)
        return self._seen(obs, info, order, rows, np.zeros(self.num_games, bool))

    def _step(self, action: np.ndarray) -> Played:
        # Given two rows EnvPool plays the first one's action, whoever moves; Go takes one row only.
        move = np.asarray(self._actions.convert(action[self._mover]))
        name = self._pool.spec._action_keys[-1]
        games = self._games
        obs, reward, terminated, truncated, info = self._pool.step(
            {name: move, "env_id": games, "players": {"env_id": games}}
        )
        order, rows = self._order(info)
        terminated, truncated = terminated[order], truncated[order]
        obs = self._seen(obs, info, order, rows, terminated | truncated)
        first = (info["elapsed_step"][order] == 0).repeat(PLAYERS)
        reward = np.where(first, np.float32(0), reward[rows].astype(np.float32))
        return Played(obs, first, reward, terminated.repeat(PLAYERS), truncated.repeat(PLAYERS))

    def _order(self, info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns where each game, and each row by game and player, is in EnvPool's arrays, which
        come in the order in which games were stepped."""
        players = info["players"]
        return np.argsort(info["env_id"]), np.lexsort((players["id"], players["env_id"]))

    def _seen(
        self, obs: Any, info: dict[str, Any], order: np.ndarray, rows: np.ndarray, ended: np.ndarray
    ) -> Any:
        """Returns the observations [B, ...], each with the legal actions of its row, and sets who
        moves.

        Args:
          order, rows: as _order gives them.
          ended: [B / 2], the games that have just come to their end.
        """
        player = np.asarray(info["current_player"])[order]
        self._mover = PLAYERS * self._games + player
        self.to_move = np.zeros(self.num_envs, bool)
        self.to_move[self._mover] = ~ended
        obs = self._observations.from_pool(obs, info)
        legal = obs[MASK][order].repeat(PLAYERS, axis=0)
        legal[~self.to_move] = np.arange(legal.shape[-1]) == 0
        return {k: legal if k == MASK else x[rows] for k, x in obs.items()}
