"""From a task's arrays to the learner's: observations, actions and masks of legal actions.

Observations: images [H, W, C]; floats as float32; categories as int32 from 0; nested Dicts and
Tuples as one Dict with names such as "goal/position" and "hands/0"; a mask of legal actions under
"action_mask".
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.types import UserError

MASK = "action_mask"
INT32 = np.iinfo(np.int32)
BOUND = 1e6  # an action that may be larger counts as unbounded


class Observations(NamedTuple):
    """Says what the learner's observations are, and converts the task's into them."""

    space: spaces.Space
    convert: Callable[[Any], Any]  # arrays [B, ...], in the tree of the task's space -> ours


class Actions(NamedTuple):
    """Says what the learner's actions are, and converts them into the task's."""

    space: spaces.Discrete | spaces.MultiDiscrete | spaces.Box
    convert: Callable[[np.ndarray], np.ndarray]  # [B] or [B, D] -> the task's [B, ...]


def has_range(space: spaces.Box) -> bool:
    """Returns whether actions are bounded, so that they have a range."""
    return bool((np.abs(space.low) < BOUND).all() and (np.abs(space.high) < BOUND).all())


def make_actions(name: str, space: spaces.Space) -> Actions:
    """Reads a Gymnasium action space: Box becomes a flat Box [D], MultiBinary [D] of two values.

    Raises:
      UserError: it is of another kind, Dict for instance.
    """
    if isinstance(space, spaces.Discrete):
        return Actions(spaces.Discrete(int(space.n)), lambda action: action + space.start)
    if isinstance(space, spaces.MultiDiscrete):
        sizes, shape, start = space.nvec.ravel(), space.shape, space.start
        return Actions(
            spaces.MultiDiscrete(sizes),
            lambda action: (action.reshape(-1, *shape) + start).astype(space.dtype),
        )
    if isinstance(space, spaces.MultiBinary):
        shape = space.shape
        return Actions(
            spaces.MultiDiscrete([2] * int(np.prod(shape))),
            lambda action: action.reshape(-1, *shape).astype(space.dtype),
        )
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        shape = space.shape
        box = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)
        return Actions(box, lambda action: action.reshape(-1, *shape))
    raise UserError(
        f"actions of {name!r} are {_kind(space)}; Discrete, MultiDiscrete, MultiBinary and Box of "
        "floats can be played"
    )


def mask_axes(space: spaces.Space) -> tuple[int, ...]:
    """Returns the shape of a mask of legal actions: (A,), or (D, K), where the largest of
    the D dimensions has K values."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    assert isinstance(space, spaces.MultiDiscrete)
    return (len(space.nvec), int(space.nvec.max()))


