"""Observations that are blanked to zeros, all but the mask of legal actions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.spaces import MASK
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


def blank(obs: Any, where: np.ndarray) -> Any:
    """Returns obs [B, ...] with zeros where `where` [B] is True; masks of legal actions stay."""
    if isinstance(obs, dict):
        return {key: x if key == MASK else blank(x, where) for key, x in obs.items()}
    return np.where(where.reshape(-1, *[1] * (obs.ndim - 1)), obs.dtype.type(0), obs)


class Blanks(Wrapper):
    """Refuses what cannot be blanked; the base of the two ways to blank."""

    def __init__(self, envs: Envs):
        """Raises:
        UserError: the observation is one category, whose zero means something.
        """
        super().__init__(envs)
        space = envs.observation_space
        if isinstance(space, spaces.Discrete):
            raise UserError(
                f"flicker and only_first need an array to blank, not {self.name!r}'s {space}"
            )


class OnlyFirst(Blanks):
    """Blanks every observation but an episode's first."""

    def change(self, timestep: Timestep) -> Timestep:
        return timestep._replace(obs=blank(timestep.obs, ~timestep.first))


class Flicker(Blanks):
    """Blanks each observation with one probability (Hausknecht and Stone 2015,
    https://arxiv.org/abs/1507.06527, section 5: 0.5)."""

    def __init__(self, envs: Envs, probability: float, seed: int | Sequence[int]):
        super().__init__(envs)
        self._probability = probability
        self._begin(seed)

    def _begin(self, seed: int | Sequence[int]) -> None:
        """Seeds the random numbers; each of several seeds blanks for its own environments."""
        seeds = [seed] if isinstance(seed, int) else seed
        self._rngs = [np.random.default_rng(np.random.SeedSequence(s).spawn(1)[0]) for s in seeds]

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        share = self.num_envs // len(self._rngs)
        drawn = np.concatenate([rng.random(share) for rng in self._rngs])
        return timestep._replace(obs=blank(timestep.obs, drawn < self._probability))
