"""Places: words that say how much noise, or how many losses, each entry of an observation gets.

A single number, the amount, is for every float of the observation, except for arrays that are
called "privileged...", which hold a simulator's state. Otherwise each word names a place and its
amount, with commas between words, as in
"observation=0.01,achieved_goal.0-2=0.005,achieved_goal.3-6=0.1rad".

- "observation" is the array of that name. An observation that is one array is called "obs".
- ".0-2" picks the array's entries 0, 1 and 2, counted as they lie in memory; ".5" picks entry 5.
- "a.0-2+b.4-6" are two places that show the same quantity, so both get the same drawn numbers.
- "rad" after the amount says that the four entries are a quaternion (w, x, y, z), which is turned.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.envs.spaces import MASK
from rlsys.types import UserError

EVERYWHERE = ""  # the key of a word that names no place
PRIVILEGED = "privileged"  # names of arrays of a simulator's state, not of sensors, begin with it
ALONE = "obs"  # the name of an observation that is one array
PART = re.compile(r"(?P<key>[^+=,]+?)(?:\.(?P<low>\d+)(?:-(?P<high>\d+))?)?")


class Part(NamedTuple):
    """Names entries of one array of an observation."""

    key: str
    entries: tuple[int, int] | None  # the first and the last; None for all


class Amount(NamedTuple):
    """Says how much noise, or how many losses a second, parts get that show one quantity."""

    parts: tuple[Part, ...]
    size: float
    rotation: bool = False


class Slice(NamedTuple):
    """Joins entries of an array with the drawn numbers that they get."""

    key: str
    entries: slice
    drawn: slice
    rotation: bool


class Layout(NamedTuple):
    """Says where in the observations of one task noise goes, and how large it is."""

    slices: tuple[Slice, ...]
    size: np.ndarray  # [N] float32, of each number that is drawn


class Sensors(NamedTuple):
    """Says which entries of a task's observations are one sensor, and how often it is lost."""

    rate: np.ndarray  # [S] float32, the times a second that each of S sensors is lost
    of_entries: dict[str, np.ndarray]  # by array: [width] int, the sensor of each entry, or -1


def read(field: str, text: str) -> list[Amount]:
    """Reads words, and returns those whose amount is not 0.

    Args:
      field: the name of the field that holds them, for errors.

    Raises:
      UserError: they are malformed, or an amount is negative or not finite.
    """
    if not text:
        return []
    if _number(text) is not None:
        amount = Amount((Part(EVERYWHERE, None),), _size(field, text, text))
        return [amount] if amount.size else []
    amounts = []
    for word in text.split(","):
        place, _, size = word.rpartition("=")
        parts = tuple(_part(field, word, part) for part in place.split("+"))
        rotation = size.endswith("rad")
        amounts.append(Amount(parts, _size(field, word, size.removesuffix("rad")), rotation))
    return [amount for amount in amounts if amount.size]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _malformed(field: str, word: str) -> UserError:
    return UserError(
        f"{field} takes a number, or words such as observation.0-2=0.01 with commas between them, "
        f"not {word!r}"
    )


def _size(field: str, word: str, text: str) -> float:
    size = _number(text)
    if size is None:
        raise _malformed(field, word)
    if not 0 <= size < math.inf:
        raise UserError(f"{field} must be 0 or more, and finite, not {word}")
    return size


def _part(field: str, word: str, text: str) -> Part:
    found = PART.fullmatch(text)
    if not found:
        raise _malformed(field, word)
    if found["low"] is None:
        return Part(found["key"], None)
    low = int(found["low"])
    high = low if found["high"] is None else int(found["high"])
    if high < low:
        raise UserError(f"{field} names entries {low} to {high} in {word!r}, which are none")
    return Part(found["key"], (low, high))


def named(space: spaces.Space) -> dict[str, spaces.Space]:
    """Returns the spaces of an observation's arrays by name, without the mask of legal actions."""
    if isinstance(space, spaces.Dict):
        return {key: part for key, part in space.items() if key != MASK}
    return {ALONE: space}


def is_float(space: spaces.Space) -> bool:
    """Returns whether an array holds floats, to which noise can be added."""
    return isinstance(space, spaces.Box) and space.dtype.kind == "f"


