"""Keeps past selves, which the newest policy plays against in games of two players or two teams.

Berner et al. 2019, "Dota 2 with Large Scale Deep Reinforcement Learning",
https://arxiv.org/abs/1912.06680, section 3.3 and appendix N: most games are against the current
self. In the others a past self plays one side. Each past self has a quality, which falls with each
game that it loses, and past selves of higher quality are drawn more often: the equations are those
of losses/opponent_quality.py. The rows that a past self plays are not learned from.

Departures: the step by which a quality falls is divided by the probability with which the past self
was drawn for the game, not by its present one. A few past selves are in play at a time, each in the
same number of games, so that one vmapped call acts for all. A game keeps its opponent to its end.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.learning import hosts, learner
from rlsys.replay import memory
from rlsys.types import Policy, UserError

NEAR = 0.1  # the share of games against past selves may be so far from past_share, as a part of it


@dataclasses.dataclass(frozen=True)
class SelfPlay:
    """Chooses whom the learner plays against in games of two players or two teams."""

    past_share: float = 0.2
    """The share of games in which a past self plays one side; with 0 all are against the current
    self."""
    past_every: int = 10
    """A copy of the policy joins the past selves each time that it has learned from this many
    unrolls."""
    past_most: int = 50
    """The number of past selves that are kept. When one joins and there are more, those with the
    lowest quality are dropped; of several with the same quality, the oldest."""
    past_at_once: int = 4
    """The number of past selves that each actor plays against at a time, at most. All play equally
    many games. Fewer play if the share of their games would else be more than a tenth above or
    below past_share."""
    past_eta: float = 0.01
    """How far a past self's quality falls when it loses a game: by this, divided by the number of
    past selves times its probability to be drawn. With 0 all past selves are drawn alike."""
    frozen: str = ""
    """The folder of a run whose newest policy plays in place of past selves. This policy stays as
    it was at the start, even if that run goes on."""
    frozen_mode: str = "sampled"
    """How the policy of `frozen` plays: sampled draws its actions as in training, greedy takes the
    likeliest one."""

    def __post_init__(self):
        if not 0.0 <= self.past_share <= 1.0:
            raise UserError(f"past_share must lie in [0, 1], not {self.past_share}")
        for name in ("past_every", "past_most", "past_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0.0 <= self.past_eta < float("inf"):
            raise UserError(f"past_eta must be 0 or more, not {self.past_eta}")
        if self.frozen_mode != SelfPlay.frozen_mode and not self.frozen:
            raise UserError(f"frozen_mode {self.frozen_mode} is for the policy of frozen: set it")
        if self.frozen and not self.past_share:
            raise UserError(f"past_share is 0, so the policy of {self.frozen} would play no game")

    def groups(self, games: int) -> tuple[int, int]:
        """Returns how many past selves an actor plays against at once, and in how many games each.

        Args:
          games: the number of the actor's games.

        Raises:
          UserError: past_share of these games rounds to none.
        """
        past = self.past_share * games
        if not round(past):
            raise UserError(
                f"past_share {self.past_share} of an actor's {games} games comes to none: set it "
                f"to 0, or raise it or num_envs"
            )
        most = min(self.past_at_once, games)
        possible = [(n, min(max(1, round(past / n)), games // n)) for n in range(1, most + 1)]
        return min(possible, key=lambda x: (max(abs(x[0] * x[1] - past), NEAR * past), -x[0]))


class PastSelf(NamedTuple):
    """Holds a copy of the policy as it was, and how its games against the learner ended."""

    number: int  # counts from 0 in the order of joining
    env_steps: int  # the run's environment steps when it joined
    params: Any  # in numpy
    quality: float  # q
    games: int = 0  # games that have ended
    won: int = 0  # of these, games that the learner won
    drawn: int = 0  # of these, draws


class Result(NamedTuple):
    """Says how a game against a past self ended."""

    number: int  # the past self's number
    chance: float  # N p_i: its probability times the number of past selves, when it was drawn
    reward: float  # the learner's, in the game's last step; 0 where a time limit cut the game


Pool = tuple[PastSelf, ...]


def join(pool: Pool, params: Any, env_steps: int, number: int, most: int) -> Pool:
    """Adds a past self to the pool, with the pool's highest quality as its own. While there are
    more than `most`, the one of the lowest quality leaves."""
    quality = max((x.quality for x in pool), default=0.0)
    pool = (*pool, PastSelf(number, env_steps, params, quality))
    while len(pool) > most:
        leaves = min(pool[:-1], key=lambda x: (x.quality, x.number))
        pool = tuple(x for x in pool if x is not leaves)
    return pool


def probabilities(pool: Pool) -> np.ndarray:
    """Computes the probability with which each past self is drawn: [N] float64, as in
    losses/opponent_quality.py."""
    quality = np.array([x.quality for x in pool])
    weight = np.exp(quality - quality.max())
    return weight / weight.sum()


def after_game(pool: Pool, result: Result, eta: float) -> Pool:
    """Counts a game, and lowers the past self's quality if the learner won.

    A past self that has left the pool meanwhile is ignored.
    """
    numbers = [x.number for x in pool]
    if result.number not in numbers:
        return pool
    index, won = numbers.index(result.number), result.reward > 0
    loser = pool[index]
    after = loser._replace(
        quality=loser.quality - won * eta / result.chance,
        games=loser.games + 1,
        won=loser.won + won,
        drawn=loser.drawn + (result.reward == 0),
    )
    return (*pool[:index], after, *pool[index + 1 :])


def check_memory(config: SelfPlay, params: Any) -> None:
    """Checks that the past selves fit into the host's memory.

    Args:
      params: the learner's, or anything with their shapes and dtypes.

    Raises:
      UserError: they take more than 90 % of the free memory.
    """
    most = 1 if config.frozen else config.past_most
    needed, free = most * memory.num_bytes(params), memory.free_bytes()
    if needed > 0.9 * free:  # networks and unrolls need some too
        fits = int(0.8 * most * free / needed)
        raise UserError(
            f"{most} past selves take {needed / 1e6:,.1f} MB, but there are {free / 1e6:,.1f} MB "
            f"free: " + (f"--past-most {fits} would fit" if fits else "not one would fit")
        )


class Opponents:
    """Holds the past selves of a run, counts their games, and saves them in checkpoints.

    Attributes:
      pool: the past selves; a tuple that is replaced and never changed in place.
      policy: the Policy that acts for them; None if it is the learner's own.
    """

    def __init__(
        self, config: SelfPlay, params: Any, env_steps: int = 0, policy: Policy | None = None
    ):
        """Begins with one past self: the run's first policy or, with config.frozen, the policy of
        that run.

        Args:
          params: the parameters of this past self.
          env_steps: the environment steps that it was trained for.
          policy: see the attribute.
        """
        self._config, self.policy = config, policy
        self._results: list[Result] = []
        self._games = self._points = 0.0  # since the last line of the log
        self.begin(params, env_steps)

    def begin(self, params: Any, env_steps: int) -> None:
        """Begins with one past self; the arguments are those with which an Opponents is made."""
        self.pool: Pool = ()
        self._iterations = self._joined = 0
        self._join(params, env_steps)

    def add(self, results: list[Result]) -> None:
        """Adds the results of games that this process's actors have played."""
        self._results += results

    def learned(self, params: Any, env_steps: int) -> None:
        """Counts an unroll that was learned from; collective, so all processes must call it.

        Args:
          params: the learner's parameters after the update.
          env_steps: the run's environment steps so far.
        """
        for result in (x for own in hosts.gather(self._results) for x in own):
            self.pool = after_game(self.pool, result, self._config.past_eta)
            self._games += 1
            self._points += 0.5 + 0.5 * np.sign(result.reward)
        self._results = []
        self._iterations += 1
        if not self._config.frozen and self._iterations % self._config.past_every == 0:
            self._join(params, env_steps)

    def _join(self, params: Any, env_steps: int) -> None:
        copied = jax.tree.map(np.asarray, learner.snapshot(params))
        most = self._config.past_most
        self.pool = join(self.pool, copied, env_steps, self._joined, most)
        self._joined += 1

    def metrics(self) -> dict[str, float]:
        """Returns numbers for a line of the log; the score is of the games since the last line."""
        quality = [x.quality for x in self.pool]
        score = self._points / self._games if self._games else float("nan")
        self._games = self._points = 0.0
        return {
            "opponents/past_selves": float(len(self.pool)),
            "opponents/score": score,
            "opponents/quality_range": max(quality) - min(quality),
        }

    def state(self) -> tuple[Any, dict[str, Any]]:
        """Returns the past selves for a checkpoint: their parameters, and the rest as JSON."""
        params = [x.params for x in self.pool]
        about = [x._replace(params=None)._asdict() for x in self.pool]
        meta = {"past_selves": about, "iterations": self._iterations, "joined": self._joined}
        return {str(i): x for i, x in enumerate(params)}, meta

    def restore(self, tree: Any, meta: dict[str, Any]) -> None:
        """Replaces the past selves by those that state() returned."""
        self.pool = tuple(
            PastSelf(**about)._replace(params=tree[str(i)])
            for i, about in enumerate(meta["past_selves"])
        )
        self._iterations, self._joined = meta["iterations"], meta["joined"]
