"""Rings are trees of arrays [B, S, ...] that hold the last S steps of B environments."""

import jax
import numpy as np


def zeros(tree, *shape: int):
    """Make zeros [*shape, ...] for each leaf [N, ...] of tree, which is an example of rows."""
    return jax.tree.map(lambda x: np.zeros((*shape, *x.shape[1:]), x.dtype), tree)


def take(rings, rows):
    """Copy whole rows, as fast as memory allows; row b * S + s is rings[b, s]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]).take(rows, axis=0), rings)


def write(rings, index, values):
    """Set array[index] = value for each array of rings and its value of values."""
    jax.tree.map(lambda to, x: to.__setitem__(index, x), rings, values)
