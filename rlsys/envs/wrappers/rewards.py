"""The learner's rewards, clipped or scaled; episodes keep their raw returns."""

import numpy as np

from rlsys.envs.interface import Envs
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
