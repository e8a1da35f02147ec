"""A part of a flat observation."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.spaces import Observations
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class Observe(Wrapper):
    """Keeps some entries of a flat observation, in the order given."""

    def __init__(self, envs: Envs, entries: tuple[int, ...]):
        """Raises:
        UserError: the observation is no flat vector, or has no such entry.
        """
        super().__init__(envs)
        self.observation_space, self._pick = picked(self.name, envs.observation_space, entries)

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(obs=self._pick(timestep.obs))


def picked(name: str, space: spaces.Space, entries: tuple[int, ...]) -> Observations:
    """The space of some entries of a vector, and what picks them: [B, D] -> [B, len(entries)].

    Raises:
      UserError: the observation of the task of this name is no vector, or has no such entry.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise UserError(f"observe needs one flat vector, and {name!r} shows something else")
    if max(entries) >= space.shape[0]:
        raise UserError(f"observe {entries}: {name!r} has {space.shape[0]} entries, counted from 0")
    index = np.array(entries)
    box = spaces.Box(space.low[index], space.high[index], dtype=space.dtype.type)  # type: ignore[arg-type]
    return Observations(box, lambda x: x[:, index])
