"""Health warns when a run goes wrong, by the checks of checks.py, and counts dead hidden units.

A number is in danger while it is beyond its level on most of the latest lines of the log: those of
the share of the run that its check names, and three at least. A warning begins once the danger has
lasted for that share of the run and most of the last quarter of those lines have it. So odd lines
change nothing, and it matters little how often a line is written.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys import networks
from rlsys.learning import hosts
from rlsys.running.checks import CHECKS, Check, Line
from rlsys.types import Trajectory

MOST_OF_IT = 0.8  # share of a run after which no check waits for a new agent to get well
LINES = 3  # least number of lines that a number must be beyond its level for a warning
ENOUGH = 5  # lines of a log after which it can be said that there was no warning


class Judged(NamedTuple):
    """Describes a line of the log as one check sees it."""

    after: int  # env_steps of the line before it
    env_steps: int
    beyond: bool  # whether the number was beyond its level
    told: float  # the number as the warning shows it


@dataclasses.dataclass
class Danger:
    """Describes a time in which most lines had a number beyond its level."""

    begin: int  # env_steps of the first line beyond the level
    end: int  # env_steps of the last such line
    lines: int  # beyond the level
    told: float  # the number that the last such line had
    warned: bool = False  # whether it lasted long enough for a warning

    def describe(self, check: Check, end: str) -> str:
        """Say in words from when to when, and how bad; end: when it ended, in words."""
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
        # By name, of checks whose numbers have been seen: the latest lines, and the dangers so far.
        self._latest: dict[str, collections.deque[Judged]] = {}
        self._dangers: dict[str, list[Danger]] = {}
        self._open: set[str] = set()  # names of checks whose last danger goes on
        self._lines = 0  # taken so far
        self._at = 0  # env_steps of the last line

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
                beyond = not check.below <= number <= check.above
                told = line[check.told] if check.told else number
                judged = Judged(self._at, line["env_steps"], beyond, told)
                self._judge(check, judged, config.env_steps)
        self._at = line["env_steps"]
        warning = self.warnings()
        return {f"health/{name}": float(name in warning) for name in self._dangers}

    def _config_at(self, env_steps: int) -> Any:
        """Return the Config that a line of the log was written with."""
        return next(config for until, config in self._configs if env_steps <= until)

    def _judge(self, check: Check, line: Judged, total: int) -> None:
        """Take a check's next line; total: the environment steps of the whole run."""
        dangers = self._dangers.setdefault(check.name, [])
        latest = self._latest.setdefault(check.name, collections.deque())
        latest.append(line)
        while len(latest) > LINES and latest[0].env_steps < line.env_steps - check.lasts * total:
            latest.popleft()
        beyond = [x for x in latest if x.beyond]
        if 2 * len(beyond) <= len(latest):
            self._open.discard(check.name)
            return
        if check.name not in self._open:
            if beyond[0].after > check.begins_by * total:
                return
            self._open.add(check.name)
            if not dangers or dangers[-1].end < beyond[0].env_steps:  # else the last one goes on
                dangers.append(Danger(beyond[0].env_steps, 0, len(beyond) - line.beyond, 0.0))
        danger = dangers[-1]
        danger.lines += line.beyond
        danger.end, danger.told = beyond[-1].env_steps, beyond[-1].told
        late = danger.end >= min(check.not_before, MOST_OF_IT * total)
        lasts = danger.end - danger.begin >= check.lasts * total
        recent = [x.beyond for x in latest][-max(LINES, len(latest) // 4) :]
        still = 2 * sum(recent) > len(recent)  # not one odd line after most of it is over
        danger.warned |= late and lasts and still and danger.lines >= LINES

    def warnings(self) -> dict[str, str]:
        """Return a sentence for each check that warns now, by its name."""
        return {
            check.name: f"{check.words} {danger.describe(check, 'steps on')}"
            for check in CHECKS
            if check.name in self._open and (danger := self._dangers[check.name][-1]).warned
        }

    @property
    def warned(self) -> bool:
        """Whether there was a warning so far."""
        return any(danger.warned for dangers in self._dangers.values() for danger in dangers)

    def summary(self) -> str:
        """Summarise the whole run in one line: each warning that there was, and when; or that there
        was none, or that the log is too short to tell."""
        found, now = [], self.warnings()
        for check in CHECKS:
            dangers = [danger for danger in self._dangers.get(check.name, []) if danger.warned]
            ends = [f"to {danger.end:,} steps" for danger in dangers]
            if check.name in now:
                ends[-1] = "steps on"
            when = [danger.describe(check, end) for danger, end in zip(dangers, ends, strict=True)]
            if when:
                found.append(f"{check.words} {' and '.join(when)}")
        if not found and self._lines < ENOUGH:
            lines = "1 line" if self._lines == 1 else f"{self._lines} lines"
            return f"health: not judged, because the log has {lines} and not {ENOUGH}"
        return f"health: {'; '.join(found) or 'no warnings'}"


def dead_units(
    network: networks.AgentNetwork, params: Any, trajectories: Iterable[Trajectory]
) -> dict[str, float]:
    """Return the share of hidden units (channels of convolutions) that are 0 on whole unrolls.

    A unit counts as dead if it is 0 in the unrolls of all processes. It is collective, so all must
    call it.

    Args:
      network: the network that acted.
      params: the learner's parameters, copied to one device.
      trajectories: Trajectories [T + 1, B, ...] of this process, one at least: the latest of each
        task, as a unit may serve one of them alone.

    Returns:
      {"dead_units": the share}, or nothing if the network has no unit that can be dead.
    """
    alive = []
    for trajectory in trajectories:
        inputs = jax.device_put((trajectory.steps, trajectory.action, trajectory.core_state))
        alive.append(np.asarray(_alive_units(network)(params, *inputs)))
    if not alive[0].size:
        return {}
    of_all = hosts.gather(np.any(alive, axis=0))
    return {"dead_units": float(np.mean(~np.any(of_all, axis=0)))}


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
