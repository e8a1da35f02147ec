"""Where replay's sequences begin and end on the time lines of B environments.

A segment is an episode or, with cross_episodes, all that the environment ever does. Windows of
`length` learned steps begin every `stride` steps of a segment, each after `burn_in` steps for the
recurrent state. A segment's first windows have fewer: what lies before a segment is burnt in and
forgotten, because the segment opens with `first`. The last window ends with its segment, and is
left out where the one before it has learned all.
"""

from typing import Any, NamedTuple

import numpy as np


class Found(NamedTuple):
    """What T steps of B environments bring: W windows that are complete, and V states to keep."""

    env: Any  # [W] int64
    start: Any  # [W] int64, step of the environment at which learning begins
    learned: Any  # [W] int64, steps until it ends: length, or fewer where the segment ends first
    state_env: Any  # [V] int64
    state_at: Any  # [V] int64, steps before which a window needs the recurrent state, in order
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
    """The windows that are complete once T more steps are known.

    A window is known to be complete at the step after its last learned one, or at the `first` of
    the next segment. Which windows there are follows from the segment and the time alone: start =
    segment + k stride.

    Args:
      segment: [B] of the step before now.
      now: number of the first of these steps.
      first: [T, B] they open an episode.
    """
    t = now + np.arange(len(first))[:, None]  # [T, 1]
    opened = np.where(first & (not cross_episodes), t, -1)
    segments = np.maximum.accumulate(np.concatenate([segment[None], opened]))
    before, segment = segments[:-1], segments[1:]  # [T, B], without and with step t

    start = t - length
    full = (start >= segment) & ((start - segment) % stride == 0)

    # Before an opening the segment ended at t - 1. Its last window is the first one that reaches
    # beyond that end; no other learns what the window before it did not.
    beyond = (t - 1 - length) - before  # >= 0 where the segment held a full window
    last = before + np.maximum(-(-beyond // stride), 0) * stride
    cut = (opened >= 0) & np.where(beyond < 0, t - 1 > before, beyond % stride != 0)

    # Windows that begin burn-in with their segment, or before it, start from zeros.
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
    """Which of the steps [B, T] = shape some window [W] learns."""
    edges = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(edges, (env, start), 1)
    np.add.at(edges, (env, start + learned), -1)
    return edges.cumsum(axis=1)[:, :-1] > 0
