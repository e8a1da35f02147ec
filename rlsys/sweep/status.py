"""How the members of a sweep do: their logs, their returns, and which still learn."""

import math
from collections import deque
from typing import Any

import jax
import numpy as np
from rich.table import Table

from rlsys.running.health import Health, first_not_finite
from rlsys.running.log import Log
from rlsys.running.run import Run
from rlsys.sweep.members import Member

SHOWN = 20  # members of the live table, the best


class Status:
    """How each member does: its log, its returns, and whether it still learns."""

    def __init__(self, members: list[Member], logs: list[Log], healths: list[Health]):
        """logs and healths: of each member; the logs feed the healths."""
        self.members, self._logs, self.healths = members, logs, healths
        self._returns: list[deque] = [deque(maxlen=100) for _ in members]
        self.died: dict[int, int] = {}  # member -> learner step

    @property
    def alive(self) -> list[int]:
        """The members that still learn."""
        return [i for i in range(len(self.members)) if i not in self.died]

    def returns(self) -> list[float]:
        """Mean of each member's last 100 episodes; nan without any."""
        return [sum(x) / len(x) if x else math.nan for x in self._returns]

    def state(self) -> dict[str, Any]:
        """Give the part of a checkpoint's meta that restore takes."""
        return {"died": self.died, "returns": [list(x) for x in self._returns]}

    def restore(self, meta: dict[str, Any]) -> None:
        """Goes on from a checkpoint's meta."""
        self.died = {int(i): step for i, step in meta["died"].items()}
        for mine, saved in zip(self._returns, meta["returns"], strict=True):
            mine.extend(saved)

    def episodes(self, episodes, share: int) -> list:
        """Takes episodes of environments that belong to the members, `share` each, in order; gives
        them back under the members' names."""
        named = []
        for episode in episodes:
            i = episode.env // share
            self._returns[i].append(episode.episode_return)
            self._logs[i].episodes([episode])
            named.append(episode._replace(task=self.members[i].name))
        return named

    def write(
        self,
        run: Run,
        metrics: list[dict[str, Any]],
        steps: np.ndarray,
        more: list[dict[str, float]],
    ) -> None:
        """Writes a line in each living member's log, and their means in the sweep's own.

        Args:
          metrics: of the updates since the last line.
          steps: [S] learner steps that each member has taken.
          more: what else each member's line has.

        Raises:
          FloatingPointError: no member is alive.
        """
        fetched = jax.device_get(metrics)
        flat = {
            name: np.concatenate([m[name].reshape(len(self.members), -1) for m in fetched], axis=1)
            for name in (fetched or [{}])[0]
        }  # [S, updates]
        due = flat.pop("due", None)
        own = [
            {name: x[i] if due is None else x[i, due[i]] for name, x in flat.items()}
            for i in range(len(self.members))
        ]  # of the updates that a member made
        for i in self.alive:
            if wrong := first_not_finite(own[i]):
                self.died[i] = int(steps[i]) - wrong[1]
                run.log.say(
                    f"{self.members[i].name}: {wrong[0]} is no finite number at learner step "
                    f"{self.died[i]}; it is set aside, the others go on"
                )
        if not self.alive:
            raise FloatingPointError(
                f"all members are set aside, the last at learner step {max(self.died.values())}"
            )
        means = {
            i: {k: x.mean() for k, x in own[i].items() if len(x)} | more[i] for i in self.alive
        }
        for i in self.alive:
            log, counters = self._logs[i], (run.env_steps, int(steps[i]))
            log.write(*counters, means[i], all_episodes=run.saving)
        of_all = {
            name: float(np.mean([mean[name] for mean in means.values() if name in mean]))
            for name in dict.fromkeys(name for mean in means.values() for name in mean)
        }
        run.log.write(run.env_steps, run.learner_steps, of_all, all_episodes=run.saving)

    def table(self) -> Table:
        """The members, best first."""
        table = Table(box=None, padding=(0, 2))
        for column in ("member", "return of the last 100 episodes", ""):
            table.add_column(column, justify="left" if column == "member" else "right")
        means = self.returns()
        key = [m if math.isfinite(m) else -math.inf for m in means]
        order = sorted(range(len(means)), key=lambda i: -key[i])
        for i in order[:SHOWN]:
            state = "; ".join(self.healths[i].warnings().values())
            state = f"set aside at learner step {self.died[i]}" if i in self.died else state
            value = f"{means[i]:,.4g}" if math.isfinite(means[i]) else "-"
            table.add_row(self.members[i].name, value, state)
        if len(order) > SHOWN:
            table.add_row(f"and {len(order) - SHOWN} more", "", "")
        return table
