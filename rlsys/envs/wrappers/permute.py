"""Observations in another order: the same task for a network that knows no order."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.spaces import Observations
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class Permute(Wrapper):
    """Shows an array's entries in another order, drawn from a seed over its whole shape."""

    def __init__(self, envs: Envs, seed: int):
        """Raises:
        UserError: the observation is not one array.
        """
        super().__init__(envs)
        self.observation_space, self._permute = permuted(self.name, envs.observation_space, seed)

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(obs=self._permute(timestep.obs))


def permuted(name: str, space: spaces.Space, seed: int) -> Observations:
    """The space of an array in another order, and what brings [B, ...] into that order.

    Raises:
      UserError: the observation of the task of this name is not one array.
    """
    if not isinstance(space, spaces.Box | spaces.MultiBinary):
        raise UserError(f"permute needs one array, and {name!r} shows something else")
    shape, rng = space.shape, np.random.default_rng(seed)
    order = as_is = np.arange(int(np.prod(shape)))
    while len(order) > 1 and (order == as_is).all():  # few entries: it may draw their own
        order = rng.permutation(len(order))
    if isinstance(space, spaces.Box):
        low, high = (x.ravel()[order].reshape(shape) for x in (space.low, space.high))
        space = spaces.Box(low, high, dtype=space.dtype.type)  # type: ignore[arg-type]
    return Observations(
        space, lambda x: np.take(x.reshape(len(x), -1), order, axis=1).reshape(x.shape)
    )
