"""Has a player that does not learn play one side of each game, so that one agent has the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlsys.envs.interface import Envs, Episode
from rlsys.envs.players import draw, make_player
from rlsys.envs.spaces import MASK, check_action
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep


class Versus(Wrapper):
    """Shows the agent B of the 2 B rows of games, while an opponent plays the other B.

    In every other game the agent is player 0 and in the rest player 1, or all players of the first
    team and of the second. While the opponent of a game of two players moves, the agent's row steps
    too: its only legal action is 0 then, which is not played.
    """

    def __init__(self, envs: Envs, opponent: str, game: str, seed: int | Sequence[int]):
        """Wraps games.

        Args:
          envs: the games, two rows each, or two teams of rows.
          opponent: the player's name; see players.make_player.
          game: the id of the task.
          seed: seeds the opponent's random numbers; each of several seeds is for an equal share of
            the games.

        Raises:
          UserError: there is no such opponent of this game.
        """
        super().__init__(envs)
        self.num_envs = envs.num_envs // 2
        games = np.arange(self.num_envs // envs.team_size)
        game_rows = np.arange(envs.num_envs).reshape(-1, 2, envs.team_size)
        self._mine = game_rows[games, games % 2].ravel()  # [B] rows of envs
        self._theirs = game_rows[games, 1 - games % 2].ravel()
        self._player = make_player(opponent, game)
        self._begin(seed)

    def _begin(self, seed: int | Sequence[int]) -> None:
        seeds = [seed] if isinstance(seed, int) else seed
        self._seen: dict[str, np.ndarray] = {}  # the opponent's observation; empty before a reset
        self._rngs = [np.random.default_rng(np.random.SeedSequence(s).spawn(2)[1]) for s in seeds]

    @property
    def to_move(self) -> Any:
        if self.team_size > 1:
            return self.envs.to_move[self._mine]  # the dead do not move
        return ()  # for one agent a step in which the opponent moves is a step like others

    def change(self, timestep: Timestep) -> Timestep:
        self._seen = {key: x[self._theirs] for key, x in timestep.obs.items()}
        obs = {key: x[self._mine] for key, x in timestep.obs.items()}
        return timestep._replace(
            obs=obs,
            first=timestep.first[self._mine],
            reward=timestep.reward[self._mine],
            discount=timestep.discount[self._mine],
            truncated=timestep.truncated[self._mine],
        )

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        both = np.zeros(self.envs.num_envs, action.dtype)
        both[self._mine] = action
        if self._seen:
            weights = self._player(self._seen.get("obs", self._seen[MASK]), self._seen[MASK])
            parts = np.array_split(weights, len(self._rngs))
            moves = [draw(part, rng) for part, rng in zip(parts, self._rngs, strict=True)]
            both[self._theirs] = np.concatenate(moves)
        return self.change(self.envs.step(both))

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._begin(seed)
        both = timestep._replace(
            first=timestep.first.repeat(2),
            discount=timestep.discount.repeat(2),
            truncated=timestep.truncated.repeat(2),
        )
        return timestep._replace(truncated=self.envs.restart(seed, both).truncated[::2])

    def pop_episodes(self) -> list[Episode]:
        return self._of_agent(self.envs.pop_episodes())

    def running_episodes(self) -> list[Episode]:
        return self._of_agent(self.envs.running_episodes())

    def _of_agent(self, episodes: list[Episode]) -> list[Episode]:
        """Returns the agent's own among episodes of both players."""
        own = {int(row): game for game, row in enumerate(self._mine)}
        return [x._replace(env=own[x.env]) for x in episodes if x.env in own]
