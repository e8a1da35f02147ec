"""Finds the parameters of a task's physics that are drawn, and makes the task with drawn numbers.

For EnvPool's tasks of MuJoCo the parameters are numbers of their XML. For a Gymnasium or JAX task
they are arguments of the user's function: with the word `length=uniform:0.5:2` the task
`gymnasium/my_module:make` is made by make(length=...), a Gymnasium id by gymnasium.make(id,
length=...).
"""

import contextlib
import difflib
import fnmatch
import functools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlsys.envs.options import Task
from rlsys.envs.randomise import adapt
from rlsys.envs.randomise import words as grammar
from rlsys.envs.randomise.assets import cannot_change, folder_without, source_of
from rlsys.envs.randomise.mjcf import Model, drop_pictures, expand
from rlsys.envs.randomise.model import ARRAYS, Change, Place, Refused
from rlsys.envs.randomise.words import FACTORS, Word, quantile
from rlsys.types import UserError


class Parameter(NamedTuple):
    """Says which part of the physics one drawn number changes."""

    name: str  # "mass@torso"
    word: Word
    places: tuple[Place, ...] = ()  # in the XML, that the number changes; () for an argument


class Physics(Protocol):
    """Names a task's parameters, and makes the task with given numbers for them.

    Attributes:
      parameters: one for each number that is drawn.
      left_out: the words of a preset to which nothing in the task corresponds.
    """

    parameters: list[Parameter]
    left_out: list[str]

    def nominal(self) -> np.ndarray:
        """Returns the numbers [n] that leave the task as it is or, where its own number is not
        known, those in the middle of their ranges."""
        ...

    def variant(self, numbers: np.ndarray) -> AbstractContextManager[Any]:
        """Gives the back-end's argument `variant`, with which it makes environments that have these
        numbers. They must be made in the body of the `with`.

        Args:
          numbers: [n] one for each parameter.

        Raises:
          Refused: MuJoCo does not take the model.
        """
        ...


class XmlPhysics:
    """The physics of an EnvPool task of MuJoCo: numbers of its XML."""

    def __init__(self, env_id: str, words: list[Word], *, preset: bool, pictures: bool):
        """Reads the task's XML.

        Args:
          words: say what is drawn; if two words fit the same element, the later one counts.
          preset: whether the words are a preset's: then those that fit nothing are left out.
          pictures: whether the environments are to draw pictures.

        Raises:
          UserError: the task has no such XML, or a word fits nothing in it.
        """
        self._source = source_of(env_id)
        root = expand(self._source.base / self._source.file)
        if not pictures:
            drop_pictures(root)
        try:
            with folder_without(self._source) as path:
                self._model = Model(root, path)
        except Refused as error:
            raise cannot_change(env_id, str(error)) from None
        self.left_out: list[str] = []
        owner: dict[Place, tuple[str, Word]] = {}  # the parameter's name, and its word
        for word in words:
            places = self._fitting(env_id, word, must=not preset)
            if not places:
                self.left_out.append(word.text)
            for place in places:
                owner.pop(place, None)
                owner[place] = word.place if word.together else place.words, word
        found: dict[tuple[str, Word], list[Place]] = {}
        for place, key in owner.items():
            found.setdefault(key, []).append(place)
        self.parameters = [Parameter(*key, tuple(places)) for key, places in found.items()]

    def _fitting(self, env_id: str, word: Word, *, must: bool) -> list[Place]:
        """Returns the places in the XML that a word names; for a factor those that are not 0.

        Args:
          must: whether it is an error if there are none.

        Raises:
          UserError: there are none and `must` is True, or the word is for a function's arguments.
        """
        if word.what not in ARRAYS:
            raise UserError(
                f"physics {word.text!r}: there is no {word.what!r} in the XML of {env_id!r}; the "
                f"nearest: {_nearest(word.what, ARRAYS)}"
            )
        if word.how not in grammar.OF_XML:
            raise UserError(
                f"physics {word.text!r}: {word.how} is for a function's arguments; XML takes "
                f"{', '.join(grammar.OF_XML)}"
            )
        known = self._model.places[word.what]
        found = known if not word.names else [x for x in known if _named(x, word.names)]
        if must and not known:
            able = ", ".join(what for what, places in self._model.places.items() if places)
            raise UserError(
                f"physics {word.text!r}: the XML of {env_id!r} has no {word.what}, only {able}"
            )
        if must and not found:
            names = [x.name for x in known]
            raise UserError(
                f"physics {word.text!r}: the XML of {env_id!r} has no {word.what} of that name; "
                f"the nearest: {_nearest(word.names[0], names)}"
            )
        if word.how in FACTORS:
            found = [x for x in found if x.nominal]
            if must and not found:
                raise UserError(
                    f"physics {word.text!r}: a factor changes nothing, as {word.place} is 0 in "
                    f"{env_id!r}; add or normal would"
                )
        return found

    def nominal(self) -> np.ndarray:
        return np.array([float(x.word.how in FACTORS) for x in self.parameters])

    def changes(self, numbers: np.ndarray) -> list[Change]:
        """Returns the changes that numbers make to the model; numbers: [n] one a parameter."""
        found: list[Change] = []
        for (_, word, places), x in zip(self.parameters, numbers.tolist(), strict=True):
            factor, shift = (x, 0.0) if word.how in FACTORS else (1.0, x)
            found += [Change(place, factor, shift) for place in places]
        return found

    @contextlib.contextmanager
    def variant(self, numbers: np.ndarray) -> Iterator[str]:
        """Gives EnvPool's base_path, a folder that exists only in the body of the `with`."""
        with folder_without(self._source) as path:
            self.write(numbers, path)
            yield str(path).removesuffix(str(self._source.file))

    def write(self, numbers: np.ndarray, path: Path) -> None:
        """Writes the XML with these numbers to a file; numbers: [n] one for each parameter.

        Raises:
          Refused: MuJoCo does not take the model.
        """
        self._model.write(self.changes(numbers), path)


