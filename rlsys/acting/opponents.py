"""Past selves that the newest policy plays against in games of two players.

Berner et al. 2019, "Dota 2 with Large Scale Deep Reinforcement Learning",
https://arxiv.org/abs/1912.06680, section 3.3 and appendix N: most games are against the current
self; in the others a past self plays one side, drawn by its quality, which falls with each game
that it loses (losses/opponent_quality.py). Those rows are not learned from.

Departures: a quality falls by the probability with which the past self was drawn, not by the
present one. A few past selves are in play at a time, each in the same number of games, so that one
vmapped call acts for all. A game keeps its opponent to its end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.learning import hosts, learner
from rlsys.replay import memory
from rlsys.types import Policy, Timestep, UserError

PLAYERS = 2


@dataclasses.dataclass(frozen=True)
class SelfPlay:
    """Says whom the learner plays in a game of two players."""

    past_share: float = 0.2
    """The share of games in which a past self plays one side; 0 for none."""
    past_every: int = 10
    """A copy of the policy joins the past selves after this many unrolls learned from."""
    past_most: int = 50
    """The number of past selves that are kept. When there is one more, the one of the lowest
    quality leaves, the oldest of them if several have it."""
    past_at_once: int = 4
    """The number of past selves that an actor plays against at a time."""
    past_eta: float = 0.01
    """The step by which a past self's quality falls when it loses a game, before it is divided by
    its probability and the number of past selves; 0 draws all alike."""

    def __post_init__(self):
        if not 0.0 <= self.past_share <= 1.0:
            raise UserError(f"past_share must lie in [0, 1], not {self.past_share}")
        for name in ("past_every", "past_most", "past_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0.0 <= self.past_eta < float("inf"):
            raise UserError(f"past_eta must be 0 or more, not {self.past_eta}")

    def groups(self, num_rows: int) -> tuple[int, int]:
        """The past selves that an actor of so many rows plays at once, and the games of each.

        Raises:
          UserError: the past selves' share comes to less than one game.
        """
        games = num_rows // PLAYERS
        past = round(self.past_share * games)
        if not past:
            raise UserError(
                f"past_share {self.past_share} of an actor's {games} games comes to none: it must "
                f"be 0 or larger, or num_envs larger"
            )
        groups = min(self.past_at_once, past)
        return groups, past // groups


class PastSelf(NamedTuple):
    """A copy of the policy as it was."""

    number: int  # counts from 0 in the order of joining
    env_steps: int  # that the run had played
    params: Any  # numpy
    quality: float  # q
    games: int = 0  # of those that ended
    won: int = 0  # by the learner
    drawn: int = 0


class Result(NamedTuple):
    """How a game against a past self ended."""

    number: int  # of the past self
    chance: float  # N p_i when it was drawn from N
    reward: float  # of the learner's, in the last step


Pool = tuple[PastSelf, ...]


def join(pool: Pool, params: Any, env_steps: int, number: int, most: int) -> Pool:
    """Adds a past self with the pool's highest quality; the lowest leaves if they are too many."""
    quality = max((x.quality for x in pool), default=0.0)
    pool = (*pool, PastSelf(number, env_steps, params, quality))
    if len(pool) <= most:
        return pool
    leaves = min(pool[:-1] or pool, key=lambda x: (x.quality, x.number))
    return tuple(x for x in pool if x is not leaves)


def probabilities(pool: Pool) -> np.ndarray:
    """How likely each past self is drawn: [N] float64, as losses/opponent_quality.py says."""
    quality = np.array([x.quality for x in pool])
    weight = np.exp(quality - quality.max())
    return weight / weight.sum()


