"""From EnvPool's arrays to ours and back: what a timestep's obs and action look like.

Observations: images [H, W, C]; floats as float32; categories as int32 from 0; nested dicts as one
dict with names such as "goal/position"; a mask of legal actions under "action_mask".
Actions: one Discrete, or a MultiDiscrete of D equal sizes K.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.envs.tasks import DEFAULTS, Options, family
from rlsys.types import UserError

MASK = "action_mask"
ALL_ATARI = 18  # joystick and button
LARGEST_DISCRETE = 2**20  # integers with a wider range are numbers, not categories


class Actions(NamedTuple):
    """The learner's actions and what EnvPool is told for them."""

    space: spaces.Discrete | spaces.MultiDiscrete
    axes: tuple[int, ...]  # (A,) or (D, K), of the mask of legal actions
    to_pool: Callable[[np.ndarray], np.ndarray]  # [B] or [B, D] int -> EnvPool's [B, ...]


class Observations(NamedTuple):
    """The learner's observations and how they come from EnvPool's."""

    space: spaces.Space
    from_pool: Callable[[Any, dict[str, Any]], Any]  # (obs, info) -> arrays [B, ...] or a dict


def make_actions(task: str, spec: Any, options: Options) -> Actions:
    """Reads the action of an EnvPool spec.

    Raises:
      UserError: a continuous action without bounds, or action_bins without a continuous action.
    """
    name = spec._action_keys[-1]  # after env_id and players.env_id
    array = spec.action_array_spec[name]
    shape = tuple(n for n in array.shape if n != -1)
    low, high = _bounds(array, shape)
    if not (array.is_discrete or np.issubdtype(array.dtype, np.integer)):
        return _binned(task, low, high, options.action_bins)
    if options.action_bins != DEFAULTS.action_bins:
        raise UserError(f"action_bins is for continuous actions, and those of {task!r} are not")
    sizes = tuple((np.ravel(high).astype(int) - np.ravel(low).astype(int) + 1).tolist())
    if family(task) == "atari" and not options.minimal_actions and sizes[0] < ALL_ATARI:
        return Actions(  # Skiing knows 9; the others do nothing
            spaces.Discrete(ALL_ATARI),
            (ALL_ATARI,),
            lambda action: np.where(action < sizes[0], action, 0).astype(array.dtype),
        )
    if len(sizes) == 1:
        return Actions(
            spaces.Discrete(sizes[0]),
            sizes,
            lambda action: (action.reshape(-1, *shape) + low).astype(array.dtype),
        )
    mask = _arrays(spec).get(MASK)
    joint = (
        mask is not None and tuple(mask.shape) == sizes
    )  # says which pairs, triples ... are legal
    if not joint and len(set(sizes)) == 1:
        return Actions(
            spaces.MultiDiscrete(list(sizes)),
            (len(sizes), sizes[0]),
            lambda action: (action + low).astype(array.dtype),
        )
    n = int(np.prod(sizes))
    return Actions(
        spaces.Discrete(n),
        (n,),
        lambda action: (np.stack(np.unravel_index(action, sizes), -1) + low).astype(array.dtype),
    )


def _binned(task: str, low: np.ndarray, high: np.ndarray, bins: int) -> Actions:
    """Each dimension of a continuous action takes one of a few evenly spaced values."""
    if not (np.abs(low) < 1e6).all() or not (np.abs(high) < 1e6).all():
        raise UserError(f"actions of {task!r} range over {low.min():g} to {high.max():g}: no bins")
    values = np.linspace(low.ravel(), high.ravel(), bins, axis=-1).astype(low.dtype)  # [D, K]
    dimension = np.arange(low.size)
    return Actions(
        spaces.MultiDiscrete([bins] * low.size),
        (low.size, bins),
        lambda action: values[dimension, action].reshape(-1, *low.shape),
    )


