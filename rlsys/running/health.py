"""Health warns when a run goes wrong, by the checks of checks.py, and counts dead hidden units.

A warning begins once a number has been beyond its level on several lines of the log in a row and
for a share of the run. It is over once the number has been within its level on as many lines: one
odd line changes nothing.
"""

import functools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys import networks
from rlsys.learning import hosts
from rlsys.running.checks import CHECKS, Check, Line
from rlsys.types import Trajectory

MOST_OF_IT = 0.8  # share of a run after which no check waits for a new agent to get well
LINES = 3  # least number of lines in a row after which a check warns, or stops warning


class Span(NamedTuple):
    """Describes lines in a row on which a number was beyond its level."""

    begin: int  # env_steps of the first line
    end: int  # env_steps of the last line
    lines: int
    told: float  # the number that the last line had
    fine: int = 0  # lines since the last one on which the number was within its level

    def describe(self, check: Check, end: str) -> str:
        """Say in words from when to when, and how bad; end: when the span ended, in words."""
        return f"from {self.begin:,} {end} ({check.shows} {self.told:.2g})"


class Health:
    """Takes the lines of a run's log in order, and knows which checks warn and since when.

    It depends on the lines alone: a resumed run that gives it the kept lines again warns like a run
    that was never interrupted.
    """

    def __init__(self, config: Any, changes: Sequence[dict[str, Any]] = ()):
        """Start without lines.

        Args:
          config: the Config of the run.
          changes: the records of the fields that were changed on resume, as config.json has them. A
            line from before a change is judged by the fields as they were then.
        """
        self._configs: list[tuple[float, Any]] = [(math.inf, config)]  # (until which step, Config)
        for record in reversed(changes):
            before = {name: x["before"] for name, x in record["fields"].items()}
            config = SimpleNamespace(**vars(config) | before)
            self._configs.insert(0, (record["env_steps"], config))
        self._first: Line = {}  # each number's first known value
        self._spans: dict[str, list[Span]] = {}  # by name, of checks whose numbers have been seen
        self._open: set[str] = set()  # names of checks whose last span goes on
        self._lines = 0  # taken so far

    def observe(self, line: Line) -> dict[str, float]:
        """Take a line, and return health/<name>, 1. while that check warns, else 0., of each check
        whose number some line so far had."""
        self._lines += 1
        for name, value in line.items():
            if value is not None:
                self._first.setdefault(name, value)
        config = self._config_at(line["env_steps"])
        for check in CHECKS:
            number = check.number(line, config, self._first)
            if number is not None:
                self._judge(check, number, line)
        warning = {check.name for check in self._warning()}
        return {f"health/{name}": float(name in warning) for name in self._spans}

    def _config_at(self, env_steps: int) -> Any:
        """Return the Config that a line of the log was written with."""
        return next(config for until, config in self._configs if env_steps <= until)

    def _judge(self, check: Check, number: float, line: Line) -> None:
        spans, env_steps = self._spans.setdefault(check.name, []), line["env_steps"]
        told = line[check.told] if check.told else number
        if check.below <= number <= check.above:
            self._close(check)
        elif check.name in self._open:
            spans[-1] = Span(spans[-1].begin, env_steps, spans[-1].lines + 1, told)
        elif env_steps <= check.begins_by * self._config_at(env_steps).env_steps:
            self._open.add(check.name)
            spans.append(Span(env_steps, env_steps, 1, told))

    def _close(self, check: Check) -> None:
        """Take a number within its level: one ends a span, but only LINES of them a warning."""
        if check.name not in self._open:
            return
        spans = self._spans[check.name]
        spans[-1] = spans[-1]._replace(fine=spans[-1].fine + 1)
        if not self._long(check, spans[-1]) or spans[-1].fine == LINES:
            self._open.discard(check.name)

    def _long(self, check: Check, span: Span) -> bool:
        """Tell whether the span is long enough, and late enough, for a warning."""
        env_steps = self._config_at(span.end).env_steps
        started = span.end >= min(check.not_before, MOST_OF_IT * env_steps)
        return started and span.lines >= LINES and span.end - span.begin >= check.lasts * env_steps

    def _warning(self) -> list[Check]:
        """Return the checks that warn now."""
        return [
            check
            for check in CHECKS
            if check.name in self._open and self._long(check, self._spans[check.name][-1])
        ]

    def warnings(self) -> dict[str, str]:
        """Return a sentence for each check that warns now, by its name."""
        return {
            check.name: f"{check.words} {self._spans[check.name][-1].describe(check, 'steps on')}"
            for check in self._warning()
        }

    def summary(self) -> str:
        """Summarise the whole run in one line: each warning that there was, and when; or that the
        log is too short for any."""
        found, now = [], self._warning()
        for check in CHECKS:
            spans = [s for s in self._spans.get(check.name, []) if self._long(check, s)]
            ends = [f"to {span.end:,} steps" for span in spans]
            if check in now:
                ends[-1] = "steps on"
            when = [span.describe(check, end) for span, end in zip(spans, ends, strict=True)]
            if when:
                found.append(f"{check.words} {' and '.join(when)}")
        if self._lines < LINES:
            lines = "1 line" if self._lines == 1 else f"{self._lines} lines"
            return f"health: not judged, because the log has {lines} and a check needs {LINES}"
        return f"health: {'; '.join(found) or 'no warnings'}"


def dead_units(
    network: networks.AgentNetwork, params: Any, trajectory: Trajectory
) -> dict[str, float]:
    """Return the share of hidden units (channels of convolutions) that are 0 on a whole unroll.

    A unit counts as dead if it is 0 in the unrolls of all processes. It is collective, so all must
    call it.

    Args:
      network: the network that acted.
      params: the learner's parameters, copied to one device.
      trajectory: Trajectory [T + 1, B, ...] of this process.

    Returns:
      {"dead_units": the share}, or nothing if the network has no unit that can be dead.
    """
    inputs = jax.device_put((trajectory.steps, trajectory.action, trajectory.core_state))
    alive = np.asarray(_alive_units(network)(params, *inputs))
    if not alive.size:
        return {}
    return {"dead_units": float(np.mean(~np.any(hosts.gather(alive), axis=0)))}


@functools.cache
def _alive_units(network: networks.AgentNetwork) -> Callable:
    return jax.jit(functools.partial(networks.alive_units, network))


def first_not_finite(metrics: dict[str, np.ndarray]) -> tuple[str, int] | None:
    """Return the name of the metric that was first not finite, and the number of updates after it.

    metrics: by name, [N] of N updates.

    Returns:
      None if all are finite.
    """
    wrong = {
        name: int(np.argmin(finite))
        for name, x in metrics.items()
        if not (finite := np.isfinite(x)).all()
    }
    if not wrong:
        return None
    name = min(wrong, key=lambda name: wrong[name])
    return name, len(metrics[name]) - 1 - wrong[name]
