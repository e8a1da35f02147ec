"""Lost lives of Atari's games as ends of episodes."""

from collections.abc import Sequence

import numpy as np

from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.envs.interface import Episode
from rlsys.envs.spaces import check_action
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep


class LifeLossEnds(Wrapper):
    """A lost life ends the learner's episode (discount 0). The step after it plays a no-op in place
    of the agent's action, is `first` and has reward 0: what the no-op earns counts in the game's
    return alone. Reported episodes are whole games; their lengths do not count the no-ops."""

    envs: EnvPoolEnvs

    def __init__(self, envs: EnvPoolEnvs):
        super().__init__(envs)
        self._episodes: list[Episode] = []
        self._begin()

    def _begin(self) -> None:
        self._life_lost = np.zeros(self.num_envs, bool)  # on the last step
        self._lives: np.ndarray | None = np.zeros(self.num_envs, int)
        self._no_ops = np.zeros(self.num_envs, int)  # of each running game

    def reset(self) -> Timestep:
        timestep = self.envs.reset()
        self._begin()
        self._lives = self.envs.lives
        return timestep

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._begin()
        return self.envs.restart(seed, timestep)

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        begins = self._life_lost  # this step is the no-op
        timestep = self.envs.step(np.where(begins, 0, action))
        lives, ended = self.envs.lives, (timestep.discount == 0) | timestep.truncated
        # At 0 lives some games play on a little, and then end by themselves.
        self._life_lost = (
            (lives < self._lives) & (lives > 0) & ~ended & ~timestep.first & ~begins  # type: ignore[operator]
        )
        self._lives = lives
        self._no_ops += begins & ~timestep.first
        if ended.any():
            self._finish(ended)
        return timestep._replace(
            first=timestep.first | begins,
            reward=np.where(begins, np.float32(0), timestep.reward),
            discount=np.where(begins, np.float32(1), timestep.discount * ~self._life_lost),
            truncated=timestep.truncated & ~begins,
        )

    def _finish(self, ended: np.ndarray) -> None:
        self._episodes += [self._without_no_ops(e) for e in self.envs.pop_episodes()]
        self._no_ops[ended] = 0

    def _without_no_ops(self, episode: Episode) -> Episode:
        return episode._replace(length=episode.length - int(self._no_ops[episode.env]))

    def pop_episodes(self) -> list[Episode]:
        episodes, self._episodes = self._episodes, []
        return episodes

    def running_episodes(self) -> list[Episode]:
        return [self._without_no_ops(e) for e in self.envs.running_episodes()]
