"""Observations in another order: the same task for a network that knows no order."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class Permute(Wrapper):
    """Shows an array's entries in another order, drawn from a seed over its whole shape."""

    def __init__(self, envs: Envs, seed: int):
        """Raises:
        UserError: the observation is not one array.
        """
        super().__init__(envs)
        space = envs.observation_space
        if not isinstance(space, spaces.Box | spaces.MultiBinary):
            raise UserError(f"permute needs one array, and {self.name!r} shows something else")
        shape, rng = space.shape, np.random.default_rng(seed)
        order = as_is = np.arange(int(np.prod(shape)))
        while len(order) > 1 and (order == as_is).all():  # few entries: it may draw their own
            order = rng.permutation(len(order))
        if isinstance(space, spaces.Box):
            low, high = (x.ravel()[order].reshape(shape) for x in (space.low, space.high))
            self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)  # type: ignore[arg-type]
        self._order = order

    def change(self, timestep: Timestep) -> Timestep:
        x = timestep.obs
        permuted = np.take(x.reshape(len(x), -1), self._order, axis=1).reshape(x.shape)
        return timestep._replace(obs=permuted)
