"""The learner's rewards, clipped, scaled or added to; episodes keep their raw returns."""

import numpy as np

from rlsys.envs.interface import Envs
from rlsys.envs.teams import TeamEnvs
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep


class ClipRewards(Wrapper):
    """Clips the learner's rewards to [-1, 1]."""

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(reward=np.clip(timestep.reward, -1, 1))


class ScaleRewards(Wrapper):
    """Multiplies the learner's rewards."""

    def __init__(self, envs: Envs, scale: float):
        super().__init__(envs)
        self._scale = np.float32(scale)

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(reward=timestep.reward * self._scale)


class AddEvents(Wrapper):
    """Adds what each player of a team game is rewarded for its own events."""

    envs: TeamEnvs

    def __init__(self, envs: TeamEnvs, scale: float):
        super().__init__(envs)
        self._scale = np.float32(scale)

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(reward=timestep.reward + self._scale * self.envs.events)
