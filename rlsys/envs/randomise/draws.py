"""Draws random numbers for a batch of environments, from a stream of its own for each effect."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

# Each effect has a stream of its own, so that none changes when another is switched on or off.
STREAMS = (
    "observation_offset", "observation_noise", "sensor_loss", "observation_drop", "action_hold",
    "hold_probability", "action_delay", "action_noise", "action_bias", "action_backlash",
)  # fmt: skip
SPAWNED = 2  # the streams' spawn keys begin with it; other wrappers have keys that begin with 0, 1


class Draw(Protocol):
    """Draws an array of the given shape."""

    def __call__(self, rng: np.random.Generator, shape: tuple[int, int], /) -> np.ndarray: ...


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draws from a normal distribution of mean 0 and deviation 1."""
    return rng.standard_normal(shape, np.float32)


def uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draws from a uniform distribution over [0, 1)."""
    return rng.random(shape, np.float32)


class Draws:
    """One stream of random numbers [B, n]. Where a batch has several seeds, each seed draws for an
    equal share of the environments, as it would draw for them alone."""

    def __init__(self, stream: str, num_envs: int, seed: int | Sequence[int]):
        """Seeds the stream; stream: one of STREAMS, the effect that draws from it."""
        self._key, self._num_envs = (SPAWNED, STREAMS.index(stream)), num_envs
        self.begin(seed)

    def begin(self, seed: int | Sequence[int]) -> None:
        """Seeds the stream anew."""
        seeds = [seed] if isinstance(seed, int) else seed
        self._share = self._num_envs // len(seeds)
        sequences = [np.random.SeedSequence(s, spawn_key=self._key) for s in seeds]
        self._rngs = [np.random.default_rng(sequence) for sequence in sequences]

    def each_step(self, draw: Draw, n: int) -> np.ndarray:
        """Draws new numbers for all environments: [B, n]."""
        parts = [draw(rng, (self._share, n)) for rng in self._rngs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def each_episode(self, draw: Draw, old: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Returns numbers [B, n] that are drawn anew where an episode begins.

        Args:
          old: [B, n] the numbers until now.
          first: [B] bool, where an episode begins.

        Returns:
          A new array, or the old one where no episode begins.
        """
        if not first.any():
            return old
        new = old.copy()
        for i, rng in enumerate(self._rngs):
            rows = slice(i * self._share, (i + 1) * self._share)
            if first[rows].any():
                drawn = draw(rng, (self._share, old.shape[1]))
                new[rows] = np.where(first[rows, None], drawn, old[rows])
        return new
