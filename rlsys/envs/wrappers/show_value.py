"""What the value function alone is shown: observations without noise, and the numbers drawn."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.randomise.places import ALONE, PRIVILEGED, named
from rlsys.envs.spaces import MASK
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError

PREFIX = f"{PRIVILEGED}/"  # of the names of what the value function alone is shown
DRAWN = f"{PREFIX}drawn"


@runtime_checkable
class Drawn(Protocol):
    """Environments, or a wrapper, that draw numbers and tell them.

    Attributes:
      drawn: [B, n] floats of order 1, the numbers that each environment's running episode has. n
        stays the same, and the array is there from the start.
    """

    drawn: np.ndarray


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
    "privileged/x", and the numbers that all wrappers and the environments have drawn are
    "privileged/drawn", which is missing where nothing is drawn.
    """

    def __init__(self, envs: Envs, exact: Exact):
        """Wraps environments. exact: among the wrappers that envs are made of.

        Raises:
          UserError: the observation has such names.
        """
        super().__init__(envs)
        self._exact = exact
        self._drawing = [x for x in chain(envs) if isinstance(x, Drawn)]
        shown = envs.observation_space
        self._alone = not isinstance(shown, spaces.Dict)
        parts: dict[str, Any] = {ALONE: shown} if self._alone else dict(shown.items())  # type: ignore[attr-defined]
        if taken := [key for key in parts if key.startswith(PREFIX)]:
            raise UserError(f"show_value needs names such as {taken[0]!r}, which {self.name!r} has")
        parts |= {PREFIX + key: x for key, x in named(exact.observation_space).items()}
        if size := sum(x.drawn.shape[1] for x in self._drawing):
            parts[DRAWN] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = spaces.Dict(parts)

    def change(self, timestep: Timestep) -> Timestep:
        exact, shown = self._exact.exact, timestep.obs
        obs = {ALONE: shown} if self._alone else dict(shown)
        hidden = exact if isinstance(exact, dict) else {ALONE: exact}
        obs |= {PREFIX + key: x for key, x in hidden.items() if key != MASK}
        if DRAWN in self.observation_space.spaces:  # type: ignore[attr-defined]
            drawn = [x.drawn for x in self._drawing]
            obs[DRAWN] = np.concatenate(drawn, axis=1, dtype=np.float32)
        return timestep._replace(obs=obs)


def chain(envs: Any) -> list[Any]:
    """A wrapper, what it holds, what that holds and so on, from outside in."""
    found = [envs]
    while hasattr(found[-1], "envs"):
        found.append(found[-1].envs)
    return found
