"""Signals ask a run to stop; it then saves a checkpoint first."""

import contextlib
import os
import signal
import threading
import types
from typing import Any

ONCE = (signal.SIGINT, signal.SIGTERM)  # the second one ends the process as usual


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
      number: of the signal that came, 0 if none has.
      words: why the run is to stop, if it was not a signal that asked for it.
    """

    def __init__(self) -> None:
        self.number = 0
        self.words = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.getsignal(s) for s in (*ONCE, signal.SIGHUP)}
            if self._before[signal.SIGHUP] == signal.SIG_IGN:
                del self._before[signal.SIGHUP]
            for s in self._before:
                signal.signal(s, self._on_signal)
        return self

    def __exit__(self, *exception) -> None:
        self._restore([*self._before])

    def _on_signal(self, number: int, _: Any) -> None:
        self.number = number
        if number in ONCE:
            self._restore([s for s in ONCE if s in self._before])
        name = signal.Signals(number).name
        said = f"{name}: the run stops after the unroll and the updates that it is making\n"
        with contextlib.suppress(OSError):
            os.write(2, said.encode())  # a handler may not print

    def _restore(self, numbers: list[int]) -> None:
        for number in numbers:
            before = self._before.pop(number)
            signal.signal(number, signal.SIG_DFL if before is None else before)