def after_game(pool: Pool, result: Result, eta: float) -> Pool:
    """Counts a game, and lowers the past self's quality if it lost it.

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


class Opponents:
    """The past selves of a run: who they are, and what a checkpoint holds of them.

    Attributes:
      pool: the past selves; never changed in place, so whoever has read it may keep it.
    """

    def __init__(self, config: SelfPlay, params: Any):
        """Begins with the untrained policy.

        Args:
          params: the learner's.

        Raises:
          UserError: so many past selves do not fit the memory.
        """
        self._config = config
        needed = config.past_most * sum(x.nbytes for x in jax.tree.leaves(params))
        free = memory.free_bytes()
        if needed > free:
            raise UserError(
                f"{config.past_most} past selves need {needed / 1e6:,.0f} MB, and "
                f"{free / 1e6:,.0f} MB are free: past_most must be smaller"
            )
        self._results: list[Result] = []
        self._iterations = self._joined = 0
        self._games = self._points = 0.0  # since the last line of the log
        self.pool: Pool = ()
        self._join(params, 0)

    def add(self, results: list[Result]) -> None:
        """Takes the ends of games that this process's actors played."""
        self._results += results

    def learned(self, params: Any, env_steps: int) -> None:
        """Counts an unroll that was learned from; collective, so all processes must call it.

        Args:
          params: the learner's, after it.
          env_steps: played so far.
        """
        for result in (x for own in hosts.gather(self._results) for x in own):
            self.pool = after_game(self.pool, result, self._config.past_eta)
            self._games += 1
            self._points += 0.5 + 0.5 * np.sign(result.reward)
        self._results = []
        self._iterations += 1
        if self._iterations % self._config.past_every == 0:
            self._join(params, env_steps)

    def _join(self, params: Any, env_steps: int) -> None:
        copied = jax.tree.map(np.asarray, learner.snapshot(params))
        most = self._config.past_most
        self.pool = join(self.pool, copied, env_steps, self._joined, most)
        self._joined += 1

    def metrics(self) -> dict[str, float]:
        """Numbers for a line of the log, of the games since the last line."""
        quality = [x.quality for x in self.pool]
        score = self._points / self._games if self._games else float("nan")
        self._games = self._points = 0.0
        return {
            "opponents/past_selves": float(len(self.pool)),
            "opponents/score": score,
            "opponents/quality_range": max(quality) - min(quality),
        }

    def state(self) -> tuple[Any, dict[str, Any]]:
        """What a checkpoint holds: a tree of arrays, and the rest as JSON."""
        params = [x.params for x in self.pool]
        about = [x._replace(params=None)._asdict() for x in self.pool]
        meta = {"past_selves": about, "iterations": self._iterations, "joined": self._joined}
        return {str(i): x for i, x in enumerate(params)}, meta

    def restore(self, tree: Any, meta: dict[str, Any]) -> None:
        """Goes on from what state() gave."""
        self.pool = tuple(
            PastSelf(**about)._replace(params=tree[str(i)])
            for i, about in enumerate(meta["past_selves"])
        )
        self._iterations, self._joined = meta["iterations"], meta["joined"]


