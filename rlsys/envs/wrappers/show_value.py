"""Shows the value function alone the exact observation and the numbers that were drawn."""

from typing import Any

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.randomise.places import ALONE, PRIVILEGED, named
from rlsys.envs.spaces import MASK
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError

PREFIX = f"{PRIVILEGED}/"  # names of arrays for the value function alone begin with it
DRAWN = f"{PREFIX}drawn"


class Exact(Wrapper):
    """Keeps the latest observation before other wrappers change it, for the ShowValue around them.

    Attributes:
      exact: [B, ...] the observation; None before the first.
    """

    def __init__(self, envs: Envs):
        super().__init__(envs)
        self.exact: Any = None

    def change(self, timestep: Timestep) -> Timestep:
        self.exact = timestep.obs
        return timestep


class ShowValue(Wrapper):
    """Adds arrays for the value function alone to the observation that the policy sees.

    An observation that is one array becomes "obs" of a dict. The array x without noise is added as
    "privileged/x". The numbers that were drawn are added as "privileged/drawn", unless nothing is
    drawn. These are, side by side:

    - `episode_draws` of each wrapper that has this attribute, from the outermost inwards: [B, n]
      floats of order 1, drawn for each environment's running episode.
    - `drawn` of the back-end, unless it is (): [B, n] floats of order 1, the draw of the physics.

    Each n must be known when this wrapper is made, and stay the same.
    """

    def __init__(self, envs: Envs, exact: Exact):
        """Wraps environments. exact: the Exact among the wrappers of envs.

        Raises:
          UserError: the observation has arrays of such names already.
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
        """Returns the drawn numbers [B, n] of each wrapper that has some, and of the back-end."""
        drawn = [x.episode_draws for x in self._wrappers if hasattr(x, "episode_draws")]
        physics = getattr(self._innermost, "drawn", ())
        return drawn if isinstance(physics, tuple) else [*drawn, physics]


def chain(envs: Any) -> list[Any]:
    """Returns a wrapper, the wrappers within it from the outermost inwards, and the back-end."""
    found = [envs]
    while hasattr(found[-1], "envs"):
        found.append(found[-1].envs)
    return found
