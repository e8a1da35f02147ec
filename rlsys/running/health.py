"""Says when a run is unwell, by the checks of checks.py, and which hidden units are dead.

A number must be beyond its level on several lines of the log in a row, and for a share of the run,
before there is a warning, and within it on as many before the warning is over: one odd line changes
nothing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys import networks
from rlsys.learning import hosts, learner
from rlsys.running.checks import CHECKS, Check, Line
from rlsys.types import Trajectory

LINES = 3  # of the log in a row, at least, before a check warns, and before it no longer does


class Span(NamedTuple):
    """Lines on which a number was beyond its level."""

    begin: int  # env_steps of the first line
    end: int  # env_steps of the last line
    lines: int
    told: float  # by the last line
    fine: int = 0  # lines since then on which the number was within its level

    def describe(self, check: Check, end: str) -> str:
        """end: when the span ended, in words."""
        return f"from {self.begin:,} {end} ({check.shows} {self.told:.2g})"


class Health:
    """Takes the lines of a run's log in order, and knows what is unwell and since when.

    It depends on the lines alone: a resumed run that takes its lines again warns as the run that
    was never interrupted.
    """

    def __init__(self, config: Any):
        """config: of the run."""
        self._config = config
        self._first: Line = {}  # each number's first known value
        self._spans: dict[str, list[Span]] = {}  # by check, of those that have been judged
        self._open: set[str] = set()  # checks whose last span goes on

    def observe(self, line: Line) -> dict[str, float]:
        """Takes a line; gives health/<name> of each check that the run has numbers for: 1. while it
        warns, else 0."""
        for name, value in line.items():
            if value is not None:
                self._first.setdefault(name, value)
        for check in CHECKS:
            number = check.number(line, self._config, self._first)
            if number is not None:
                self._judge(check, number, line)
        warning = {check.name for check in self._warning()}
        return {f"health/{name}": float(name in warning) for name in self._spans}

    def _judge(self, check: Check, number: float, line: Line) -> None:
        spans, env_steps = self._spans.setdefault(check.name, []), line["env_steps"]
        told = line[check.told] if check.told else number
        if check.below <= number <= check.above:
            self._close(check)
        elif check.name in self._open:
            spans[-1] = Span(spans[-1].begin, env_steps, spans[-1].lines + 1, told)
        elif env_steps <= check.begins_by * self._config.env_steps:
            self._open.add(check.name)
            spans.append(Span(env_steps, env_steps, 1, told))

    def _close(self, check: Check) -> None:
        """Takes a number within its level: the span is over, a warning only after several."""
        if check.name not in self._open:
            return
        spans = self._spans[check.name]
        spans[-1] = spans[-1]._replace(fine=spans[-1].fine + 1)
        if not self._long(check, spans[-1]) or spans[-1].fine == LINES:
            self._open.discard(check.name)

    def _long(self, check: Check, span: Span) -> bool:
        """Whether it is long enough for a warning."""
        least = check.lasts * self._config.env_steps
        return span.lines >= LINES and span.end - span.begin >= least

    def _warning(self) -> list[Check]:
        """The checks that warn now."""
        return [
            check
            for check in CHECKS
            if check.name in self._open and self._long(check, self._spans[check.name][-1])
        ]

    def warnings(self) -> dict[str, str]:
        """What is unwell now: sentences, by name of the check."""
        return {
            check.name: f"{check.words} {self._spans[check.name][-1].describe(check, 'steps on')}"
            for check in self._warning()
        }

    def summary(self) -> str:
        """One line on the whole run: each warning that there was, and when."""
        found, now = [], self._warning()
        for check in CHECKS:
            spans = [s for s in self._spans.get(check.name, []) if self._long(check, s)]
            ends = [f"to {span.end:,} steps" for span in spans]
            if check in now:
                ends[-1] = "steps on"
            when = [span.describe(check, end) for span, end in zip(spans, ends, strict=True)]
            if when:
                found.append(f"{check.words} {' and '.join(when)}")
        return f"health: {'; '.join(found) or 'no warnings'}"


def dead_units(
    network: networks.AgentNetwork, params: Any, trajectory: Trajectory
) -> dict[str, float]:
    """The share of hidden units (of convolutions: channels) that are 0 all over an unroll of every
    process; collective, so all must call it.

    Args:
      params: of the learner, on all its devices.
      trajectory: Trajectory [T + 1, B, ...] of this process.
    """
    inputs = jax.device_put((trajectory.steps, trajectory.action, trajectory.core_state))
    alive = np.asarray(_alive_units(network)(learner.snapshot(params), *inputs))
    return {"dead_units": float(np.mean(~np.any(hosts.gather(alive), axis=0)))}


@functools.cache
def _alive_units(network: networks.AgentNetwork) -> Callable:
    return jax.jit(functools.partial(networks.alive_units, network))


def first_not_finite(metrics: dict[str, np.ndarray]) -> tuple[str, int] | None:
    """Of metrics [N] of N updates the first that is no finite number, and how many updates came
    after it; None if all are."""
    wrong = {
        name: int(np.argmin(finite))
        for name, x in metrics.items()
        if not (finite := np.isfinite(x)).all()
    }
    if not wrong:
        return None
    name = min(wrong, key=lambda name: wrong[name])
    return name, len(metrics[name]) - 1 - wrong[name]
