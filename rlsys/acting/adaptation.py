"""The ranges of a run's physics, where they widen as the policy learns (envs/randomise/adapt.py).

As with past selves (opponents.py), every actor begins an unroll with the ranges of the moment at
which it is asked for, and what it played at their ends counts when the unroll is handed over. So a
run repeats itself to the bit.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlsys.envs.options import Task
from rlsys.envs.randomise import adapt
from rlsys.envs.randomise.physics import numbers_at, physics_of, starting_shares
from rlsys.envs.randomise.variants import plain
from rlsys.learning import hosts
from rlsys.types import UserError


class Adaptation:
    """The ranges of a run: where they are, and what a checkpoint holds of them.

    Attributes:
      parameters: one for each number that is drawn, with bounded words.
      ranges: of them; never changed in place, so whoever has read them may keep them.
    """

    def __init__(self, task: Task):
        """Begins with ranges that are points, the task as it is.

        Raises:
          UserError: the task's physics cannot be changed, or a word fits nothing.
        """
        physics = physics_of(plain(task), False)
        self.parameters = physics.parameters
        self._given = task.randomise
        self.ranges = adapt.begin(starting_shares(physics))
        self._trials: list[adapt.Trial] = []
        self._returns: list[float] = []  # at boundaries, since the last line of the log

    def add(self, trials: Sequence[adapt.Trial]) -> None:
        """Takes what this process's actors played at boundaries."""
        self._trials += trials

    def drop(self) -> None:
        """Forgets what was added and not yet counted."""
        self._trials = []

    def update(self) -> list[adapt.Decision]:
        """Moves boundaries by what was added; collective, so all processes must call it."""
        given, decisions = self._given, []
        low, high = given.adapt_threshold_low, given.adapt_threshold_high
        assert low is not None and high is not None, "Randomise has checked it"
        for trial in (x for own in hosts.gather(self._trials) for x in own):
            self._returns += trial.returns
            self.ranges, decision = adapt.after(
                self.ranges,
                trial,
                threshold_low=low,
                threshold_high=high,
                episodes=given.adapt_episodes,
                step=given.adapt_step,
            )
            if decision:
                decisions.append(decision)
        self._trials = []
        return decisions

    def numbers(self, index: int) -> tuple[float, float]:
        """Returns the low and the high end of a parameter's range, as numbers that are drawn."""
        low, high = (self._number(index, share) for share in self.ranges.shares[index])
        return low, high

    def whole(self, index: int) -> tuple[float, float]:
        """Returns the ends that a parameter's range may reach."""
        return self._number(index, 0.0), self._number(index, 1.0)

    def _number(self, index: int, share: float) -> float:
        (number,) = numbers_at([self.parameters[index]], np.array([share])).tolist()
        return number

    def metrics(self) -> dict[str, float]:
        """Returns numbers for a line of the log; those of episodes are since the last line."""
        count = len(self._returns)
        mean = math.fsum(self._returns) / count if count else math.nan
        self._returns = []
        return {
            "randomise/entropy": adapt.entropy(self.ranges),
            "randomise/width": adapt.width(self.ranges),
            "randomise/boundary_episodes": float(count),
            "randomise/boundary_return": mean,
        }

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds, as JSON."""
        return {"words": self._words(), **self.ranges._asdict()}

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes on from what state() gave.

        Raises:
          UserError: other physics are drawn now.
        """
        if meta["words"] != self._words():
            raise UserError(
                f"its ranges were adapted for {_listed(meta['words'])}, and not for "
                f"{_listed(self._words())}"
            )
        self.ranges = adapt.Ranges(
            tuple(meta["start"]),
            tuple((low, high) for low, high in meta["shares"]),
            tuple((tuple(low), tuple(high)) for low, high in meta["returns"]),
        )

    def _words(self) -> list[str]:
        return [f"{x.name}={x.word.how}:{x.word.numbers}" for x in self.parameters]


def _listed(words: list[str]) -> str:
    more = [f"{len(words) - 3} more"] if len(words) > 3 else []
    return ", ".join(words[:3] + more)
