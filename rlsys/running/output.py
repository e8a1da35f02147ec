"""Standard output and standard error that outlast whoever reads them."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO, errno.ENXIO)  # a pipe or terminal that nobody reads any more


class Lasting:
    """Writes to a stream and raises nothing if it cannot be written.

    A pipe that was closed, or a terminal that is gone, is replaced by the null device. What does
    not fit on a full disk is lost, and later words are written if there is room again.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it can be."""
        self._try(self._stream.flush)

    def _try(self, action) -> None:
        try:
            action()
        except OSError as error:
            if error.errno not in GONE:
                return
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
                self._stream.flush()  # else what waits in it would fail at exit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_lasting() -> None:
    """Make this process's output lasting, so that a run goes on whatever becomes of its reader."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that it cannot show are spelled out
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)  # type: ignore[assignment]
