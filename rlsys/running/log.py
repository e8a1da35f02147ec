"""The log of a run sends lines of numbers to its records and to the display of its progress."""

import collections
import contextlib
import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jax.profiler import TraceAnnotation

from rlsys.running.display import Display, Progress
from rlsys.running.health import Health
from rlsys.running.metrics_file import Records

TASK_RETURN = "episode_return/"


class Log:
    """Records a run and shows it. `with Log(...) as log` gives the terminal back in any case.

    Only one thread may call `write` and `close`; any thread may call `time`, `episodes`, `say`.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        total_env_steps: int,
        resume_at: int | None = None,
        *,
        group: int = 1,
        health: Health | None = None,
        display: Display | None = None,
    ):
        """Open the records in run_dir, and make the folder if it is missing.

        Args:
            run_dir: folder of metrics.jsonl and of the TensorBoard events.
            total_env_steps: environment steps of the whole run.
            resume_at: see Records.
            group: least number of episodes in a line's statistics; lines wait for so many. Give the
                number of environments: of episodes that started together the short ones end
                first, and statistics of those alone would look like a fall.
            health: is given the lines, first those kept from a resumed run, and adds health/<name>.
            display: shows the progress; one of its own if None.
        Raises:
            ValueError: a new run would be mixed into the metrics of another.
        """
        self._records = Records(Path(run_dir), resume_at)
        kept = self._records.before
        self._begin = time.perf_counter()
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        start = (0, 0) if resume_at is None else (resume_at, math.nan)
        self._last = Progress(self._begin, *start)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._own = self._local.busy = _Thread()  # the one that opened the log
        self._others: list[_Thread] = []
        self._spent_before: list[dict[str, float]] = [{}, {}]
        self._episodes: list[Any] = []  # those that no line has counted yet
        self._group = group
        self._returns: collections.deque = collections.deque(maxlen=100)
        # Names of the tasks seen; a resumed run takes them from its earlier lines.
        names = {name for line in kept for name in line if name.startswith(TASK_RETURN)}
        self._tasks = {name.removeprefix(TASK_RETURN) for name in names}
        self._disk_full = False
        self._health = health
        if health:
            for line in kept:
                health.observe(line)
        self.display = display or Display()
        self.display.begin(Path(run_dir), max(total_env_steps, 1), self._last, self._seconds_before)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def time(self, activity: str) -> "_Timer":
        """Return a context that adds its wall time to the calling thread's time on an activity."""
        busy = getattr(self._local, "busy", None)
        if busy is None:
            busy = self._local.busy = _Thread()
            with self._lock:
                self._others.append(busy)
        return _Timer(busy, activity)

    def episodes(self, episodes: Iterable[Any]) -> None:
        """Take finished episodes: .episode_return (raw), .length (agent steps), .task (name)."""
        with self._lock:
            for episode in episodes:
                self._tasks.add(episode.task)
                self._episodes.append(episode)
                self._returns.append(episode.episode_return)

    def pop_episodes(self) -> list[Any]:
        """Return and forget the episodes that no line has counted yet, so that no line will."""
        with self._lock:
            episodes, self._episodes = self._episodes, []
        return episodes

    def write(
        self,
        env_steps: int,
        learner_steps: int,
        scalars: dict[str, Any],
        *,
        all_episodes: bool = True,
    ) -> None:
        """Write one line to metrics.jsonl and TensorBoard, and show it.

        The line has the scalars and beside them env_steps, learner_steps, seconds (of the run, also
        before it was resumed), env_steps_per_second, learner_steps_per_second, time/<activity>
        (share of the wall time; threads add up, so it may pass 1); of the episodes that ended
        episodes (their number), episode_return, episode_return_min, episode_return_max,
        episode_length and, if several tasks were seen, episode_return/<task> of each; and
        health/<name>, 1. while that check warns, else 0. Rates and times are since the last write,
        episodes are those that no line has counted yet. A number that is unknown or not finite is
        null.

        Args:
            env_steps: environment steps that the run has taken.
            learner_steps: updates that it has made.
            scalars: numbers by name, floats or host arrays of shape [].
            all_episodes: count the episodes even if they are fewer than a group. Do so at a
                checkpoint, because it does not keep them.
        """
        last, now = self._last, time.perf_counter()
        wall = max(now - last.now, 1e-9)
        with self._lock:
            count = all_episodes or len(self._episodes) >= self._group
            tasks = sorted(self._tasks)
        episodes = self.pop_episodes() if count else []
        values = {
            "env_steps": int(env_steps),
            "learner_steps": int(learner_steps),
            "seconds": round(self._seconds_before + now - self._begin, 3),
            "env_steps_per_second": (env_steps - last.env_steps) / wall,
            "learner_steps_per_second": (learner_steps - last.learner_steps) / wall,
        }
        values |= _episode_statistics(episodes, tasks)
        own, others = self._spent(now)
        of_all = {name: own.get(name, 0.0) + others.get(name, 0.0) for name in {**own, **others}}
        values |= {f"time/{name}": of_all[name] / wall for name in sorted(of_all)}
        values |= {name: float(value) for name, value in scalars.items()}
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line |= self._health.observe(line) if self._health else {}
        self._records.append(line)
        self._tell_of_full_disk()
        self._last = Progress(now, env_steps, learner_steps)
        with self._lock:
            mean_return = _mean(list(self._returns))
        warnings = self._health.warnings() if self._health else {}
        num = len(self._others)
        threads = {
            "learner thread": shares(own, wall, "other"),
            f"{num} actor threads" if num > 1 else "actor thread": shares(
                others, num * wall, "idle"
            ),
        }
        self.display.show(self._last, values, mean_return, warnings, threads)

    def _spent(self, now: float) -> list[dict[str, float]]:
        """Return the seconds by activity since the last call: of the thread that opened the log,
        and of all others together."""
        with self._lock:
            others = [thread.spent(now) for thread in self._others]
        names = sorted(set().union(*others))
        spent = [
            self._own.spent(now),
            {name: sum(thread.get(name, 0.0) for thread in others) for name in names},
        ]
        before, self._spent_before = self._spent_before, spent
        return [
            {name: seconds - old.get(name, 0.0) for name, seconds in new.items()}
            for new, old in zip(spent, before, strict=True)
        ]

    def phase(self, name: str) -> contextlib.AbstractContextManager:
        """Return a context in which the display says what the run is busy with."""
        return self.display.phase(name)

    def say(self, message: str) -> None:
        """Print a line of text, above the display if there is one."""
        self.display.say(message)

    def close(self) -> None:
        """Show the last line, give the terminal back and close the files; may be called again."""
        self.display.close()
        self._records.close()

    def _tell_of_full_disk(self) -> None:
        error = self._records.error
        if error and not self._disk_full:
            self.say(f"Could not write the metrics, which are kept until it works: {error}.")
        self._disk_full = error is not None


