"""Records of a run: metrics.jsonl and TensorBoard events, on a disk that may be full."""

import contextlib
import json
import time
from pathlib import Path

from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c


class Records:
    """Appends lines of numbers to a run's metrics.jsonl and to its TensorBoard events."""

    def __init__(self, folder: Path, resume_at: int | None = None):
        """Makes the files where they are missing.

        Args:
            folder: of both.
            resume_at: env_steps of the checkpoint that the run goes on from: what was written
                beyond is dropped, as it will be made again. None for a new run.
        Raises:
            ValueError: a new run would be mixed into the metrics of another.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if resume_at is None and path.exists():
            raise ValueError(f"{path} is there already, so {folder} belongs to another run.")
        # Lines that are kept.
        self.before = [] if resume_at is None else _drop_beyond(path, resume_at)
        self._metrics = _File(path)
        self._events = _File(folder / f"events.out.tfevents.{time.time():.6f}.rlsys")
        self._event(file_version="brain.Event:2", step=0)
        if resume_at is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(session_log=start, step=resume_at + 1)  # TensorBoard purges from here on

    def append(self, line: dict[str, float | None]) -> None:
        """One line of finite numbers, or None, by name; env_steps is its place in TensorBoard."""
        self._metrics.append((json.dumps(line, allow_nan=False) + "\n").encode())
        known = {name: value for name, value in line.items() if value is not None}
        summary = [summary_pb2.Summary.Value(tag=n, simple_value=v) for n, v in known.items()]
        self._event(summary=summary_pb2.Summary(value=summary), step=line["env_steps"])

    @property
    def error(self) -> OSError | None:
        """Why not everything could be written, yet."""
        return self._metrics.error or self._events.error

    def close(self) -> None:
        self._metrics.close()
        self._events.close()

    def _event(self, **fields) -> None:
        """One TensorBoard event, as a TFRecord: length, its CRC, data, its CRC.

        Not tensorboardX's SummaryWriter: on a full disk its thread dies, and once its queue of
        10 is full the run waits for it for ever.
        """
        data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
        length = len(data).to_bytes(8, "little")
        crcs = [masked_crc32c(part).to_bytes(4, "little") for part in (length, data)]
        self._events.append(length + crcs[0] + data + crcs[1])


class _File:
    """A file that records are appended to, whole or not at all.

    What a full disk refuses is kept and written with the next record, and the run goes on.
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
            while rest:  # a disk that fills up takes a part, and then refuses
                rest = rest[self._file.write(rest) :]
            self._waiting, self.error = b"", None
        except OSError as error:
            self.error = error
            self._file.truncate(whole)
            self._file.seek(whole)

    def close(self) -> None:
        self._file.close()


def read(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, but for one cut off when the run was killed."""
    lines, path = [], folder / "metrics.jsonl"
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _drop_beyond(path: Path, env_steps: int) -> list[dict]:
    """Keeps those lines of metrics.jsonl that are not beyond env_steps; returns them."""
    kept = [line for line in read(path.parent) if line["env_steps"] <= env_steps]
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(line) + "\n" for line in kept))
    new.replace(path)
    return kept
