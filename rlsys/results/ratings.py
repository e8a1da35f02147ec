"""Ratings of players from the games that they played against each other.

Elo's is one number a player, and is misled where strength is not transitive: as rock beats
scissors, a player who meets much of what it beats looks strong. The Nash average is not.

This file needs numpy and scipy alone.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

ELO = 400.0 / np.log(10.0)  # points of Elo for one unit of log odds


class Elo(NamedTuple):
    """Ratings, of mean 0."""

    rating: np.ndarray  # [K]
    half_width: np.ndarray  # [K] of the 95 % interval of each rating's distance from the mean


def with_prior(points: np.ndarray, games: np.ndarray, prior: float) -> tuple[np.ndarray, ...]:
    """Adds drawn games to each pair, without which somebody who never lost has no finite rating.

    Args:
      points: [K, K] of row against column: a win counts 1, a draw 0.5.
      games: [K, K] the number of games, symmetric.
      prior: the number of drawn games that are added to each pair.

    Returns:
      points and games, with zeros on the diagonal.
    """
    pairs = 1.0 - np.eye(len(points))
    return (points + 0.5 * prior) * pairs, (games + prior) * pairs


def elo(points: np.ndarray, games: np.ndarray, *, prior: float = 1.0) -> Elo:
    """Fit ratings to results by maximum likelihood.

      P(i beats j) = 1 / (1 + 10^((r_j - r_i) / 400))

    Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs: I. The Method of Paired
    Comparisons", https://doi.org/10.2307/2334029, in the units of Elo 1978, "The Rating of
    Chessplayers, Past and Present". A draw counts as half a win. The intervals come from the
    likelihood's curvature.

    Args:
      points, games, prior: see with_prior.
    """
    points, games = with_prior(points, games, prior)
    r = np.zeros(len(points))

    def loss(r):
        return -np.sum(points * special.log_expit(r[:, None] - r[None, :]))

    def curvature(r):
        p = special.expit(r[:, None] - r[None, :])
        weight = games * p * (1.0 - p)
        return p, np.diag(weight.sum(axis=1)) - weight

    for _ in range(200):  # Newton's method, with shorter steps where a whole one is too long
        p, hessian = curvature(r)
        step = np.linalg.lstsq(hessian, np.sum(points - games * p, axis=1))[0]
        size = 1.0
        while size > 1e-6 and loss(r + size * step) > loss(r):
            size /= 2.0
        r = r + size * step
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    variance = np.diag(np.linalg.pinv(curvature(r)[1]))
    return Elo(ELO * (r - r.mean()), 1.96 * ELO * np.sqrt(np.maximum(variance, 0.0)))


class NashAverage(NamedTuple):
    """Skill against the strongest mixture of players."""

    skill: np.ndarray  # [K] log odds against the mixture, 0 for those in it, else below 0
    share: np.ndarray  # [K] of the mixture


def logits(points: np.ndarray, games: np.ndarray, *, prior: float = 1.0) -> np.ndarray:
    """The log odds of row against column, antisymmetric: [K, K]. Arguments: see with_prior."""
    points, games = with_prior(points, games, prior)
    share = np.full_like(points, 0.5)
    np.divide(points, games, out=share, where=games > 0)
    return special.logit(share)


def nash_average(advantage: np.ndarray) -> NashAverage:
    """Average each player's results over the Nash equilibrium of the largest entropy.

      p* = argmax H(p) with A p <= 0,   skill = A p*

    Two players choose a champion each, and the winner's log odds are its pay. p* is how both
    choose, and none is better against it. A copy of a player takes a part of its share and changes
    nobody's skill; of those who beat each other in a circle all are equal.

    Balduzzi et al. 2018, "Re-evaluating Evaluation", https://arxiv.org/abs/1806.02643, section 3.
    Solved in the dual, where only signs are constrained: p = softmax(A l), l >= 0, of which
    log sum exp(A l) is the least.

    Args:
      advantage: [K, K] antisymmetric, A: of row against column.
    """
    a = advantage / max(np.abs(advantage).max(initial=0.0), 1e-12)  # the units do not matter to p*

    def dual(multiplier):
        value = a @ multiplier
        return special.logsumexp(value), a.T @ special.softmax(value)

    found = optimize.minimize(
        dual, np.zeros(len(a)), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(a),
        options={"maxiter": 100_000, "maxfun": 1_000_000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    share = special.softmax(a @ found.x)
    return NashAverage(advantage @ share, share)
