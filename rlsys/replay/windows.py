"""Windows say where replay's sequences begin and end in the steps of B environments.

A segment is an episode or, with cross_episodes, all steps of the environment. Windows of `length`
learned steps begin every `stride` steps of a segment, each after `burn_in` steps that warm up the
recurrent state. Some burn-in steps of a segment's first windows lie before the segment: the state
that they leave is forgotten, as the segment opens with `first`. The last window ends where
its segment ends; it is left out if the window before it has all of its learned steps.
"""

from typing import Any, NamedTuple

import numpy as np


class Found(NamedTuple):
    """Holds what T steps of B environments bring: W complete windows, and V states to keep."""

    env: Any  # [W] int64
    start: Any  # [W] int64, step of the environment at which learning begins
    learned: Any  # [W] int64, steps learned: length, or fewer if the segment ends before
    state_env: Any  # [V] int64
    # [V] int64, ascending: steps before which the recurrent state must be stored, because a
    # window's burn-in may begin there.
    state_at: Any
    segment: Any  # [B] int64, the step that opened the segment of the last step


def find(
    segment: np.ndarray,
    now: int,
    first: np.ndarray,
    *,
    length: int,
    stride: int,
    burn_in: int,
    cross_episodes: bool,
) -> Found:
    """Find the windows that are complete once T more steps are known.

    A window is known to be complete at the step after its last learned one, or at the `first` of
    the next segment. The segment and the time alone decide which windows there are: they start at
    segment + k stride.

    Args:
      segment: [B] the step that opened the segment of the step before now.
      now: number of the first of the T steps.
      first: [T, B] True where a step opens an episode.
      length, stride, burn_in, cross_episodes: see Replay.
    """
    t = now + np.arange(len(first))[:, None]  # [T, 1]
    opened = np.where(first & (not cross_episodes), t, -1)
    segments = np.maximum.accumulate(np.concatenate([segment[None], opened]))
    before, segment = segments[:-1], segments[1:]  # [T, B], without and with step t

    start = t - length
    full = (start >= segment) & ((start - segment) % stride == 0)

    # Where t opens a segment, the one before ended at t - 1. Its last window is the first that
    # would reach beyond that end; later ones would learn nothing new.
    beyond = (t - 1 - length) - before  # >= 0 where the segment held a full window
    last = before + np.maximum(-(-beyond // stride), 0) * stride
    cut = (opened >= 0) & np.where(beyond < 0, t - 1 > before, beyond % stride != 0)

    # Windows whose burn-in begins at their segment's start, or before, need no state: zeros.
    needed = (t > segment) & ((t - segment + burn_in) % stride == 0)

    (full_t, full_env), (cut_t, cut_env), (at, state_env) = map(np.nonzero, (full, cut, needed))
    cut_start = last[cut_t, cut_env]
    return Found(
        np.concatenate([full_env, cut_env]),
        np.concatenate([now + full_t - length, cut_start]),
        np.concatenate([np.full(len(full_t), length), now + cut_t - 1 - cut_start]),
        state_env,
        now + at,
        segments[-1],
    )


def covered(shape: tuple[int, int], env: np.ndarray, start: np.ndarray, learned: np.ndarray):
    """Tell which steps [B, T] = shape at least one of W windows learns: bool [B, T]."""
    edges = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(edges, (env, start), 1)
    np.add.at(edges, (env, start + learned), -1)
    return edges.cumsum(axis=1)[:, :-1] > 0