class FunctionPhysics:
    """The physics of a Gymnasium or JAX task: keyword arguments of the function that makes it."""

    def __init__(self, env_id: str, words: list[Word], known: Iterable[str]):
        """Checks that the function takes the arguments that the words name.

        Args:
          known: the names of the function's arguments; "**" if it takes any name.

        Raises:
          UserError: it takes no argument of this name, or a word is for XML.
        """
        self.left_out: list[str] = []
        known = list(known)
        for word in words:
            if word.how not in grammar.OF_FUNCTION or word.names or word.together:
                raise UserError(
                    f"physics {word.text!r}: an argument of a function is drawn by "
                    f"<argument>=<how>:<numbers>, with {', '.join(grammar.OF_FUNCTION)}"
                )
            if word.what not in known and "**" not in known:
                near = f"the nearest: {_nearest(word.what, known)}" if known else "it takes none"
                raise UserError(
                    f"physics {word.text!r}: what makes {env_id!r} has no argument {word.what!r}; "
                    f"{near}"
                )
        self.parameters = [Parameter(word.what, word) for word in words]

    def nominal(self) -> np.ndarray:
        return numbers_at(self.parameters, np.full(len(self.parameters), 0.5))

    @contextlib.contextmanager
    def variant(self, numbers: np.ndarray) -> Iterator[dict[str, float]]:
        """Gives the keyword arguments."""
        names = [x.name for x in self.parameters]
        yield dict(zip(names, numbers.tolist(), strict=True))


def _named(place: Place, patterns: tuple[str, ...]) -> bool:
    """Returns whether patterns name a place: by its element, "knee", or by one end of its range,
    "knee.low"."""
    return fits(place.name, patterns) or fits(f"{place.name}.{place.part}", patterns)


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether a name matches one of the patterns, in which * stands for any letters."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _nearest(name: str, known: Iterable[str]) -> str:
    """Returns the known names that are most like a name, for an error's sentence."""
    known = list(dict.fromkeys(known))
    within = [x for x in known if name.strip("*") and name.strip("*") in x][:3]
    return ", ".join(within or difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:5])


def numbers_at(parameters: list[Parameter], u: np.ndarray) -> np.ndarray:
    """Returns for each parameter the number below which a share u of all its draws lie: [n].

    Args:
      u: [n] in (0, 1), and 0 or 1 too for words that have a low and a high; a uniform u gives a
        draw.
    """
    pairs = zip(parameters, u.tolist(), strict=True)
    return np.array([quantile(x.word.how, x.word.numbers, share) for x, share in pairs])


def draw(parameters: list[Parameter], sequence: np.random.SeedSequence) -> np.ndarray:
    """Draws the shares u of numbers_at: [n] in (0, 1), independent and uniform.

    2 u - 1 tells a network where a number lies in its range: from -1, the lowest, to 1, the
    highest.
    """
    u = np.random.default_rng(sequence).random(len(parameters))
    return np.clip(u, 1e-9, 1 - 1e-9)  # at 0 a normal quantile is infinite


def starting_shares(physics: Physics) -> list[float]:
    """Returns where the task as it is lies in the ranges of its parameters, from 0 to 1; the
    nearest end where it lies outside. Their words are bounded."""
    pairs = zip(physics.parameters, physics.nominal().tolist(), strict=True)
    return [adapt.share_of(x.word, number) for x, number in pairs]


@functools.cache
def physics_of(task: Task, pictures: bool) -> Physics:
    """Returns the physics of a task; its XML is read once in a process.

    Args:
      task: the task; task.randomise has the words.
      pictures: whether the environments are to draw pictures.

    Raises:
      UserError: its physics cannot be changed, or a word fits nothing.
    """
    from rlsys.envs.tasks import backend_of  # here, as tasks imports what imports this module

    given, env_id = task.randomise.physics is not None, task.env_id
    words = [grammar.read(text) for text in task.randomise.physics_words]
    if task.randomise.adapt:
        words = [adapt.bounded(word) for word in words]
    try:
        if known := getattr(backend_of(env_id), "arguments", None):
            if not given:
                raise cannot_change(env_id, "a preset has no words for its arguments")
            return FunctionPhysics(env_id, words, known(env_id))
        return XmlPhysics(env_id, words, preset=not given, pictures=pictures)
    except UserError as error:
        if given:
            raise
        raise UserError(f"{error}; --randomise.physics none leaves physics out") from None
