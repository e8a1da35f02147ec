"""Chooses domains: a task with other physics, observations or actions than those of training.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
tables 4 and 5, tests policies on a real hand, which no simulation matched. Here the held-out world
is a simulation beyond the ranges of training, or with an effect that training did not have.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from rlsys.envs import NOTHING, Randomise
from rlsys.envs.randomise.effects import OF_NUMBERS, WORDS, Effects, is_on
from rlsys.envs.randomise.words import FACTORS, NONE, NUMBERS, Word, read

TRAINED, NOMINAL, BEYOND, TOGETHER, NEW = "trained", "nominal", "beyond", "together", "new"
WHOLE = "whole"  # the widest that ranges may become
# Effects and physics that are tested if nothing like them was in training. Most of the effects are
# two or three times as large as in Dactyl's table, so that they matter; action_gain is larger.
NEW_EFFECTS: dict[str, float] = {
    "action_delay": 1.0,
    "action_hold": 0.3,
    "action_noise": 0.1,
    "action_gain": 0.2,
    "action_backlash": 0.1,
    "observation_drop": 0.2,
}
NEW_PHYSICS = ("mass=scale:1.5:2", "friction=scale:0.4:0.7", "damping=scale:2:3",
               "gain=scale:0.5:0.7", "gravity=normal:1")  # fmt: skip
AT_MOST = {"action_delay": 1.0, "action_backlash": 1.0, "observation_drop": 0.9,
           "action_hold": 0.9, "action_smoothing": 0.95}  # fmt: skip


class Domain(NamedTuple):
    """Names a world to play in, and says how it differs from the task as it is."""

    name: str
    kind: str  # TRAINED, NOMINAL, BEYOND, TOGETHER, NEW or WHOLE
    randomise: Randomise


def beyond(word: Word) -> list[str]:
    """Returns words for two ranges beside a word's own: below it and above it, half as wide.

    For factors, and for numbers that are drawn log-uniformly, the width is measured in logarithms.
    Beside a normal distribution the two ranges lie between 2 and 3 deviations from the mean.
    """
    together = ":all" if word.together else ""
    how = {"normal": "add", "gaussian": "uniform"}.get(word.how, word.how)
    if NUMBERS[word.how][-1] == "deviation":
        mean = word.numbers[0] if word.how == "gaussian" else 0.0
        sizes = 2 * word.numbers[-1], 3 * word.numbers[-1]
        ranges = [(mean - sizes[1], mean - sizes[0]), (mean + sizes[0], mean + sizes[1])]
    else:
        low, high = word.numbers
        if low > 0 and (word.how in FACTORS or word.how.startswith("log")):
            root = math.sqrt(high / low)
            ranges = [(low / root, low), (high, high * root)]
        else:
            half = (high - low) / 2
            ranges = [(low - half, low), (high, high + half)]
            if word.how in FACTORS:  # no factor is negative
                ranges = [(max(a, 0.0), max(b, 0.0)) for a, b in ranges]
    found = [(a, b) for a, b in ranges if a < b]
    return [f"{word.place}={how}:{a:.4g}:{b:.4g}{together}" for a, b in found]


def twice(field: str, value: str | float) -> str | float:
    """Returns the value of a field of Effects that stands for twice the size, at most AT_MOST."""
    if field in WORDS:
        return re.sub(
            r"(^|=)([0-9.]+(?:e[-+]?\d+)?)", lambda m: f"{m[1]}{2 * float(m[2]):g}", str(value)
        )
    return min(2 * float(value), AT_MOST.get(field, math.inf))


def held_out(
    randomise: Randomise,
    effects: Effects,
    *,
    counted: bool,
    left_out: Sequence[str] = (),
    reached: tuple[str, ...] = (),
) -> list[Domain]:
    """Returns the domains in which a policy is tested.

    They are: the task as in training; the task as it is; one drawn number at a time beyond its
    range, or one effect at twice its size; all of these together; and effects and physics that
    training did not have.

    Args:
      randomise: what training drew.
      effects: the effects on observations and actions in training, as effects.effects_of returns
        them.
      counted: whether actions are discrete, so that noise cannot be added to them.
      left_out: words of a preset's physics to which nothing in the task corresponds.
      reached: words for the ranges at the end of training, where they widened from points.
    """
    words = [read(text) for text in randomise.physics_words if text not in left_out]
    domains = [Domain("the task as it is", NOMINAL, NOTHING)]
    if randomise.adapt:
        whole = dataclasses.replace(randomise, adapt=False)
        domains.insert(0, Domain("the whole ranges", WHOLE, whole))
        if reached:
            now = dataclasses.replace(whole, physics=reached)
            domains.insert(0, Domain("as at the end of training", TRAINED, now))
    elif randomise.draws:
        domains.insert(0, Domain("as in training", TRAINED, randomise))
    above: dict[str, str | float | tuple[str, ...]] = {}
    farther: list[str] = []
    for word in words:
        shifts = beyond(word)
        domains += [Domain(x, BEYOND, physics(x)) for x in shifts]
        farther += shifts[-1:]
    for field in Effects._fields:
        value = getattr(effects, field)
        if is_on(field, value) and field != "sensor_loss_seconds":
            larger = twice(field, value)
            alone = {field: larger}
            if field == "sensor_loss":
                alone["sensor_loss_seconds"] = effects.sensor_loss_seconds
            above |= alone
            domains.append(Domain(f"{field} {_short(larger)}", BEYOND, only(**alone)))
    if len(farther) + len(above) > 1:
        both = Randomise(physics=tuple(farther) or None, **above)  # type: ignore[arg-type]
        domains.append(Domain("all that is above, the higher of two", TOGETHER, both))
    for field, size in NEW_EFFECTS.items():
        if not is_on(field, getattr(effects, field)) and not (counted and field in OF_NUMBERS):
            domains.append(Domain(f"{field} {size:g}", NEW, only(**{field: size})))
    drawn = {word.what for word in words}
    drawn |= {"gain"} if "gear" in drawn else set()  # a motor's gain is its gear
    for text in NEW_PHYSICS:
        if read(text).what not in drawn:
            domains.append(Domain(text, NEW, physics(text)))
    return domains


def physics(text: str) -> Randomise:
    """Returns a Randomise that draws one word of physics, and nothing else."""
    return NOTHING if text == NONE else Randomise(physics=(text,))


def only(**effect: str | float) -> Randomise:
    """Returns a Randomise that has one effect on observations or actions, and nothing else."""
    return Randomise(**effect)  # type: ignore[arg-type]


def _short(value: str | float) -> str:
    """Writes the value of an effect in at most 24 letters."""
    text = value if isinstance(value, str) else f"{value:g}"
    return text if len(text) <= 24 else text[:21] + "..."
