"""The display shows a run's progress: a live panel in a terminal, elsewhere lines of text."""

import collections
import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 10.0  # between two lines of progress if there is no terminal
RATE_LINES = 20  # rates and the time left are measured over so many lines of the log


class Progress(NamedTuple):
    """Says how far a run is."""

    now: float  # time.perf_counter() at that moment
    env_steps: int
    learner_steps: float  # nan if unknown


class Display:
    """Shows the newest line of a log. Only one thread may call `show` and `close`, any `say`."""

    def __init__(
        self, total_env_steps: int, start: Progress, seconds_before: float, *, shown: bool = True
    ):
        """Open the panel if there is a terminal.

        Args:
            total_env_steps: environment steps of the whole run.
            start: how far the run is when this process begins.
            seconds_before: seconds that the run took before it was resumed.
            shown: False to show no progress.
        """
        self.below: Callable[[], Any] | None = None  # returns what to show below the progress
        self.num_members = 1  # members of a sweep, each a run of total_env_steps as far as this
        self._total, self._shown = total_env_steps, shown
        self._began, self._seconds_before = start.now, seconds_before
        self._lines: collections.deque = collections.deque([start], maxlen=RATE_LINES)
        self._rates, self._shares, self._end = "starting", "", math.nan
        self._warnings: dict[str, str] = {}
        self._plain_at, self._plain_due = start.now, False
        self._live = None
        self._console = Console(highlight=False)
        # Not Console.is_terminal, which FORCE_COLOR makes true for a file.
        if shown and sys.stdout.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(get_renderable=self._panel, console=self._console)
            self._live.start()

    def show(
        self, at: Progress, values: dict[str, float], mean_return: float, warnings: dict[str, str]
    ) -> None:
        """Put a line of the log into words, which the panel's thread then shows.

        Args:
            at: how far the run was when the line was written.
            values: numbers of the line, by name.
            mean_return: mean return of the last episodes, or nan.
            warnings: sentences on the run's health, by name of the check. Without a panel each is
                printed when it begins and when it is over.
        """
        self._lines.append(at)
        begin = self._lines[0]
        wall = max(at.now - begin.now, 1e-9)
        env_rate = (at.env_steps - begin.env_steps) / wall
        update_rate = (at.learner_steps - begin.learner_steps) / wall
        if math.isnan(begin.learner_steps):  # a resumed run did not know its learner_steps
            self._lines.popleft()
        num, of_all, each = self.num_members, "", ""
        if num > 1:
            of_all, each = f" of {num} members together", " each"
        self._rates = (
            f"{num * env_rate:,.0f} steps/s{of_all}, {_text(update_rate, ',.1f')} updates/s{each}, "
            f"episode return {_text(mean_return, ',.4g')}, "
            f"loss {_text(values.get('loss', math.nan), '.4g')}"
        )
        self._shares = " | ".join(
            f"{name[5:]} {100 * share:.0f}%"
            for name, share in values.items()
            if name.startswith("time/")
        )
        self._end = at.now + (self._total - at.env_steps) / env_rate if env_rate > 0 else math.nan
        before, self._warnings = self._warnings, warnings
        self._plain_due = self._shown
        if not self._shown or self._live is not None:
            return
        for name in warnings.keys() - before.keys():
            self.say(f"health: {warnings[name]}")
        for name in before.keys() - warnings.keys():
            self.say(f"health: over by {at.env_steps:,} steps: {before[name]}")
        if at.now >= self._plain_at:
            self._print_plain()
            self._plain_at = at.now + PLAIN_SECONDS

    def say(self, message: str) -> None:
        """Print a line of text, above the panel if there is one."""
        if self._live is None:
            print(message, flush=True)
        else:
            self._console.print(message, markup=False, emoji=False)

    def close(self) -> None:
        """Show the last line and give the terminal back; may be called again."""
        if self._live is not None:
            self._live.stop()
        elif self._plain_due:
            self._print_plain()

    def _steps(self) -> str:
        env_steps = self._lines[-1].env_steps
        share = min(100 * env_steps / self._total, 100)
        return f"{share:.0f}%  {env_steps:,} / {self._total:,} env steps"

    def _clock(self) -> str:
        now = time.perf_counter()
        elapsed = self._seconds_before + now - self._began
        return f"{_minutes(elapsed)} elapsed, {_minutes(self._end - now)} left"

    def _panel(self) -> Panel:
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(ProgressBar(self._total, self._lines[-1].env_steps), self._steps())
        lines = [Text("\n".join((self._rates, self._clock(), self._shares)))]
        lines += [Text(f"health: {warning}", style="yellow") for warning in self._warnings.values()]
        below = [self.below()] if self.below else []
        return Panel(Group(bar, *lines, *below), border_style="dim")

    def _print_plain(self) -> None:
        parts = (self._steps(), self._rates, self._clock(), self._shares)
        print(", ".join(part for part in parts if part), flush=True)
        self._plain_due = False


def _text(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _minutes(seconds: float) -> str:
    """Format seconds as 12:34 or 1:02:34."""
    if not math.isfinite(seconds):
        return "-"
    minutes, seconds = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
