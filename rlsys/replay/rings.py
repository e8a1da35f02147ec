"""Rings: trees of arrays [B, S, ...] that hold the last S steps of B environments."""

import jax
import numpy as np


def zeros(tree, *shape: int):
    """Zeros of `shape` for each leaf [N, ...] of tree, an example of rows."""
    return jax.tree.map(lambda x: np.zeros((*shape, *x.shape[1:]), x.dtype), tree)


def take(rings, rows):
    """Copies whole rows, as fast as memory does; row b * S + s is rings[b, s]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]).take(rows, axis=0), rings)


def write(rings, index, values):
    """Sets each array of rings at index to that of values."""
    jax.tree.map(lambda to, x: to.__setitem__(index, x), rings, values)
