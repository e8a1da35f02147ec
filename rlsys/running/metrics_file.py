"""Records write a run's metrics.jsonl and TensorBoard events, to a disk that may be full."""

import contextlib
import json
import time
from pathlib import Path

from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

from rlsys.running import files
from rlsys.types import UserError


class Records:
    """Appends lines of numbers to a run's metrics.jsonl and to its TensorBoard events."""

    def __init__(self, folder: Path, resume_at: int | None = None):
        """Open the files, and make them if they are missing.

        Args:
            folder: where both files lie.
            resume_at: env_steps of the checkpoint that the run goes on from, None for a new run.
                Lines beyond it are dropped, as the run will write them again.
        Raises:
            ValueError: a new run would be mixed into the metrics of another.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if resume_at is None and path.exists():
            raise ValueError(f"{path} is there already, so {folder} belongs to another run.")
        # The lines that are kept.
        self.before = [] if resume_at is None else _drop_beyond(path, resume_at)
        self._metrics = _File(path)
        self._events = _File(folder / f"events.out.tfevents.{time.time():.6f}.rlsys")
        self._event(file_version="brain.Event:2", step=0)
        if resume_at is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(session_log=start, step=resume_at + 1)  # TensorBoard purges from here on

    def append(self, line: dict[str, float | None]) -> None:
        """Append a line of numbers by name, finite or None; env_steps is TensorBoard's step."""
        self._metrics.append((json.dumps(line, allow_nan=False) + "\n").encode())
        known = {name: value for name, value in line.items() if value is not None}
        summary = [summary_pb2.Summary.Value(tag=n, simple_value=v) for n, v in known.items()]
        self._event(summary=summary_pb2.Summary(value=summary), step=line["env_steps"])

    @property
    def error(self) -> OSError | None:
        """Return the reason why some records are not written yet, None if all are."""
        return self._metrics.error or self._events.error

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._events.close()

    def _event(self, **fields) -> None:
        """Append one TensorBoard event, as a TFRecord: length, its CRC, data, its CRC.

        tensorboardX's SummaryWriter will not do: on a full disk its thread dies, and once its queue
        of 10 is full the run waits for it for ever.
        """
        data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
        length = len(data).to_bytes(8, "little")
        crcs = [masked_crc32c(part).to_bytes(4, "little") for part in (length, data)]
        self._events.append(length + crcs[0] + data + crcs[1])


class _File:
    """Appends records to a file, each whole or not at all.

    If the disk is full, the record is kept and written with the next one, and the run goes on.
    """

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self.error: OSError | None = None

    def append(self, record: bytes) -> None:
        self._waiting += record
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
        self._file.close()


def read(folder: Path) -> list[dict]:
    """Read the lines of a run's metrics.jsonl, except one that a kill has cut off."""
    lines, path = [], folder / "metrics.jsonl"
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _drop_beyond(path: Path, env_steps: int) -> list[dict]:
    """Remove the lines of metrics.jsonl that are beyond env_steps; return the others.

    Raises:
      UserError: the file cannot be written.
    """
    kept = [line for line in read(path.parent) if line["env_steps"] <= env_steps]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    if not path.exists() or path.read_text() != text:
        try:
            files.write_text(path, text)
        except OSError as error:
            raise UserError(f"{path} could not be written: {error.strerror}") from None
    return kept
