"""Reads the words that say which of a task's physics are drawn, and from which distribution.

    mass=scale:0.5:1.5             each body's mass times its own U[0.5, 1.5]
    gear@slide=logscale:0.4:2      the gear of the actuator "slide" times exp U[log 0.4, log 2]
    gravity=normal:0.4             each axis of gravity plus its own N(0, 0.4), a deviation of 0.4
    friction=scale:0.7:1.3:all     all frictions times one U[0.7, 1.3]

After @ come the names of elements (bodies, joints and so on) with commas between them, in which *
stands for any letters. Each of these elements gets a number of its own, as each link has a mass of
its own in OpenAI et al. 2018, table 1; `:all` draws one number for all of them.
"""

import math
import re
from statistics import NormalDist
from typing import NamedTuple

from rlsys.types import UserError

FACTORS = ("scale", "logscale")  # the drawn number multiplies the task's own; others replace or add
NUMBERS = {  # each distribution, and the names of the numbers that it takes
    "scale": ("low", "high"),
    "logscale": ("low", "high"),
    "add": ("low", "high"),
    "normal": ("deviation",),
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "gaussian": ("mean", "deviation"),
}
OF_XML = ("scale", "logscale", "add", "normal")  # for the numbers that an XML file has
OF_FUNCTION = ("uniform", "loguniform", "gaussian")  # for the arguments of a user's function
POSITIVE = ("mass", "size", "timestep")  # must stay above 0
NONE = "none"  # the word that draws no physics, even if a preset has some


class Word(NamedTuple):
    """Says which number of the physics is drawn, and from which distribution."""

    text: str  # as it was given
    what: str  # "mass"; of a function, the argument's name
    names: tuple[str, ...]  # patterns of the elements' names; () for all elements
    how: str  # one of NUMBERS
    numbers: tuple[float, ...]
    together: bool  # one number for all elements

    @property
    def place(self) -> str:
        """Which elements of the task the word is for, as it was written: "mass", "gear@slide"."""
        return self.what + ("@" + ",".join(self.names) if self.names else "")


def read(text: str) -> Word:
    """Reads a word.

    Raises:
      UserError: it is malformed, or nothing can be drawn from its numbers.
    """
    parts = re.fullmatch(r"([a-zA-Z_]\w*)(?:@([^=]+))?=([a-z]+)((?::[^:]*)*)", text)
    if not parts:
        raise UserError(
            f"physics {text!r} is not written as <what>[@<names>]=<how>:<numbers>, such as "
            f"mass=scale:0.5:1.5"
        )
    what, names, how, rest = parts.groups()
    fields = rest.split(":")[1:]
    together = fields[-1:] == ["all"]
    fields = fields[:-1] if together else fields
    if how not in NUMBERS:
        raise UserError(f"physics {text!r}: there is no {how!r}, only {', '.join(NUMBERS)}")
    expected = NUMBERS[how]
    try:
        numbers = tuple(map(float, fields))
    except ValueError:
        raise UserError(f"physics {text!r}: {':'.join(fields)!r} are not numbers") from None
    if len(numbers) != len(expected) or not all(map(math.isfinite, numbers)):
        raise UserError(f"physics {text!r}: {how} takes {':'.join(expected)}, finite numbers")
    patterns = tuple(filter(None, (names or "").split(",")))
    _check_range(text, what, how, numbers)
    return Word(text, what, patterns, how, numbers, together)


def _check_range(text: str, what: str, how: str, numbers: tuple[float, ...]) -> None:
    """Raises UserError if nothing can be drawn from the numbers, such as a low above its high."""
    low, high = numbers[0], numbers[-1]
    if NUMBERS[how][-1] == "deviation":
        if high < 0:
            raise UserError(f"physics {text!r}: the deviation must be 0 or more, not {high:g}")
        return
    if low > high:
        raise UserError(f"physics {text!r}: low {low:g} is above high {high:g}")
    if how.startswith("log") and low <= 0:
        raise UserError(f"physics {text!r}: low must be positive for its logarithm, not {low:g}")
    if how == "scale" and what in POSITIVE and low <= 0:
        raise UserError(
            f"physics {text!r}: a {what} must stay positive, and {low:g} times it is not"
        )
    if how == "scale" and what != "gravity" and low < 0:
        raise UserError(f"physics {text!r}: a factor must be 0 or more, not {low:g}")


def quantile(how: str, numbers: tuple[float, ...], u: float) -> float:
    """Returns the number below which a share u of all draws lie. If u is uniform, it is a draw.

    uniform: low + u (high - low); log-uniform: exp of that between the logarithms; normal: mean +
    deviation Phi^-1(u). (Devroye 1986, "Non-Uniform Random Variate Generation", section II.2.)

    Args:
      how: the distribution, one of NUMBERS.
      numbers: those that this distribution takes.
      u: in (0, 1).
    """
    if how in ("normal", "gaussian"):
        mean = numbers[0] if how == "gaussian" else 0.0
        return mean + numbers[-1] * NormalDist().inv_cdf(u)
    low, high = numbers
    if how.startswith("log"):
        return min(max(math.exp(math.log(low) + u * math.log(high / low)), low), high)
    return low + u * (high - low)


def describe(word: Word) -> str:
    """Writes a word's distribution in a few letters: "x U[0.5, 1.5]", "+ N(0, 0.4)"."""
    sign = "x " if word.how in FACTORS else "+ " if word.how in OF_XML else ""
    if NUMBERS[word.how][-1] == "deviation":
        mean = word.numbers[0] if word.how == "gaussian" else 0
        return f"{sign}N({mean:g}, {word.numbers[-1]:g})"
    log = "log" if word.how.startswith("log") else ""
    return f"{sign}{log}U[{word.numbers[0]:g}, {word.numbers[1]:g}]"


# OpenAI et al. 2018, table 1 and appendix C.1: object dimensions, object and link masses, surface
# friction, joint damping, actuator force gains (P term), joint limits (rad), gravity (m/s^2).
# The object is called "object" in Gymnasium-Robotics' hands, "cube" in Playground's.
PHYSICS_OF = {
    "dactyl": (
        "size@object,cube=scale:0.95:1.05",
        "mass=scale:0.5:1.5",
        "friction=scale:0.7:1.3",
        "damping=logscale:0.3:3",
        "gain=logscale:0.75:1.5",
        "range=normal:0.15",
        "gravity=normal:0.4",
    ),
}
