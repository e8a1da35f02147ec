"""What the value function alone is shown: observations without noise, and the numbers drawn."""

from typing import Any

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.randomise.places import ALONE, PRIVILEGED, named
from rlsys.envs.spaces import MASK
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError

PREFIX = f"{PRIVILEGED}/"  # of the names of what the value function alone is shown
DRAWN = f"{PREFIX}drawn"


class Exact(Wrapper):
    """Keeps the latest observation as it is, for a ShowValue around the wrappers that change it.

    Attributes:
      exact: [B, ...] the observation.
    """

    def __init__(self, envs: Envs):
        super().__init__(envs)
        self.exact: Any = None

    def change(self, timestep: Timestep) -> Timestep:
        self.exact = timestep.obs
        return timestep


class ShowValue(Wrapper):
    """Shows what is hidden from the policy beside what it sees.

    An observation that is one array becomes "obs" of a dict. The array x without noise is called
    "privileged/x", and the numbers that were drawn are "privileged/drawn", which is missing where
    nothing is drawn. They are:

    - `episode_draws` of each wrapper that has this attribute, from outside in: [B, n] floats of
      order 1, the numbers that each environment's running episode has.
    - `drawn` of the environments within, if they have this attribute and it is not (): [B, n]
      floats of order 1, their physics.

    Both keep their n, and are there from the start.
    """

    def __init__(self, envs: Envs, exact: Exact):
        """Wraps environments. exact: among the wrappers that envs are made of.

        Raises:
          UserError: the observation has such names.
        """
        super().__init__(envs)
        self._exact = exact
        *self._wrappers, self._innermost = chain(envs)
        shown = envs.observation_space
        self._alone = not isinstance(shown, spaces.Dict)
        parts: dict[str, Any] = {ALONE: shown} if self._alone else dict(shown.items())  # type: ignore[attr-defined]
        if taken := [key for key in parts if key.startswith(PREFIX)]:
            raise UserError(f"show_value needs names such as {taken[0]!r}, which {self.name!r} has")
        parts |= {PREFIX + key: x for key, x in named(exact.observation_space).items()}
        if size := sum(x.shape[1] for x in self._draws()):
            parts[DRAWN] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._draw = size > 0
        self.observation_space = spaces.Dict(parts)

    def change(self, timestep: Timestep) -> Timestep:
        exact, shown = self._exact.exact, timestep.obs
        obs = {ALONE: shown} if self._alone else dict(shown)
        hidden = exact if isinstance(exact, dict) else {ALONE: exact}
        obs |= {PREFIX + key: x for key, x in hidden.items() if key != MASK}
        if self._draw:
            obs[DRAWN] = np.concatenate(self._draws(), axis=1, dtype=np.float32)
        return timestep._replace(obs=obs)

    def _draws(self) -> list[np.ndarray]:
        """The numbers of each part that draws some, [B, n] each."""
        drawn = [x.episode_draws for x in self._wrappers if hasattr(x, "episode_draws")]
        physics = getattr(self._innermost, "drawn", ())
        return drawn if isinstance(physics, tuple) else [*drawn, physics]


def chain(envs: Any) -> list[Any]:
    """A wrapper, what it holds, what that holds and so on, from outside in."""
    found = [envs]
    while hasattr(found[-1], "envs"):
        found.append(found[-1].envs)
    return found
