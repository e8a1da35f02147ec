"""A sum tree: draw leaves in proportion to their value, change any of them, in log time."""

import numpy as np


def _depth(capacity: int) -> int:
    return max(capacity - 1, 1).bit_length()


class SumTree:
    """float64 values at leaves 0 .. capacity - 1, all zero at first.

    Every inner node is the sum of its two children, made anew from them on each change, so the
    rounding of earlier changes does not pile up.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._depth = _depth(capacity)
        self._nodes = np.zeros(2 << self._depth)  # node i has children 2 i and 2 i + 1; root 1
        self.leaves = self._nodes[1 << self._depth :][:capacity]  # [capacity], to be read only

    @property
    def total(self) -> float:
        return float(self._nodes[1])

    @staticmethod
    def nbytes(capacity: int) -> int:
        """Bytes that a tree of so many leaves takes."""
        return 8 * (2 << _depth(capacity))

    def set(self, leaves: np.ndarray, values: np.ndarray) -> None:
        """Sets leaves [N] to values [N]; of a leaf named twice, the last value stays."""
        node = leaves + (1 << self._depth)
        self._nodes[node] = values
        for _ in range(self._depth):
            node = node >> 1
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The leaves [N] in which cumulated values pass mass [N], each in [0, total).

        Never a leaf of value 0, whatever the rounding.
        """
        node = np.ones(len(mass), np.int64)
        for _ in range(self._depth):
            node = 2 * node
            left = self._nodes[node]
            right = (mass >= left) & (self._nodes[node + 1] > 0)
            mass = np.where(right, mass - left, mass)
            node += right
        return node - (1 << self._depth)
