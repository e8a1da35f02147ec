"""Changes the learner's rewards; the returns of episodes stay sums of raw rewards."""

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
        """Wraps environments. scale: the factor."""
        super().__init__(envs)
        self._scale = np.float32(scale)

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(reward=timestep.reward * self._scale)


class AddEvents(Wrapper):
    """Adds to each player's reward in a team game what it earned by its own events."""

    envs: TeamEnvs

    def __init__(self, envs: TeamEnvs, scale: float):
        """Wraps environments. scale: multiplies what the events earned."""
        super().__init__(envs)
        self._scale = np.float32(scale)

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(reward=timestep.reward + self._scale * self.envs.events)
