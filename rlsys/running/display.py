"""The display shows a run's progress: a live panel in a terminal, elsewhere lines of text."""

import collections
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rlsys.running import output

PHASE_SECONDS = 2.0  # without a terminal a phase is named once it has lasted so long
PLAIN_SECONDS = 10.0  # between two lines of progress if there is no terminal
PLAIN_WIDTH = 80  # of such lines
RATE_LINES = 20  # rates and the time left are measured over so many lines of the log
# The time left is shown once so many lines came after the first update's, or so much time passed.
LEFT_LINES, LEFT_SECONDS = 3, 30.0


class Progress(NamedTuple):
    """Says how far a run is."""

    now: float  # time.perf_counter() at that moment
    env_steps: int
    learner_steps: float  # nan if unknown


class Display:
    """Shows phases and, once a run has begun, the newest line of its log.

    Only one thread may call `show`, `phase` and `close`, any `say`.
    """

    def __init__(self, *, shown: bool = True):
        """Open the panel if there is a terminal; shown: False to show no phases and no progress."""
        self.below: Callable[[], Any] | None = None  # returns what to show below the progress
        self.num_members = 1  # members of a sweep, each a run as far as this one
        self.env_steps = 0  # as far as the run is, also between two lines of the log
        self._shown = shown
        self._total, self._began, self._seconds_before = 0, math.nan, 0.0
        self._lines: collections.deque = collections.deque(maxlen=RATE_LINES)
        self._numbers: list[str] = []
        self._end = math.nan  # when the last step will be played, nan until it can be told
        self._learns = False  # whether a line came after an update
        self._shares: list[list[str]] = []  # of each thread
        self._warnings: dict[str, str] = {}
        self._phase, self._phase_began = "", 0.0
        self._spinner = Spinner("dots")
        self._plain_at, self._plain_due = 0.0, False
        self._live = None
        self._console = Console(highlight=False)
        # Not Console.is_terminal, which FORCE_COLOR makes true for a file.
        if shown and sys.stdout.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(get_renderable=self._render, console=self._console)
            self._live.start()
            self._console.show_cursor(True)  # else a process that is killed would leave none

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def begin(
        self, folder: Path, total_env_steps: int, start: Progress, seconds_before: float
    ) -> None:
        """Begin to show a run, first its folder, which a click opens.

        Args:
            folder: the run's.
            total_env_steps: environment steps of the whole run.
            start: how far the run is when this process begins.
            seconds_before: seconds that the run took before it was resumed.
        """
        self._began, self._seconds_before = start.now, seconds_before
        self._lines.append(start)
        self.env_steps, self._plain_at = start.env_steps, start.now
        if self._shown:
            self.say(str(folder), link=folder.absolute().as_uri())
        self._total = total_env_steps

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say what the run is busy with while the body runs: beside a spinner in a terminal,
        elsewhere in a line, if it takes long."""
        before = self._phase, self._phase_began
        self._phase, self._phase_began = name, time.perf_counter()
        late = threading.Timer(PHASE_SECONDS, self.say, [f"{name} ..."])
        late.daemon = True
        if self._live is not None:
            self._live.refresh()
        elif self._shown:
            late.start()
        try:
            yield
        finally:
            late.cancel()
            self._phase, self._phase_began = before

    def show(
        self,
        at: Progress,
        values: dict[str, float],
        mean_return: float,
        warnings: dict[str, str],
        threads: dict[str, dict[str, int]],
    ) -> None:
        """Put a line of the log into words, which the panel's thread then shows.

        Args:
            at: how far the run was when the line was written.
            values: numbers of the line, by name.
            mean_return: mean return of the last episodes, or nan.
            warnings: sentences on the run's health, by name of the check. Without a panel each is
                printed when it begins and when it is over.
            threads: shares of their time in per cent by activity, which add up to 100, by name.
        """
        before = self._lines[-1]
        self._lines.append(at)
        begin = self._lines[0]
        wall = max(at.now - begin.now, 1e-9)
        env_rate = (at.env_steps - begin.env_steps) / wall
        update_rate = (at.learner_steps - begin.learner_steps) / wall
        if math.isnan(begin.learner_steps):  # a resumed run did not know its learner_steps
            self._lines.popleft()
        self._tell_end(at, before)
        num, of_all, each = self.num_members, "", ""
        if num > 1:
            of_all, each = f" of {num} members together", " each"
        self._numbers = [
            f"{num * env_rate:,.0f} steps/s{of_all}",
            f"{_text(update_rate, ',.1f')} updates/s{each}",
            f"episode return {_text(mean_return, ',.4g')}",
            f"loss {_text(values.get('loss', math.nan), '.4g')}",
        ]
        found = [[f"{name} {share}%" for name, share in of.items()] for of in threads.values()]
        self._shares = [
            [f"{thread}: {of[0]}", *of[1:]] for thread, of in zip(threads, found, strict=True) if of
        ]
        self.env_steps = at.env_steps
        told, self._warnings = self._warnings, warnings
        self._plain_due = self._shown
        if not self._shown or self._live is not None:
            return
        for name in warnings.keys() - told.keys():
            self.say(f"health: {warnings[name]}")
        for name in told.keys() - warnings.keys():
            self.say(f"health: over at {at.env_steps:,} steps: {told[name]}")
        if at.now >= self._plain_at:
            self._print_plain()
            self._plain_at = at.now + PLAIN_SECONDS

    def _tell_end(self, at: Progress, before: Progress) -> None:
        """Tell when the run will have played its last step, once its rate is steady.

        It is measured from the first line after an update: programs are compiled before that one,
        and steps before learning begins take less time.
        """
        if not self._learns:
            updates_before = 0.0 if math.isnan(before.learner_steps) else before.learner_steps
            self._learns = at.learner_steps > updates_before
            if self._learns:
                self._lines = collections.deque([at], maxlen=RATE_LINES)
            return
        begin, lines = self._lines[0], len(self._lines) - 1
        wall, played = at.now - begin.now, at.env_steps - begin.env_steps
        if played and (lines >= LEFT_LINES or wall >= LEFT_SECONDS):
            self._end = at.now + (self._total - at.env_steps) * wall / played

    def say(self, message: str, *, link: str = "") -> None:
        """Print a text, above the panel if there is one, without breaking words; link: a URL that a
        click on it opens."""
        if self._live is None:
            output.say(message)
        else:
            text = output.wrapped(message, self._console.width)
            self._console.print(Text(text, f"link {link}" if link else ""), soft_wrap=True)

    def close(self) -> None:
        """Show the last line and give the terminal back; may be called again."""
        if self._live is not None:
            self._live.transient = not self._total
            self._live.stop()
        elif self._plain_due:
            self._print_plain()

    def _steps(self) -> str:
        played = min(self.env_steps, self._total)  # the last unroll may pass it
        return f"{100 * played // self._total}%  {played:,} / {self._total:,} env steps"

    def _clock(self) -> list[str]:
        now = time.perf_counter()
        elapsed = f"{minutes(self._seconds_before + now - self._began)} elapsed"
        left = math.isfinite(self._end) and self.env_steps < self._total
        return [elapsed, f"{minutes(self._end - now)} left"] if left else [elapsed]

    def _render(self) -> RenderableType:
        phase = []
        if self._phase:
            took = minutes(time.perf_counter() - self._phase_began)
            self._spinner.update(text=Text(f"{self._phase} {took}"))
            phase = [self._spinner]
        return (
            Panel(Group(*self._progress(phase)), border_style="dim")
            if self._total
            else Group(*phase)
        )

    def _progress(self, phase: list[Spinner]) -> list[RenderableType]:
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(ProgressBar(self._total, min(self.env_steps, self._total)), self._steps())
        width = self._console.width - 4
        parts = [self._numbers, self._clock(), *self._shares]
        lines = [Text("\n".join(_wrapped(part, width, "  ") for part in parts if part))]
        lines += [Text(f"health: {warning}", style="yellow") for warning in self._warnings.values()]
        return [bar, *phase, *lines, *([self.below()] if self.below else [])]

    def _print_plain(self) -> None:
        print(_wrapped([self._steps(), *self._numbers, *self._clock()], PLAIN_WIDTH, "  "))
        for share in self._shares:
            print("  " + _wrapped(share, PLAIN_WIDTH - 2, "    "))
        sys.stdout.flush()
        self._plain_due = False


def _wrapped(parts: list[str], width: int, indent: str = "") -> str:
    """Join parts by commas, and break lines between them."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += ","
            lines.append(indent + part)
        else:
            lines[-1] += f", {part}"
    return "\n".join(lines)


def _text(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def minutes(seconds: float) -> str:
    """Format seconds as 12:34 or 1:02:34."""
    if not math.isfinite(seconds):
        return "-"
    whole, seconds = divmod(max(int(seconds), 0), 60)
    hours, whole = divmod(whole, 60)
    return f"{hours}:{whole:02}:{seconds:02}" if hours else f"{whole}:{seconds:02}"