def make_observations(name: str, space: spaces.Space, actions: spaces.Space) -> Observations:
    """Reads a Gymnasium observation space. actions: the learner's action space.

    Raises:
      UserError: a part of it is no array (Text, Graph, Sequence), its mask of legal actions does
        not fit the actions, or two parts have the same name.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return Observations(*leaf(name, space))
    found = list(_leaves(space))
    twice = {path for path, _ in found if [p for p, _ in found].count(path) > 1}
    if twice:
        raise UserError(f"two observations of {name!r} are called {min(twice)!r}")
    leaves = {path: leaf(name, part) for path, part in found if path != MASK}
    named = {path: part for path, (part, _) in leaves.items()}
    masks = [part for path, part in found if path == MASK]
    axes: tuple[int, ...] = ()
    if masks:
        discrete = not isinstance(actions, spaces.Box)
        axes = mask_axes(actions) if discrete else ()
        if not discrete or np.prod(masks[0].shape or ()) != np.prod(axes):
            raise UserError(
                f"the observation {MASK!r} of {name!r} is {list(masks[0].shape or ())}, which does "
                f"not fit its actions, {actions}"
            )
        named[MASK] = spaces.MultiBinary(axes)

    def convert(obs):
        flat = flatten(obs)
        result = {path: function(flat[path]) for path, (_, function) in leaves.items()}
        return result | {MASK: legal(flat[MASK], axes)} if masks else result

    return Observations(spaces.Dict(named), convert)


def _leaves(space: spaces.Space, prefix: str = "") -> Iterator[tuple[str, spaces.Space]]:
    """Yields the parts of a nested space, named as flatten names their arrays."""
    parts: Any = ()
    if isinstance(space, spaces.Dict):
        parts = space.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space)
    else:
        yield prefix[:-1], space
    for key, part in parts:
        yield from _leaves(part, f"{prefix}{key}/")


def flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Turns {"a": {"b": x}, "c": (y, z)} into {"a/b": x, "c/0": y, "c/1": z}."""
    flat = {}
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | tuple):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def leaf(name: str, space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], np.ndarray]]:
    """Returns the learner's space for one array of an observation, and a function that converts the
    array [B, ...] into it."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return spaces.Discrete(int(space.n)), lambda x: (x - start).astype(np.int32)
    if isinstance(space, spaces.MultiDiscrete):
        first = space.start
        categories = spaces.MultiDiscrete(space.nvec, dtype=np.int32)
        return categories, lambda x: (x - first).astype(np.int32)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(space.shape), lambda x: x.astype(bool)
    if isinstance(space, spaces.Box) and space.dtype.kind in "biuf":
        return box_leaf(space.low, space.high)
    raise UserError(f"an observation of {name!r} is {_kind(space)}, and not an array of numbers")


def box_leaf(low: np.ndarray, high: np.ndarray):
    """Does what leaf does, for an array between two bounds."""
    dtype, shape = low.dtype, low.shape
    if dtype.kind == "b":
        return spaces.MultiBinary(shape), lambda x: x
    if dtype.kind == "f" or not np.can_cast(dtype, np.int32):
        # Wide integers are counts without bounds, unless their bounds fit into 32 bits.
        within = dtype.kind != "f" and low.min() >= INT32.min and high.max() <= INT32.max
        dtype = np.dtype(np.int32 if within else np.float32)
        low, high = low.astype(dtype), high.astype(dtype)
    # Atari, VizDoom and Procgen put channels first, as do some grids; the rest are [H, W, C].
    if len(shape) == 3 and shape[0] < shape[1] == shape[2]:
        low, high = np.moveaxis(low, 0, -1), np.moveaxis(high, 0, -1)
        box = spaces.Box(low, high, dtype=dtype.type)
        return box, lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1), dtype)
    return spaces.Box(low, high, dtype=dtype.type), lambda x: x.astype(dtype, copy=False)


def legal(mask: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Returns a mask of legal actions as bool [B, *axes]. One that allows no action becomes one
    that allows all: some tasks allow none at an episode's end, where the action is not played."""
    mask = np.asarray(mask).reshape(-1, *axes).astype(bool)
    return mask | ~mask.any(-1, keepdims=True)


def check_action(name: str, space: Any, num_envs: int, action: np.ndarray) -> np.ndarray:
    """Returns an action of B environments as an array; a Box's numbers are clipped to its bounds.

    Raises:
      UserError: its shape, type or range is wrong.
    """
    action = np.asarray(action)
    shape, floats = (num_envs, *space.shape), isinstance(space, spaces.Box)
    if action.shape != shape or action.dtype.kind not in ("f" if floats else "iu"):
        raise UserError(
            f"an action of {name!r} is {'float' if floats else 'int'} {list(shape)}, not "
            f"{action.dtype} {list(action.shape)}"
        )
    if floats:
        if not np.isfinite(action).all():
            raise UserError(
                f"an action of {name!r} is not finite: {action[~np.isfinite(action)][0]}"
            )
        return within_bounds(space, action)
    sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec[None]
    wrong = (action < 0) | (action >= sizes)
    if wrong.any():
        n = np.broadcast_to(sizes, action.shape)[wrong][0]
        raise UserError(f"an action of {name!r} lies in 0 to {n - 1}, not {action[wrong][0]}")
    return action


def within_bounds(space: spaces.Box, action: np.ndarray) -> np.ndarray:
    """Returns actions [B, D] of a Box, clipped to its bounds and of its type."""
    return np.clip(action, space.low, space.high).astype(space.dtype, copy=False)


def _kind(space: spaces.Space) -> str:
    if isinstance(space, spaces.Box):
        return f"a Box of {space.dtype}"
    return f"a {type(space).__name__}"
