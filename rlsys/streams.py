"""Where a run's random numbers come from: each use of its seed has a stream of its own.

jax.random.key(seed + 1), a list [seed, index] or the seed itself would give two uses, or runs of
neighbouring seeds, the same numbers.
"""

import jax
import numpy as np

STREAMS = (
    "parameters", "minibatches", "actions", "environments", "replay", "evaluation", "orthogonal",
)  # fmt: skip


def key(seed: int, stream: str) -> jax.Array:
    """The jax key of one of STREAMS. No other use may be made of jax.random.key(seed): its first
    halves by split are what fold_in gives for 0 and 1.

    jax keeps the lowest 32 bits of a seed, so a larger one is hashed to as many.
    """
    if seed >= 2**32:
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(stream))


def sequence(seed: int, stream: str, *indices: int) -> np.random.SeedSequence:
    """numpy's seed of one of STREAMS, of which there is one for each of the indices."""
    # As entropy, [seed, 0] would be the same as seed.
    return np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), *indices))
