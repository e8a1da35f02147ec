"""Automatic domain randomisation: ranges that widen where the policy succeeds at their ends.

OpenAI et al. 2019, "Solving Rubik's Cube with a Robot Hand", https://arxiv.org/abs/1910.07113,
section 5 and algorithm 1. Each parameter is drawn uniformly between a low and a high boundary,
which begin at the same point: the task as it is. Some draws are put on a boundary of one parameter.
Once the returns of enough episodes there are known, their mean moves the boundary outward, inward
or not at all, and they are forgotten.

Here a number is given as its share of the way from the low to the high end of its word's range, in
the logarithm for a log-uniform one. So 0 and 1 are the widest that a range can become, and a step
is the same share of each range.

Departures: a boundary never moves inward past the point where it began. Those that cannot move, as
the point lies on an end of the word's range, are not tried. Returns that were played before a
boundary last moved count nowhere. A draw lasts for many episodes (groups.py), of which the first
of each environment counts; a checkpoint ends it early, and then none does. An episode that is cut
because a simulation explodes counts with its return up to there, and with t_L if that is less. What
is played on a boundary is learned from as all else is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlsys.envs.randomise.words import NUMBERS, Word

LOW, HIGH = 0, 1  # a range's sides
DEVIATIONS = 2.0  # of a normal distribution, from the mean to the ends of its range; ours
DIGITS = 12  # to which shares are rounded, so that steps of 0.02 meet the end of a range


class Boundary(NamedTuple):
    """Names an end of a parameter's range."""

    parameter: int
    side: int  # LOW or HIGH


class Trial(NamedTuple):
    """Says what the policy returned where one number was on a boundary."""

    boundary: Boundary
    share: float  # where the boundary was
    returns: tuple[float, ...]  # of episodes


class Ranges(NamedTuple):
    """Holds the ranges that are drawn from, and the returns at their ends that await a decision."""

    start: tuple[float, ...]  # [n] shares at which the ranges began
    shares: tuple[tuple[float, float], ...]  # [n] low and high
    returns: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]  # [n] at low and at high


class Decision(NamedTuple):
    """Says what the returns at a boundary did to it."""

    boundary: Boundary
    share: float  # where the boundary is now
    mean: float  # of the returns
    episodes: int  # their number


def bounded(word: Word) -> Word:
    """Returns a word that draws between two ends: a normal one is uniform within 2 deviations."""
    if NUMBERS[word.how][-1] != "deviation":
        return word
    mean = word.numbers[0] if word.how == "gaussian" else 0.0
    half = DEVIATIONS * word.numbers[-1]
    how = "uniform" if word.how == "gaussian" else "add"
    return word._replace(how=how, numbers=(mean - half, mean + half))


def share_of(word: Word, number: float) -> float:
    """Returns where a number lies between the ends of a bounded word's range, from 0 to 1."""
    low, high = word.numbers
    if word.how.startswith("log"):
        low, high, number = math.log(low), math.log(high), math.log(number)
    return min(max((number - low) / (high - low), 0.0), 1.0)


def begin(start: Sequence[float]) -> Ranges:
    """Returns ranges that are points; start: [n] their shares."""
    points = tuple(map(float, start))
    return Ranges(points, tuple((x, x) for x in points), (((), ()),) * len(points))


def movable(start: Sequence[float]) -> list[Boundary]:
    """Returns the boundaries that have a way to go outward."""
    room = [Boundary(i, LOW) for i, x in enumerate(start) if x > 0]
    return sorted(room + [Boundary(i, HIGH) for i, x in enumerate(start) if x < 1])


def draw(
    ranges: Ranges, u: np.ndarray, *, boundary_share: float = 0.5
) -> tuple[np.ndarray, Boundary | None]:
    """Draws a share for each parameter: lambda ~ P_phi and lambda_i = phi_i in algorithm 1.

    Args:
      u: [n + 2] uniform in [0, 1): one for each parameter, whether a boundary is played, and which.
      boundary_share: the probability of that, p_b; the paper's 0.5.

    Returns:
      shares [n], and the boundary that one of them lies on; None if none does.
    """
    low, high = np.array(ranges.shares).T
    shares = low + u[:-2] * (high - low)
    if u[-2] >= boundary_share:
        return shares, None
    able = movable(ranges.start)
    chosen = able[int(u[-1] * len(able))]
    shares[chosen.parameter] = ranges.shares[chosen.parameter][chosen.side]
    return shares, chosen


def after(
    ranges: Ranges,
    trial: Trial,
    *,
    threshold_low: float,
    threshold_high: float,
    episodes: int = 240,
    step: float = 0.02,
) -> tuple[Ranges, Decision | None]:
    """Counts the returns of a trial, and decides on its boundary once there are enough of them.

    Args:
      threshold_low, threshold_high: t_L and t_H. A mean of t_H or more moves the boundary outward,
        one of t_L or less inward.
      episodes: m, the number of returns that are enough; the paper's 240.
      step: Delta, as a share of the word's range; ours.

    Returns:
      the ranges after it, and the decision; None if there is none yet.
    """
    i, side = trial.boundary
    if trial.share != ranges.shares[i][side]:
        return ranges, None  # it has moved since
    known = (*ranges.returns[i][side], *trial.returns)
    if len(known) < episodes:
        return ranges._replace(returns=_put(ranges.returns, i, side, known)), None
    mean = math.fsum(known) / len(known)
    outward = step if mean >= threshold_high else -step if mean <= threshold_low else 0.0
    start = ranges.start[i]
    low, high = (start, 1.0) if side == HIGH else (0.0, start)
    moved = trial.share + (outward if side == HIGH else -outward)
    share = min(max(round(moved, DIGITS), low), high)
    ranges = ranges._replace(
        shares=_put(ranges.shares, i, side, share), returns=_put(ranges.returns, i, side, ())
    )
    return ranges, Decision(trial.boundary, share, mean, len(known))


def _put(pairs: tuple, i: int, side: int, x: object) -> tuple:
    """Returns pairs in which one side of the i-th is x."""
    pair = (x, pairs[i][HIGH]) if side == LOW else (pairs[i][LOW], x)
    return (*pairs[:i], pair, *pairs[i + 1 :])


def entropy(ranges: Ranges) -> float:
    """Returns the entropy of the draws in nats per parameter: mean log(high - low) (section 5.1).

    It is that of shares, so it is 0 where all ranges are as wide as their words, and -inf while one
    of them is a point.
    """
    widths = [high - low for low, high in ranges.shares]
    return math.fsum(map(math.log, widths)) / len(widths) if min(widths) > 0 else -math.inf


def width(ranges: Ranges) -> float:
    """Returns the mean of the ranges' widths, as a share of their words' ranges."""
    return math.fsum(high - low for low, high in ranges.shares) / len(ranges.shares)
