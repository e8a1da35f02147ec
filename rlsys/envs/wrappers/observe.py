"""A part of a flat observation."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class Observe(Wrapper):
    """Keeps some entries of a flat observation, in the order given."""

    def __init__(self, envs: Envs, entries: tuple[int, ...]):
        """Raises:
        UserError: the observation is no flat vector, or has no such entry.
        """
        super().__init__(envs)
        box = envs.observation_space
        if not isinstance(box, spaces.Box) or len(box.shape) != 1:
            raise UserError(
                f"observe needs one flat vector, and {self.name!r} shows something else"
            )
        if max(entries) >= box.shape[0]:
            raise UserError(
                f"observe {entries}: {self.name!r} has {box.shape[0]} entries, counted from 0"
            )
        self._index = np.array(entries)
        low, high = box.low[self._index], box.high[self._index]
        self.observation_space = spaces.Box(low, high, dtype=box.dtype.type)  # type: ignore[arg-type]

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(obs=timestep.obs[:, self._index])
