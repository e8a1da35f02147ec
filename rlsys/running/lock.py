"""A lock lets one process at a time train in a run's folder."""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

from rlsys.types import UserError


class Lock:
    """Holds a run's folder until it is released or the process ends, however it ends.

    Where the file system has no locks it holds nothing, and the run goes on without one.
    """

    def __init__(self, folder: Path):
        """Make the folder if it is missing, and lock it.

        Raises:
          UserError: another process holds it; the sentence names the process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("a+")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps by in_use, for a moment
                time.sleep(0.1)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"{folder} is in use by {holder}: only one process at a time may train there"
            ) from None
        except OSError:  # a network's disk without locks
            return
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            self._file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}")
            self._file.flush()

    def release(self) -> None:
        """Let other processes have the folder; may be called again."""
        with contextlib.suppress(OSError):
            self._file.close()


def in_use(folder: Path) -> bool:
    """Tells whether a process trains in a run's folder; False where it cannot be known."""
    try:
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
