"""A task's physics: its parameters, from which distribution each is drawn, and a task made of them.

EnvPool's tasks of MuJoCo have the parameters of their XML. A Gymnasium or JAX task has those that
the user's function takes: `gymnasium/my_module:make` with the word `length=uniform:0.5:2` is made
by make(length=...), a Gymnasium id by gymnasium.make(id, length=...).
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
    """Says what one drawn number is for."""

    name: str  # "mass@torso"
    word: Word
    places: tuple[Place, ...] = ()  # of the XML, that the number changes; none of a function


class Physics(Protocol):
    """A task's parameters, and how the task is made of numbers for them.

    Attributes:
      parameters: one for each number that is drawn.
      left_out: words of a preset that fit nothing in the task.
    """

    parameters: list[Parameter]
    left_out: list[str]

    def nominal(self) -> np.ndarray:
        """Returns the numbers [n] of the task as it is, and those in the middle of their ranges
        where it does not say what it is."""
        ...

    def variant(self, numbers: np.ndarray) -> AbstractContextManager[Any]:
        """Gives what the task's back-end takes as `variant`, for as long as it makes environments.

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
          words: what is drawn; where two fit the same element, the later one counts.
          preset: whether the words are a preset's, so that those that fit nothing are left out.
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
        found: dict[str, Parameter] = {}
        for word in words:
            places = self._fitting(env_id, word, must=not preset)
            if not places:
                self.left_out.append(word.text)
            elif word.together:
                name = word.what + ("@" + ",".join(word.names) if word.names else "")
                found[name] = Parameter(name, word, tuple(places))
            else:
                found |= {x.words: Parameter(x.words, word, (x,)) for x in places}
        self.parameters = list(found.values())

    def _fitting(self, env_id: str, word: Word, *, must: bool) -> list[Place]:
        """Returns the places that a word fits.

        Raises:
          UserError: there are none and there must be some, or the word is for functions.
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
        found = known if not word.names else [x for x in known if fits(x.name, word.names)]
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
        return found

    def nominal(self) -> np.ndarray:
        return np.array([float(x.word.how in FACTORS) for x in self.parameters])

    def changes(self, numbers: np.ndarray) -> list[Change]:
        """Returns what is changed in the model; numbers: [n] one for each parameter."""
        found: dict[Place, Change] = {}  # a later word counts where two fit one place
        for (_, word, places), x in zip(self.parameters, numbers.tolist(), strict=True):
            for place in places:
                isfactor = word.how in FACTORS
                found[place] = Change(place, x) if isfactor else Change(place, 1.0, x)
        return list(found.values())

    @contextlib.contextmanager
    def variant(self, numbers: np.ndarray) -> Iterator[str]:
        """Gives EnvPool's base_path, a folder that is there in the body alone."""
        with folder_without(self._source) as path:
            self.write(numbers, path)
            yield str(path).removesuffix(str(self._source.file))

    def write(self, numbers: np.ndarray, path: Path) -> None:
        """Writes the XML; numbers: [n] one for each parameter.

        Raises:
          Refused: MuJoCo does not take it.
        """
        self._model.write(self.changes(numbers), path)


class FunctionPhysics:
    """The physics of a Gymnasium or JAX task: keyword arguments of what makes it."""

    def __init__(self, env_id: str, words: list[Word], known: Iterable[str]):
        """Checks words.

        Args:
          known: names of the function's arguments; "**" if it takes any.

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


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether a name fits one of the patterns, in which * stands for any letters."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(dict.fromkeys(known))
    within = [x for x in known if name.strip("*") and name.strip("*") in x][:3]
    return ", ".join(within or difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:5])


def numbers_at(parameters: list[Parameter], u: np.ndarray) -> np.ndarray:
    """Returns the numbers of parameters below which shares u of all draws lie.

    Args:
      u: [n] in (0, 1); uniform ones give a draw.
    """
    pairs = zip(parameters, u.tolist(), strict=True)
    return np.array([quantile(x.word.how, x.word.numbers, share) for x, share in pairs])


def draw(parameters: list[Parameter], sequence: np.random.SeedSequence) -> np.ndarray:
    """Draws shares u in (0, 1) for numbers_at, [n], each for itself.

    2 u - 1 is the number on the scale of its range: from -1, the lowest, to 1, the highest.
    """
    u = np.random.default_rng(sequence).random(len(parameters))
    return np.clip(u, 1e-9, 1 - 1e-9)  # a normal one has no number at 0


def starting_shares(physics: Physics) -> list[float]:
    """Returns where the task as it is lies in the ranges of its parameters, from 0 to 1; the
    nearest end where it lies outside. Their words are bounded."""
    pairs = zip(physics.parameters, physics.nominal().tolist(), strict=True)
    return [adapt.share_of(x.word, number) for x, number in pairs]


@functools.cache
def physics_of(task: Task, pictures: bool) -> Physics:
    """Returns the physics of a task, read once in a process.

    Args:
      task: with the words in task.randomise.
      pictures: whether the environments are to draw pictures.

    Raises:
      UserError: its physics cannot be changed, or a word fits nothing.
    """
    from rlsys.envs.tasks import backend_of  # which imports task's module, too

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
