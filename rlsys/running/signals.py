"""Signals ask a run to stop; it then saves a checkpoint first, and says what it waits for.

Python runs a handler in the main thread between two of its instructions, so a compilation or an
update that takes a minute delays it as long. Therefore a thread of its own takes the signals too:
Python writes each one's number to a pipe at once.
"""

import contextlib
import os
import select
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

ONCE = (signal.SIGINT, signal.SIGTERM)  # the second one ends the process as usual
ASK_TO_STOP = (*ONCE, signal.SIGHUP)
AGAIN = 10.0  # seconds from one line about what is waited for to the next
STOPPED = 3  # exit code
BEGUN = "the updates or the compilation that it has begun"  # where no other words are given


def end_at_once() -> None:
    """Has Ctrl-C end the process at once, until a run takes care of it. An exception, Python's way,
    may be lost in what imports and compiles."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop(why: str) -> None:
    """Asks the run of this process to stop as SIGTERM does, from any thread, but without a signal;
    without a run that is open it does nothing.

    Args:
      why: the words in which the run says so.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, types.MethodType) and isinstance(handler.__self__, Signals):
        handler.__self__.words = why
        handler.__self__.number = signal.SIGTERM


class Signals:
    """Takes SIGINT, SIGTERM and SIGHUP, while it is entered in the main thread.

    A second SIGINT or SIGTERM ends the process as usual. SIGHUP does not, as a terminal that closes
    may send several, and is not taken where it is ignored, as under nohup.

    Attributes:
      number: of the signal that came first, 0 if none has.
      words: why the run is to stop, if it was not a signal that asked for it.
    """

    def __init__(self) -> None:
        self.number = 0
        self.words = ""
        self._before: dict[int, Any] = {}
        self._watch = contextlib.ExitStack()
        self._doing, self._since, self._round = BEGUN, time.monotonic(), 0.0
        self._took: dict[str, float] = {}  # seconds that it took the last time

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.getsignal(s) for s in ASK_TO_STOP}
            if self._before[signal.SIGHUP] == signal.SIG_IGN:
                del self._before[signal.SIGHUP]
            came: list[int] = []

            def take(number: int) -> None:
                if number in ONCE and set(came) & set(ONCE) and self._before.keys() >= set(ONCE):
                    _leave(128 + number)  # the main thread has not come to its handler yet
                came.append(number)
                self.number = came[0]
                if len(came) == 1:
                    self._say("stops after")

            self._watch.enter_context(
                _watching(
                    take,
                    lambda: (
                        self._say("still waits for") if self.number and not self.words else None
                    ),
                )
            )
            for s in self._before:
                signal.signal(s, self._on_signal)
        return self

    def __exit__(self, *exception) -> None:
        self._restore([*self._before])
        self._watch.close()

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Has a signal that comes in the body be answered by what is waited for.

        Args:
          what: as it follows "the run stops after" and "the run still waits for".
        """
        before = self._doing
        self._doing, self._since = what, time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._took[what] = now - self._since
            self._doing, self._since = before, now

    def begin_round(self) -> None:
        """Counts the seconds of a round of unroll and updates, to say how long another may take."""
        now = time.monotonic()
        if self._round:
            self._took[BEGUN] = now - self._round
        self._round = now

    def _say(self, verb: str) -> None:
        what, since = self._doing, time.monotonic() - self._since
        took = "it is the first time"
        if what in self._took:
            round_ = "round of unroll and updates" if what == BEGUN else "time"
            took = f"the last {round_} took {self._took[what]:.1f} s"
        name = signal.Signals(self.number).name
        _write(f"{name}: the run {verb} {what} ({since:.0f} s so far; {took})")

    def _on_signal(self, number: int, _: Any) -> None:
        self.number = self.number or number
        if number in ONCE:
            self._restore([s for s in ONCE if s in self._before])

    def _restore(self, numbers: list[int]) -> None:
        for number in numbers:
            before = self._before.pop(number)
            signal.signal(number, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def ending_well(said: str) -> Iterator[None]:
    """Has a signal that would end the process in the body end it with exit code 3, and a sentence.

    It ends at once, whatever the main thread does: nothing may be lost in the body. Signals that
    the program handles in its own way stay as they are.

    Args:
      said: follows the signal's name.
    """
    taken = [s for s in ASK_TO_STOP if signal.getsignal(s) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread() or not taken:
        yield
        return

    def end(number: int) -> None:
        if number in taken:
            _write(f"{signal.Signals(number).name}: {said}")
            _leave(STOPPED)

    with _watching(end):
        for s in taken:
            signal.signal(s, lambda *_: None)
        try:
            yield
        finally:
            for s in taken:
                signal.signal(s, signal.SIG_DFL)


@contextlib.contextmanager
def _watching(take: Callable[[int], None], again: Callable[[], Any] = bool) -> Iterator[None]:
    """Calls take(number) in a thread of its own for each signal that has a handler, and again()
    every few seconds."""
    end, begin = os.pipe()
    os.set_blocking(begin, False)

    def watch() -> None:
        while True:
            numbers = os.read(end, 1) if select.select([end], [], [], AGAIN)[0] else b""
            if numbers == b"\0":
                return
            for number in numbers:
                take(number)
            if not numbers:
                again()

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(begin, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(begin, b"\0")
        thread.join()
        os.close(begin)
        os.close(end)


def _write(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())  # print may be in use by the thread that waits


def _leave(code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # show the cursor
    os._exit(code)
