"""A sum tree draws leaves in proportion to their values and changes any of them, in log time."""

import numpy as np


def _depth(capacity: int) -> int:
    return max(capacity - 1, 1).bit_length()


class SumTree:
    """Holds float64 values at leaves 0 .. capacity - 1, all zero at first.

    Every inner node is the sum of its two children. It is summed anew on each change, so rounding
    errors of earlier changes do not pile up.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._depth = _depth(capacity)
        self._nodes = np.zeros(2 << self._depth)  # node i has children 2 i and 2 i + 1; root 1
        self.leaves = self._nodes[1 << self._depth :][:capacity]  # [capacity], read it only

    @property
    def total(self) -> float:
        """Return the sum of all values."""
        return float(self._nodes[1])

    @staticmethod
    def nbytes(capacity: int) -> int:
        """Return the bytes that a tree of `capacity` leaves takes."""
        return 8 * (2 << _depth(capacity))

    def set(self, leaves: np.ndarray, values: np.ndarray) -> None:
        """Set leaves [N] to values [N]; if a leaf is named twice, the last value counts."""
        node = leaves + (1 << self._depth)
        self._nodes[node] = values
        for _ in range(self._depth):
            node = node >> 1
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """Find the leaves [N] at which the running sum of values passes mass [N], in [0, total).

        A leaf of value 0 is never found, however the sums are rounded.
        """
        node = np.ones(len(mass), np.int64)
        for _ in range(self._depth):
            node = 2 * node
            left = self._nodes[node]
            right = (mass >= left) & (self._nodes[node + 1] > 0)
            mass = np.where(right, mass - left, mass)
            node += right
        return node - (1 << self._depth)
