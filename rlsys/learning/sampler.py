"""Feeds a learner from a replay: sets first priorities, draws samples, updates priorities."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rlsys.learning import hosts
from rlsys.learning.learner import check_finite
from rlsys.replay.replay import Replay
from rlsys.replay.replay_ratio import ReplayRatio
from rlsys.types import Sample, Trajectory


class Sampler:
    """Draws the samples of one agent's replay, as many as the replay ratio asks for.

    After each unroll, `add` it, begin an update on each sample of `due`, and hand the priorities
    that the update computes to `give`. It waits for them only once the next update has begun, so
    that the devices never wait for the host.
    """

    def __init__(
        self,
        replay: Replay,
        config: Any,
        initial_priorities: Callable[[Trajectory, Any], Any],
        timer: Callable[[str], contextlib.AbstractContextManager],
        *,
        lenient: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ):
        """Begin with an empty replay.

        Args:
          replay: this process's share of the replay.
          config: the run's ReplayConfig, with all processes' batch_size.
          initial_priorities: (learned steps, mask) -> priorities; see Replay.add.
          timer: measures "replay" and "learner"; see acting.unroll.Timer.
          lenient: a priority that is not finite counts as 1, rather than ending the run: in a sweep
            other members go on.
          stopping: tells whether the updates that are left may wait until the run is resumed.
        """
        self._replay, self._ratio = replay, ReplayRatio(config)
        self._batch_size = config.batch_size // hosts.count()
        self._initial_priorities, self._timer = initial_priorities, timer
        self._lenient, self._stopping = lenient, stopping
        self._updates = 0  # updates so far, to name one that failed
        self._drawn = np.zeros(0, np.int64)  # of the last sample: its sequences' numbers
        # The numbers of a sample whose priorities have not come back, and what fetches them.
        self._waiting: tuple[np.ndarray, Callable] | None = None

    def add(self, trajectory: Trajectory) -> None:
        """Add an unroll [T + 1, B, ...] and give its sequences their first priorities.

        Raises:
          FloatingPointError: a priority is not finite.
        """
        with self._timer("replay"):
            numbers, learned, mask = self._replay.add(trajectory)
            priorities = self._initial_priorities(*jax.device_put((learned, mask)))
            self._set(numbers, np.asarray(priorities)[: len(numbers)])

    def due(self, env_steps: int) -> Iterator[Sample]:
        """Yield the samples to learn from once env_steps have been played; call give after each.

        Raises:
          FloatingPointError: a priority is not finite.
        """
        number, learned = 0, 0
        for _ in range(self._ratio.due(env_steps)):
            if self._stopping():
                break
            with self._timer("replay"):  # while the updates before this one run
                numbers, sample = self._replay.sample(self._batch_size)
                learned += int(sample.mask.sum())
            self._drawn, number = numbers, number + 1
            yield sample
        self._finish()
        if number:
            self._ratio.learned(number, hosts.all_sum(learned))

    def give(self, fetch: Callable[[], np.ndarray]) -> None:
        """Take the priorities that the update on the last sample computes.

        Args:
          fetch: waits for the priorities and returns them, [B].

        Raises:
          FloatingPointError: a priority of the previous update is not finite.
        """
        self._finish()
        self._waiting = self._drawn, fetch
        self._updates += 1

    def metrics(self, env_steps: int) -> dict[str, float]:
        """Return the replay's figures for the log, of all processes in what they count; collective,
        so all must call it."""
        found = self._replay.metrics()
        found["replay/sequences"] = float(hosts.all_sum(int(found["replay/sequences"])))
        found["replay/sample_age"] *= hosts.count()  # this one's environments are a share of all
        return found | {"replay_ratio": self._ratio.held(env_steps)}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and meta (for JSON) for a checkpoint; call it between unrolls."""
        arrays, counters = self._replay.state()
        return arrays, {"replay": counters, "ratio": self._ratio.state(), "updates": self._updates}

    def restore(
        self, arrays: Mapping[str, np.ndarray], meta: dict[str, Any], env_steps: int
    ) -> None:
        """Go on from what `state` returned after env_steps environment steps."""
        self._replay.restore(arrays, meta["replay"])
        self._ratio.restore(meta["ratio"], env_steps)
        self._updates = meta["updates"]

    def _finish(self) -> None:
        """Wait for the priorities that have not come back, and set them."""
        if self._waiting:
            numbers, fetch = self._waiting
            with self._timer("learner"):
                priorities = fetch()
            self._set(numbers, priorities)
        self._waiting = None

    def _set(self, numbers: np.ndarray, priorities: np.ndarray) -> None:
        if self._lenient:
            priorities = np.where(np.isfinite(priorities), priorities, 1.0)
        check_finite(priorities, self._updates)
        self._replay.set_priorities(numbers, priorities)
