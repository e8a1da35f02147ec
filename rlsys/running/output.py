"""Standard output and standard error that outlast whoever reads them, and lines that fit them."""

import contextlib
import errno
import io
import os
import shutil
import sys
import textwrap
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


def wrapped(text: str, width: int) -> str:
    """Break lines between words where they are longer than width. A word that is longer, such as a
    path, stays whole, and so does a line that is a command to copy."""
    lines = [
        [line]
        if line.startswith("make ")
        else textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
        for line in text.split("\n")
    ]
    return "\n".join(line for group in lines for line in group)


def say(text: str) -> None:
    """Print a text, in a terminal without breaking words; a file gets its lines as they are."""
    if sys.stdout.isatty():
        text = wrapped(text, shutil.get_terminal_size().columns)
    print(text, flush=True)
