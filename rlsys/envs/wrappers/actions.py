"""Continuous actions as a choice among a few values."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.spaces import Actions, check_action, has_range
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
        assert isinstance(envs.action_space, spaces.Box)
        self.action_space, self.values = binned(self.name, envs.action_space, bins)

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        return self.envs.step(self.values(action))


def binned(name: str, box: spaces.Box, bins: int) -> Actions:
    """Makes a choice among bins values for each dimension of a Box [D], and what converts a choice
    [B, D] into its numbers [B, D].

    Raises:
      UserError: the actions of the task of this name have no bounds.
    """
    low, high = box.low, box.high
    if not has_range(box):
        raise UserError(f"actions of {name!r} range over {low.min():g} to {high.max():g}: no bins")
    values = np.linspace(low, high, bins, axis=-1).astype(low.dtype)  # [D, bins]
    dimension = np.arange(low.size)
    return Actions(spaces.MultiDiscrete([bins] * low.size), lambda a: values[dimension, a])