def locate(field: str, amounts: list[Amount], name: str, space: spaces.Space) -> Layout:
    """Returns where noise goes: each entry of a place gets one drawn number, a quaternion three.

    Args:
      field: the name of the field that holds the amounts, for errors.
      amounts: as read() returns them.
      name: the name of the task, for errors.
      space: the space of its observations.

    Raises:
      UserError: see _find; or a place with "rad" has not four entries, or the places of one word
        differ in size.
    """
    slices, sizes = list[Slice](), list[float]()
    for found, amount in _find(field, amounts, name, space):
        widths = {high - low for _, low, high in found}
        if len(widths) > 1 or (amount.rotation and widths != {4}):
            wanted = "4 entries, a quaternion" if amount.rotation else "as many entries each"
            raise UserError(
                f"{field} needs places of {wanted}, not of {', '.join(map(str, sorted(widths)))}"
            )
        count = 3 if amount.rotation else widths.pop()
        drawn = slice(len(sizes), len(sizes) + count)
        sizes += [amount.size] * count
        slices += [Slice(key, slice(low, high), drawn, amount.rotation) for key, low, high in found]
    return Layout(tuple(slices), np.array(sizes, np.float32))


def sensors(field: str, amounts: list[Amount], name: str, space: spaces.Space) -> Sensors:
    """Returns the sensors: a word makes all its places one sensor; a single number makes each entry
    a sensor. The arguments are those of locate.

    Raises:
      UserError: see _find.
    """
    rates = list[float]()
    named_sizes = {key: int(np.prod(x.shape or ())) for key, x in named(space).items()}
    index = {key: np.full(size, -1) for key, size in named_sizes.items()}
    for found, amount in _find(field, amounts, name, space):
        alike = amount.parts[0].key != EVERYWHERE
        for key, low, high in found:
            index[key][low:high] = len(rates) + (0 if alike else np.arange(high - low))
            rates += [] if alike else [amount.size] * (high - low)
        rates += [amount.size] if alike else []
    index = {key: x for key, x in index.items() if (x >= 0).any()}
    return Sensors(np.array(rates, np.float32), index)


def _find(
    field: str, amounts: list[Amount], name: str, space: spaces.Space
) -> list[tuple[list[tuple[str, int, int]], Amount]]:
    """Returns the places of each amount. A place is an array's name, its first entry and the entry
    after its last. An amount for all floats comes once for each array.

    Raises:
      UserError: there is no such array or entry, the array holds no floats, or two places share an
        entry.
    """
    arrays = named(space)
    taken = {key: np.zeros(int(np.prod(x.shape or ())), bool) for key, x in arrays.items()}
    result = []
    for amount in amounts:
        groups = [amount.parts]
        if amount.parts[0].key == EVERYWHERE:
            keys = [k for k, x in arrays.items() if is_float(x) and not k.startswith(PRIVILEGED)]
            groups = [(Part(key, None),) for key in keys]
            if not groups:
                raise UserError(f"{field} is for floats, and {name!r} shows {_words(space)}")
        for group in groups:
            found = [(part.key, *_bounds(field, name, arrays, part)) for part in group]
            for key, low, high in found:
                if taken[key][low:high].any():
                    raise UserError(f"{field} names entries of {key} twice")
                taken[key][low:high] = True
            result.append((found, amount))
    return result


def _bounds(field: str, name: str, arrays: Mapping[str, Any], part: Part) -> tuple[int, int]:
    """Returns the first entry of a part, and the one after its last.

    Raises:
      UserError: there is no such array or entry, or the array holds no floats.
    """
    if part.key not in arrays:
        near = difflib.get_close_matches(part.key, arrays, cutoff=0.0)
        raise UserError(
            f"{field} names {part.key!r}, which {name!r} does not show; the nearest: "
            f"{', '.join(near)}"
        )
    space = arrays[part.key]
    if not is_float(space):
        raise UserError(f"{field} is for floats, and {part.key} of {name!r} is {_words(space)}")
    size = int(np.prod(space.shape))
    low, high = part.entries or (0, size - 1)
    if high >= size:
        raise UserError(
            f"{field} names entry {high} of {part.key}, of which {name!r} shows {size}, from 0"
        )
    return low, high + 1


def _words(space: Any) -> str:
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {list(space.shape)}"
    return f"a {type(space).__name__}"
