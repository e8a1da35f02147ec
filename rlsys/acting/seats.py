"""Seats past selves (opponents.py) in some of an actor's games, and acts for all rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlsys.acting.opponents import PastSelf, Pool, Result, SelfPlay, probabilities
from rlsys.types import Policy, Timestep

SIDES = 2
# What fold_in takes for the keys of past selves. A policy splits its key, which gives what fold_in
# gives for 0, 1 and so on; this is none of these.
PAST = 2**31


class Seats:
    """Seats the newest policy and past selves in an actor's games, and acts for all of them.

    The last of the actor's games are against past selves. In every other one of these the past self
    is player 1 and in the rest player 0, or all players of the second team and of the first. These
    games are in groups, one for each past self that is in play. So that no game changes its
    opponent before it ends, a group holds two past selves, an older and a newer one. A game that
    begins takes the newer one. Once no game plays the older one any more, it is replaced by a past
    self that is drawn anew, which is then the newer one.

    Attributes:
      learns: [B] bool, whether the newest policy plays the row, so that it may be learned from.
      against_past: [B] bool, whether the newest policy plays the row against a past self.
    """

    def __init__(
        self,
        policy: Policy,
        num_rows: int,
        config: SelfPlay,
        past_policy: Policy | None = None,
        team_size: int = 1,
    ):
        """Seats an actor's games.

        Args:
          policy: the Policy that acts for the newest parameters.
          num_rows: B. The rows of a game are neighbours: first one side's, then the other's.
          config: the share of games that past selves play, and how many at once.
          past_policy: the Policy that acts for the past selves; None if it is `policy`.
          team_size: the number of rows of a side.

        Raises:
          UserError: past_share of the games rounds to none.
        """
        rows = np.arange(num_rows).reshape(-1, SIDES, team_size)
        self._groups, size = config.groups(len(rows))
        game = np.arange(len(rows) - self._groups * size, len(rows))
        self._past = rows[game, 1 - game % SIDES].ravel()
        own = rows[game, game % SIDES]
        self._first = own[:, 0]  # the learner's first row in each of these games
        self._games, self._team_size = (self._groups, size), team_size
        self.learns = np.ones(num_rows, bool)
        self.learns[self._past] = False
        self.against_past = np.zeros(num_rows, bool)
        self.against_past[own] = True
        self._results: list[Result] = []
        theirs = past_policy or policy
        past = self._past.tobytes()
        self._act = _compiled(policy.apply, theirs.apply, past, self._groups)
        self._own_arrays = policy.own
        self.clear()

    def clear(self) -> None:
        """Forgets the past selves in play and the running games, which begin anew. A game whose end
        the next timestep shows is not counted, as who played it is forgotten."""
        self._forgot = True
        self._sets: Any = None  # [groups, 2, ...] parameters of each group's two past selves
        self._newer = np.zeros(self._groups, int)  # which of the two is the newer one
        self._numbers = np.zeros((self._groups, 2), int)  # PastSelf.number
        self._chances = np.ones((self._groups, 2))  # Result.chance
        self._plays = np.zeros(self._games, int)  # which of its group's two plays a game

    def meet(self, pool: Pool, key: jax.Array) -> None:
        """Draws a new past self for each group in which all games play the newer one.

        Args:
          pool: the past selves to draw from.
          key: the actor's jax key, which seeds the draw.
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
        """Acts for all rows, as a Policy does, and records the games that have ended."""
        decided = timestep.discount[self._first] == 0  # a game that a time limit cuts is a draw
        over = (decided | timestep.truncated[self._first]) & ~timestep.first[self._first]
        if self._forgot:
            over, self._forgot = np.zeros_like(over), False
        for i in np.flatnonzero(over):
            group, game = divmod(i, self._plays.shape[1])
            who = group, self._plays[group, game]
            reward = float(timestep.reward[self._first[i]]) if decided[i] else 0.0
            self._results.append(Result(int(self._numbers[who]), float(self._chances[who]), reward))
        begins = np.asarray(timestep.first)[self._first].reshape(self._games)
        self._plays = np.where(begins, self._newer[:, None], self._plays)
        plays = self._plays.repeat(self._team_size, axis=1)  # [groups, rows of each]
        return self._act(self._own_arrays, params, self._sets, plays, timestep, core_state, key)

    def pop_results(self) -> list[Result]:
        """Returns the results of games against past selves since the last call."""
        results, self._results = self._results, []
        return results


@jax.jit
def _put(sets: Any, params: Any, group: int, place: int) -> Any:
    return jax.tree.map(lambda x, new: x.at[group, place].set(new), sets, params)


@functools.cache
def _compiled(apply: Callable, their_apply: Callable, past: bytes, groups: int) -> Callable:
    """Compiles _all_rows, once for all actors; past: the rows of past selves, as bytes."""
    return jax.jit(_all_rows(apply, their_apply, np.frombuffer(past, int), groups))


def _all_rows(apply: Callable, their_apply: Callable, past: np.ndarray, groups: int) -> Callable:
    """Returns a function that acts for all rows; those in `past` are played by past selves."""

    def grouped(x):
        x = jax.numpy.asarray(x)[past]
        return x.reshape(groups, len(past) // groups, *x.shape[1:])

    def act(own, params, sets, plays, timestep, core_state, key):
        keys = jax.random.split(jax.random.fold_in(key, PAST), (groups, 2))
        action, aux, after, key = apply(own, params, timestep, core_state, key)
        rows = jax.tree.map(grouped, (timestep, core_state))
        of_group = jax.vmap(their_apply, in_axes=(None, 0, None, None, 0))  # both of a group
        theirs, _, their_state, _ = jax.vmap(of_group, in_axes=(None, 0, 0, 0, 0))(
            own, sets, *rows, keys
        )

        def choose(x):  # [groups, 2, rows, ...] -> [rows of all groups, ...]
            first, second = x[:, 0], x[:, 1]
            which = plays.reshape(*plays.shape, *(1,) * (first.ndim - 2))
            x = jax.numpy.where(which == 0, first, second)
            return x.reshape(len(past), *x.shape[2:])

        def put(mine, other):
            return mine.at[past].set(choose(other))

        action, after = jax.tree.map(put, (action, after), (theirs, their_state))
        return action, aux, after, key

    return act