class Seats:
    """Who sits where in an actor's games, and a policy that plays for all of them.

    The last games are against past selves, who play player 1 in every other one and player 0 in the
    rest. Their rows are in groups, one for each past self at once. A group holds two past selves,
    an older and a newer one; a game that begins takes the newer one, and once no game plays the
    older one, a newly drawn one takes its place.
    """

    def __init__(self, policy: Policy, num_rows: int, config: SelfPlay):
        """Seats an actor's games.

        Args:
          policy: the actor's, of the learner's own seats.
          num_rows: B, two for each game.

        Raises:
          UserError: the past selves' share comes to less than one game.
        """
        games = num_rows // PLAYERS
        self._groups, size = config.groups(num_rows)
        game = np.arange(games - self._groups * size, games)
        self._past = PLAYERS * game + 1 - game % PLAYERS
        self._own = PLAYERS * game + game % PLAYERS
        self.learns = np.ones(num_rows, bool)  # [B] the learner's policy plays the row
        self.learns[self._past] = False
        self.against_past = np.zeros(num_rows, bool)  # [B] the learner's, against a past self
        self.against_past[self._own] = True
        self._results: list[Result] = []
        self._act = _compiled(policy.apply, self._past.tobytes(), self._groups)
        self._own_arrays = policy.own
        self.clear()

    def clear(self) -> None:
        """Forgets the games; all begin anew."""
        self._sets: Any = None  # [groups, 2, ...] parameters
        self._newer = np.zeros(self._groups, int)  # which of a group's two
        self._numbers = np.zeros((self._groups, 2), int)  # of the past selves
        self._chances = np.ones((self._groups, 2))  # as Result has them
        shape = self._groups, len(self._past) // self._groups
        self._plays = np.zeros(shape, int)  # which of its group's two plays in a game

    def meet(self, pool: Pool, key: jax.Array) -> None:
        """Draws past selves for the groups in which all games play the newer one.

        Args:
          pool: to draw from.
          key: jax key of the actor, by which they are drawn.
        """
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        chance = probabilities(pool)
        fresh = self._sets is None
        drawn: list[tuple[int, int, PastSelf]] = []
        for group in range(self._groups):
            free = (self._plays[group] == self._newer[group]).all()
            index = random.choice(len(pool), p=chance)
            if fresh or free:
                place = 0 if fresh else 1 - self._newer[group]
                drawn.append((group, place, pool[index]))
                self._newer[group], self._numbers[group, place] = place, pool[index].number
                self._chances[group, place] = len(pool) * chance[index]
        if fresh:
            both = [(x.params, x.params) for _, _, x in drawn]
            self._sets = jax.tree.map(
                lambda *xs: jax.numpy.asarray(np.stack(xs).reshape(-1, 2, *xs[0].shape)),
                *(x for pair in both for x in pair),
            )
            return
        for group, place, who in drawn:
            self._sets = _put(self._sets, who.params, group, place)

    def __call__(self, params: Any, timestep: Timestep, core_state: Any, key: jax.Array):
        """Acts for all rows, as a Policy does."""
        over = (timestep.discount[self._own] == 0) & ~timestep.first[self._own]
        for i in np.flatnonzero(over):
            group, game = divmod(i, self._plays.shape[1])
            who = group, self._plays[group, game]
            reward = float(timestep.reward[self._own[i]])
            self._results.append(Result(int(self._numbers[who]), float(self._chances[who]), reward))
        begins = np.asarray(timestep.first)[self._past].reshape(self._plays.shape)
        self._plays = np.where(begins, self._newer[:, None], self._plays)
        return self._act(
            self._own_arrays, params, self._sets, self._plays, timestep, core_state, key
        )

    def pop_results(self) -> list[Result]:
        """Returns the games against past selves that have ended since the last call."""
        results, self._results = self._results, []
        return results


@jax.jit
def _put(sets: Any, params: Any, group: int, place: int) -> Any:
    return jax.tree.map(lambda x, new: x.at[group, place].set(new), sets, params)


_programs: dict[Any, Callable] = {}


def _compiled(apply: Callable, past: bytes, groups: int) -> Callable:
    """A policy of all rows: those in `past` are played by past selves, in so many groups."""
    key = apply, past, groups
    if key not in _programs:
        _programs[key] = jax.jit(_all_rows(apply, np.frombuffer(past, int), groups))
    return _programs[key]


def _all_rows(apply: Callable, past: np.ndarray, groups: int) -> Callable:
    def grouped(x):
        x = jax.numpy.asarray(x)[past]
        return x.reshape(groups, len(past) // groups, *x.shape[1:])

    def act(own, params, sets, plays, timestep, core_state, key):
        keys = jax.random.split(jax.random.fold_in(key, 1), (groups, 2))
        action, aux, after, key = apply(own, params, timestep, core_state, key)
        rows = jax.tree.map(grouped, (timestep, core_state))
        of_group = jax.vmap(apply, in_axes=(None, 0, None, None, 0))  # both of a group
        theirs, _, their_state, _ = jax.vmap(of_group, in_axes=(None, 0, 0, 0, 0))(
            own, sets, *rows, keys
        )

        def choose(x):  # [groups, 2, games, ...] -> [games of all groups, ...]
            first, second = x[:, 0], x[:, 1]
            which = plays.reshape(*plays.shape, *(1,) * (first.ndim - 2))
            x = jax.numpy.where(which == 0, first, second)
            return x.reshape(len(past), *x.shape[2:])

        def put(mine, other):
            return mine.at[past].set(choose(other))

        action, after = jax.tree.map(put, (action, after), (theirs, their_state))
        return action, aux, after, key

    return act
