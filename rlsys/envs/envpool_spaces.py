"""From EnvPool's arrays to the learner's and back, as spaces.py says; read from EnvPool's specs.

Actions: one Discrete, a MultiDiscrete of D equal sizes K, or a Box [D] in EnvPool's own float type.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.envs.spaces import MASK, Actions, flatten, legal, mask_axes

ALL_ATARI = 18  # joystick and button
LARGEST_DISCRETE = 2**20  # integers with a wider range are numbers, not categories


class Observations(NamedTuple):
    """Says what the learner's observations are, and converts EnvPool's into them."""

    space: spaces.Space
    from_pool: Callable[[Any, dict[str, Any]], Any]  # (obs, info) -> arrays [B, ...] or a dict


def make_actions(spec: Any, *, all_atari: bool) -> Actions:
    """Reads the action of an EnvPool spec. all_atari: a game of Atari is to have all 18 actions."""
    name = spec._action_keys[-1]  # after env_id and players.env_id
    array = spec.action_array_spec[name]
    shape = tuple(n for n in array.shape if n != -1)
    low, high = _bounds(array, shape)
    if not (array.is_discrete or np.issubdtype(array.dtype, np.integer)):
        box = spaces.Box(low.ravel(), high.ravel(), dtype=low.dtype.type)
        return Actions(box, lambda action: action.reshape(-1, *low.shape))
    sizes = tuple((np.ravel(high).astype(int) - np.ravel(low).astype(int) + 1).tolist())
    if all_atari and sizes[0] < ALL_ATARI:
        return Actions(  # Skiing knows 9; the others do nothing
            spaces.Discrete(ALL_ATARI),
            lambda action: np.where(action < sizes[0], action, 0).astype(array.dtype),
        )
    if len(sizes) == 1:
        return Actions(
            spaces.Discrete(sizes[0]),
            lambda action: (action.reshape(-1, *shape) + low).astype(array.dtype),
        )
    mask = _arrays(spec).get(MASK)
    joint = (
        mask is not None and tuple(mask.shape) == sizes
    )  # says which pairs, triples ... are legal
    if not joint and len(set(sizes)) == 1:
        return Actions(
            spaces.MultiDiscrete(list(sizes)),
            lambda action: (action + low).astype(array.dtype),
        )
    n = int(np.prod(sizes))
    return Actions(
        spaces.Discrete(n),
        lambda action: (np.stack(np.unravel_index(action, sizes), -1) + low).astype(array.dtype),
    )


def make_observations(spec: Any, actions: spaces.Space) -> Observations:
    """Reads the observation of an EnvPool spec. actions: the learner's action space."""
    arrays = _arrays(spec)
    leaves = {k: _leaf(array) for k, array in arrays.items() if k != MASK}
    apart = "info:legal_action_mask" in spec._state_keys  # pgx keeps its mask apart
    if len(arrays) == 1 and not apart:
        (space, convert) = next(iter(leaves.values()))
        return Observations(space, lambda obs, info: convert(obs))
    named = {k: leaf[0] for k, leaf in leaves.items()}
    masked = apart or MASK in arrays
    axes = mask_axes(actions) if masked else ()
    if masked:
        named[MASK] = spaces.MultiBinary(axes)

    def from_pool(obs, info):
        obs = flatten(obs) if isinstance(obs, dict) else {"obs": obs}
        result = {k: convert(obs[k]) for k, (_, convert) in leaves.items()}
        if masked:
            result[MASK] = legal(obs[MASK] if MASK in obs else info["legal_action_mask"], axes)
        return result

    return Observations(spaces.Dict(named), from_pool)


def _arrays(spec: Any) -> dict[str, Any]:
    """Returns EnvPool's array specs of an observation: "obs" alone, or by name."""
    arrays = {k: a for k, a in spec.state_array_spec.items() if k.startswith("obs")}
    return {k[4:].replace(".", "/").replace(":", "/") or "obs": a for k, a in arrays.items()}


def _leaf(array: Any) -> tuple[spaces.Space, Callable[[np.ndarray], np.ndarray]]:
    """Returns the learner's space for one array of an observation, and a function that converts
    EnvPool's array [B, ...] into it."""
    shape = tuple(n for n in array.shape if n != -1)
    low, high = _bounds(array, shape)
    dtype = low.dtype
    if dtype.kind == "b":
        return spaces.MultiBinary(shape), lambda x: x
    if low.size == 1 and dtype.kind in "iu" and high.item() < LARGEST_DISCRETE:
        start = int(low.item())
        size = int(high.item()) - start + 1
        return spaces.Discrete(size), lambda x: x.reshape(-1).astype(np.int32) - np.int32(start)
    if dtype == np.float64:
        box = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        return box, _to_float32
    # Atari, VizDoom and Procgen put channels first, as do some grids; the rest are [H, W, C].
    if len(shape) == 3 and shape[0] < shape[1] == shape[2]:
        low, high = np.moveaxis(low, 0, -1), np.moveaxis(high, 0, -1)
        box = spaces.Box(low, high, dtype=dtype.type)
        return box, lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1))
    return spaces.Box(low, high, dtype=dtype.type), lambda x: x


def _to_float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # of a simulation that explodes; groups.py sets it aside
        return x.astype(np.float32)


def _bounds(array: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns lowest and highest values, each of the array's shape and dtype."""
    low, high = (np.asarray(x, array.dtype) for x in (array.minimum, array.maximum))
    if low.dtype.kind == "f":
        # EnvPool takes C++'s numeric_limits<float>::min() for the lowest float; it is the smallest
        # positive one. Both it and max() stand for "no bound".
        info = np.finfo(low.dtype)
        low = np.where(low == info.tiny, -np.inf, low).astype(low.dtype)
        high = np.where(high == info.max, np.inf, high).astype(low.dtype)
    size = int(np.prod(shape))
    return tuple(  # type: ignore[return-value]
        x.reshape(shape) if x.size == size else np.full(shape, x) for x in (low, high)
    )
