"""Files of a run that others may read at any time, or that a full disk may keep from being written.

A file is written beside its place and then renamed, so a reader finds the old one or the new one,
and a disk that is full leaves the old one.
"""

import contextlib
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
