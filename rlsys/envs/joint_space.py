"""The spaces that several tasks of one agent have in common."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.types import UserError


def shared_spaces(envs: Sequence[Envs]) -> tuple[spaces.Space, Any]:
    """Returns the observation space and the action space that all tasks of a run have in common.

    Bounds are the widest of any task, so that what is scaled by them fits all; everything else must
    be the same.

    Raises:
      UserError: two tasks differ.
    """
    first = envs[0]
    observation_space = first.observation_space
    for other in envs[1:]:
        pair = f"{first.name!r} and {other.name!r}"
        try:
            observation_space = _union(observation_space, other.observation_space)
        except _Differ as difference:
            raise UserError(f"one agent cannot play both {pair}: {difference}") from None
        if first.action_space != other.action_space:
            a, b = _action(first.action_space), _action(other.action_space)
            raise UserError(f"one agent cannot play both {pair}: {a} against {b}")
    return observation_space, first.action_space


class _Differ(Exception):
    """Two spaces have no union; the message says why."""


def _union(a: Any, b: Any, name: str = "") -> spaces.Space:
    """Returns the smallest space that holds both; `name` is that of the part of an observation."""
    if isinstance(a, spaces.Dict) and isinstance(b, spaces.Dict) and set(a) == set(b):
        return spaces.Dict({key: _union(a[key], b[key], key) for key in a})
    if type(a) is not type(b) or a.shape != b.shape or a.dtype != b.dtype:
        what = f"observations {name!r}" if name else "observations"
        raise _Differ(f"{what} are {_observation(a)} against {_observation(b)}")
    if isinstance(a, spaces.Box):
        low, high = np.minimum(a.low, b.low), np.maximum(a.high, b.high)
        return spaces.Box(low, high, dtype=a.dtype.type)  # type: ignore[arg-type]
    if isinstance(a, spaces.Discrete):
        return spaces.Discrete(max(int(a.n), int(b.n)))
    return a


def _action(space: Any) -> str:
    if isinstance(space, spaces.Discrete):
        return f"{space.n} actions"
    if isinstance(space, spaces.Box):
        return f"{space.shape[0]} continuous actions from {space.low} to {space.high}"
    if len(set(space.nvec.tolist())) > 1:
        return f"actions of {len(space.nvec)} dimensions with {space.nvec.tolist()} values"
    return f"actions of {len(space.nvec)} dimensions with {space.nvec[0]} values each"


def _observation(space: Any) -> str:
    if isinstance(space, spaces.Dict):
        return f"the arrays {', '.join(space)}"
    if isinstance(space, spaces.Discrete):
        return "one category"
    return f"{space.dtype} {list(space.shape)}"