class Silent(Log):
    """Keeps episodes and writes nothing: the Log of a process that sends them to process 0."""

    def __init__(self) -> None:
        self._local, self._lock = threading.local(), threading.Lock()
        self._others, self._episodes = [], []
        self.display = Display(shown=False)
        self._tasks, self._returns = set(), collections.deque(maxlen=0)

    def write(self, *args, **options) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Thread:
    """Counts the seconds that a thread spends by activity, also of the span that it is in."""

    __slots__ = ("busy", "lock", "span")

    def __init__(self) -> None:
        self.busy: dict[str, float] = collections.defaultdict(float)
        self.span: tuple[str, float] | None = None  # the activity, and when it began
        self.lock = threading.Lock()

    def spent(self, now: float) -> dict[str, float]:
        """Return the seconds by activity since the start; any thread may call it."""
        with self.lock:
            spent, span = dict(self.busy), self.span
        if span:
            activity, begin = span
            spent[activity] = spent.get(activity, 0.0) + max(now - begin, 0.0)
        return spent


class _Timer:
    """Adds the wall time between entering and leaving to a thread's time on an activity.

    In a profile it is also a span of that name; without a profile this costs 0.7 us.
    """

    __slots__ = ("activity", "begin", "thread", "trace")

    def __init__(self, thread: _Thread, activity: str):
        self.thread, self.activity = thread, activity
        self.trace = TraceAnnotation(activity)

    def __enter__(self) -> None:
        self.trace.__enter__()
        self.begin = time.perf_counter()
        self.thread.span = self.activity, self.begin

    def __exit__(self, *exception) -> None:
        spent = time.perf_counter() - self.begin
        with self.thread.lock:
            self.thread.busy[self.activity] += spent
            self.thread.span = None
        self.trace.__exit__(*exception)


def _episode_statistics(episodes: list[Any], tasks: list[str]) -> dict[str, float]:
    returns = [float(episode.episode_return) for episode in episodes]
    by_task: dict[str, list[float]] = {task: [] for task in tasks}
    for episode, value in zip(episodes, returns, strict=True):
        by_task[episode.task].append(value)
    several = by_task if len(tasks) > 1 else {}
    return {
        "episodes": len(episodes),
        "episode_return": _mean(returns),
        "episode_return_min": min(returns, default=math.nan),
        "episode_return_max": max(returns, default=math.nan),
        "episode_length": _mean([episode.length for episode in episodes]),
        **{TASK_RETURN + task: _mean(values) for task, values in several.items()},
    }


def shares(seconds: dict[str, float], whole: float, rest: str) -> dict[str, int]:
    """Return each activity's share of a time in per cent; with the rest they add up to 100."""
    found = {name: round(100 * spent / whole) for name, spent in seconds.items()} if whole else {}
    return found | {rest: max(100 - sum(found.values()), 0)} if found else {}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