def make_observations(
    task: str, spec: Any, axes: tuple[int, ...], options: Options
) -> Observations:
    """Reads the observation of an EnvPool spec. axes: of the mask of legal actions.

    Raises:
      UserError: the observation is not of the kind that an option asks for.
    """
    arrays = _arrays(spec)
    single = len(arrays) == 1
    leaves = {k: _leaf(array) for k, array in arrays.items() if k != MASK}
    masked = len(leaves) < len(arrays)
    if "info:legal_action_mask" in spec._state_keys:  # pgx keeps its mask apart
        masked, single = True, False
    only = next(iter(leaves.values()))
    if (options.flicker or options.only_first) and single and isinstance(only[0], spaces.Discrete):
        raise UserError(f"flicker and only_first need an array to blank, not {task!r}'s {only[0]}")
    if options.observe:
        if not single or not isinstance(only[0], spaces.Box) or len(only[0].shape) != 1:
            raise UserError(f"observe needs one flat vector, and {task!r} shows something else")
        only = leaves["obs"] = _part(task, *only, options.observe)
    if options.permute:
        if not single or isinstance(only[0], spaces.Discrete):
            raise UserError(f"permute needs one array, and {task!r} shows something else")
        only = _permuted(*only, options.permute)
    if single:
        space, convert = only
        return Observations(space, lambda obs, info: convert(obs))
    named = {k: leaf[0] for k, leaf in leaves.items()}
    if masked:
        named[MASK] = spaces.MultiBinary(axes)

    def from_pool(obs, info):
        obs = flatten(obs) if isinstance(obs, dict) else {"obs": obs}
        result = {k: convert(obs[k]) for k, (_, convert) in leaves.items()}
        if masked:
            result[MASK] = _legal(obs[MASK] if MASK in obs else info["legal_action_mask"], axes)
        return result

    return Observations(spaces.Dict(named), from_pool)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = value
    return flat


def _arrays(spec: Any) -> dict[str, Any]:
    """EnvPool's array specs of an observation: "obs" alone, or by name."""
    arrays = {k: a for k, a in spec.state_array_spec.items() if k.startswith("obs")}
    return {k[4:].replace(".", "/").replace(":", "/") or "obs": a for k, a in arrays.items()}


def _leaf(array: Any) -> tuple[spaces.Space, Callable[[np.ndarray], np.ndarray]]:
    """The space of one array of an observation, and what brings EnvPool's [B, ...] into it."""
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
        return box, lambda x: x.astype(np.float32)
    # Atari, VizDoom and Procgen put channels first, as do some grids; the rest are [H, W, C].
    if len(shape) == 3 and shape[0] < shape[1] == shape[2]:
        low, high = np.moveaxis(low, 0, -1), np.moveaxis(high, 0, -1)
        box = spaces.Box(low, high, dtype=dtype.type)
        return box, lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1))
    return spaces.Box(low, high, dtype=dtype.type), lambda x: x


def _bounds(array: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest values, each of the array's shape and dtype."""
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


def _part(task: str, box: Any, convert: Callable, observe: tuple[int, ...]):
    """Keeps some entries of a flat vector."""
    if max(observe) >= box.shape[0]:
        raise UserError(f"observe {observe}: {task!r} has {box.shape[0]} entries, counted from 0")
    index = np.array(observe)
    part = spaces.Box(box.low[index], box.high[index], dtype=box.dtype.type)
    return part, lambda x: convert(x)[:, index]


def _permuted(space: Any, convert: Callable, seed: int):
    """Shows an array's entries in another order, drawn from the seed over its whole shape."""
    shape, rng = space.shape, np.random.default_rng(seed)
    order = as_is = np.arange(int(np.prod(shape)))
    while len(order) > 1 and (order == as_is).all():  # few entries: the order drawn may be theirs
        order = rng.permutation(len(order))
    if isinstance(space, spaces.Box):
        low, high = (x.ravel()[order].reshape(shape) for x in (space.low, space.high))
        space = spaces.Box(low, high, dtype=space.dtype.type)

    def permuted(x):
        x = convert(x)
        return np.take(x.reshape(len(x), -1), order, axis=1).reshape(x.shape)

    return space, permuted


def _legal(mask: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """[B, *axes] bool, at least one action legal: some tasks allow none at an episode's end, where
    the action is not played."""
    mask = mask.reshape(-1, *axes).astype(bool)
    return mask | ~mask.any(-1, keepdims=True)
