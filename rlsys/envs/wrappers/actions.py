"""Continuous actions as a choice among a few values."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.spaces import check_action
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class ActionBins(Wrapper):
    """Makes continuous actions [D] a choice, MultiDiscrete([bins] * D): each dimension takes one of
    a few values, evenly spaced from its lowest to its highest."""

    def __init__(self, envs: Envs, bins: int):
        """Raises:
        UserError: the actions have no bounds.
        """
        super().__init__(envs)
        box = envs.action_space
        assert isinstance(box, spaces.Box)
        low, high = box.low, box.high
        if not (np.abs(low) < 1e6).all() or not (np.abs(high) < 1e6).all():
            raise UserError(
                f"actions of {self.name!r} range over {low.min():g} to {high.max():g}: no bins"
            )
        self.action_space = spaces.MultiDiscrete([bins] * low.size)
        self._values = np.linspace(low, high, bins, axis=-1).astype(low.dtype)  # [D, bins]
        self._dimension = np.arange(low.size)

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        return self.envs.step(self.values(action))

    def values(self, action: np.ndarray) -> np.ndarray:
        """Returns the numbers [B, D] that stand for a choice [B, D] of ints."""
        return self._values[self._dimension, action]
