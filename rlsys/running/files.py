"""Files of a run that others may read at any time, or that a full disk may keep from being written.

A file is written beside its place and then renamed, so a reader finds the old one or the new one,
and a disk that is full leaves the old one.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` if no error comes.

    Raises:
      OSError: the file could not be written; what was at `path` before is still there.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        yield new
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
      OSError: the file could not be written; what was at `path` before is still there.
    """
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


class Appended:
    """Appends records to a file, each whole or not at all.

    If the disk is full, the record is kept and written with the next one, and the run goes on.

    Attributes:
      error: why records are kept and not written yet; None if all are written.
    """

    def __init__(self, path: Path, *, at_once: bool = True):
        """Open the file, and make it if it is missing.

        Args:
          path: the file.
          at_once: open it now; else with the first record, which is kept if it cannot be opened.

        Raises:
          OSError: it cannot be opened.
        """
        self._path, self._waiting = path, b""
        self.error: OSError | None = None
        self._file = self._open() if at_once else None

    def _open(self) -> io.FileIO:
        return self._path.open("ab", buffering=0)

    def append(self, record: bytes) -> None:
        self._waiting += record
        try:
            self._file = self._file or self._open()
        except OSError as error:
            self.error = error
            return
        whole = self._file.tell()
        try:
            rest = self._waiting
            while rest:  # a disk that is filling up takes a part before it refuses
                rest = rest[self._file.write(rest) :]
            self._waiting, self.error = b"", None
        except OSError as error:
            self.error = error
            self._file.truncate(whole)
            self._file.seek(whole)

    def close(self) -> None:
        """Close the file, which the next record opens again."""
        if self._file:
            self._file.close()
        self._file = None
