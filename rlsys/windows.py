"""Where replay's sequences begin and end on the time lines of B environments.

A segment is an episode or, with cross_episodes, all that the environment ever does. Windows of
`length` learned steps begin every `stride` steps of a segment, each after `burn_in` steps for the
recurrent state, of which a segment's first windows have fewer: what lies before a segment is burnt
in and forgotten, because the segment opens with `first`.
"""

from typing import Any, NamedTuple

import jax
import numpy as np


class Complete(NamedTuple):
    """Windows that have become complete, [W, ...]."""

    env: Any  # int64
    start: Any  # int64, step of the environment at which learning begins
    end: Any  # int64, step at which it ends: start + length, or the segment's last step
    lstm: Any  # recurrent state before the first step of burn-in


class Windows:
    """The windows that are open: K at most in each environment, a stride apart."""

    def __init__(
        self,
        num_envs: int,
        lstm: Any,
        *,
        length: int,
        stride: int,
        burn_in: int,
        cross_episodes: bool,
    ):
        """lstm: example of a recurrent state [1, ...]."""
        self._length, self._stride, self._burn_in = length, stride, burn_in
        self._cross_episodes = cross_episodes
        self._slots = (burn_in + length) // stride + 2  # K
        self.segment = np.zeros(num_envs, np.int64)  # the step that opened it
        self.start = np.full((num_envs, self._slots), -1, np.int64)  # of each window, -1 for none
        self.lstm = jax.tree.map(
            lambda x: np.zeros((num_envs, self._slots, *x.shape[1:]), x.dtype), lstm
        )

    def advance(self, now: int, first: np.ndarray, lstm: Any) -> list[Complete]:
        """Takes step `now` of every environment; returns what it completes.

        Args:
          now: number of the step, one more at each call.
          first: [B] it opens an episode.
          lstm: [B, ...] recurrent state before it.
        """
        complete = []
        if not self._cross_episodes and first.any():
            complete.append(self._end_segments(now, first))
        self._open(now, lstm)
        full = (self.start >= 0) & (self.start + self._length == now)
        if full.any():
            complete.append(self._take(full, now))
        return complete

    def _end_segments(self, now: int, first: np.ndarray) -> Complete:
        """The segment before each `first` has ended at now - 1."""
        end = now - 1
        running = (self.start >= 0) & first[:, None]
        # A later window is of use only if it learns what the one before it did not.
        opening = self.start == self.segment[:, None]
        useful = (self.start < end) & (opening | (self.start - self._stride + self._length < end))
        complete = self._take(running & useful, end)
        self.start[running] = -1
        self.segment[first] = now
        return complete

    def _open(self, now: int, lstm: Any) -> None:
        """Opens the windows whose burn-in begins now, or would have before a segment's opening."""
        age = now - self.segment
        opening = np.flatnonzero(age == 0)
        later = np.flatnonzero((age > 0) & ((age + self._burn_in) % self._stride == 0))
        starts = [(start, opening) for start in range(now, now + self._burn_in + 1, self._stride)]
        for start, envs in [*starts, (now + self._burn_in, later)]:
            if len(envs):
                slot = start // self._stride % self._slots
                self.start[envs, slot] = start
                for to, x in zip(jax.tree.leaves(self.lstm), jax.tree.leaves(lstm), strict=True):
                    to[envs, slot] = x[envs]

    def _take(self, which: np.ndarray, end: int) -> Complete:
        """Closes windows, which [B, K]."""
        env, slot = np.nonzero(which)
        start = self.start[env, slot]
        self.start[env, slot] = -1
        lstm = jax.tree.map(lambda x: x[env, slot], self.lstm)
        return Complete(env, start, np.full(len(env), end), lstm)
