"""Gymnasium's spaces as JSON and back."""

from typing import Any

import numpy as np
from gymnasium import spaces

from rlsys.types import UserError


def to_json(space: Any) -> dict[str, Any]:
    """Describes a space by what json.dumps takes.

    Raises:
      UserError: it is none of Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple.
    """
    if isinstance(space, spaces.Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": space.dtype.name, **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        sizes = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", "dtype": space.dtype.name, **sizes}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: to_json(space[key]) for key in space}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [to_json(part) for part in space]}
    raise UserError(f"a space of the kind {type(space).__name__} cannot be written")


def from_json(found: dict[str, Any]) -> spaces.Space:
    """Gives the space that to_json described."""
    kind = found["type"]
    if kind == "Box":
        low, high = (np.array(found[name], found["dtype"]) for name in ("low", "high"))
        shape = tuple(found["shape"])
        low, high = (np.broadcast_to(x, shape).copy() for x in (low, high))
        return spaces.Box(low, high, dtype=low.dtype.type)  # type: ignore[arg-type]
    if kind == "Discrete":
        return spaces.Discrete(found["n"], start=found["start"])
    if kind == "MultiDiscrete":
        dtype = np.dtype(found["dtype"]).type
        return spaces.MultiDiscrete(found["nvec"], dtype=dtype, start=found["start"])  # type: ignore[arg-type]
    if kind == "MultiBinary":
        return spaces.MultiBinary(found["shape"])
    if kind == "Dict":
        return spaces.Dict({key: from_json(part) for key, part in found["spaces"].items()})
    return spaces.Tuple([from_json(part) for part in found["spaces"]])


def _numbers(x: np.ndarray) -> Any:
    """One number where all are the same; text where JSON has no such number (Infinity)."""
    x = x.ravel()[0] if x.size and (x == x.ravel()[0]).all() else x
    return x.tolist() if np.isfinite(x).all() else x.astype(str).tolist()
