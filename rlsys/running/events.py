"""A run's TensorBoard events: numbers, the Config as text, and a gif as a picture.

Tags stand in groups, such as train/ and health/; metrics.py says which metric is in which.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX.proto import event_pb2
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import text

from rlsys.config import flat
from rlsys.running import files
from rlsys.running.metrics import tag


class Events:
    """Appends events to a file of TensorBoard in a run's folder."""

    def __init__(self, folder: Path, resume_at: int | None = None, *, newest: bool = False):
        """Open a new file.

        Args:
            folder: the run's.
            resume_at: env_steps from which the run goes on, beyond which TensorBoard forgets what
                earlier files hold; None for a new run.
            newest: open the newest file that is there already. TensorBoard no longer reads a file
                once there is a newer one, so a run in progress must keep its own.
        """
        path = folder / f"events.out.tfevents.{time.time():.6f}.rlsys"
        there = sorted(folder.glob("events.out.tfevents.*.rlsys")) if newest else []
        self._file = files.Appended(there[-1] if there else path)
        if not there:
            self._append(file_version="brain.Event:2", step=0)
        if resume_at is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._append(session_log=start, step=resume_at + 1)

    def add(self, summary: Summary, step: int) -> None:
        """Append a summary; step: environment steps."""
        self._append(summary=summary, step=step)

    @property
    def error(self) -> OSError | None:
        """Return the reason why some events are not written yet, None if all are."""
        return self._file.error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, **fields) -> None:
        """Append one event, as a TFRecord: length, its CRC, data, its CRC.

        tensorboardX's SummaryWriter will not do: on a full disk its thread dies, and once its queue
        of 10 is full the run waits for it for ever.
        """
        data = event_pb2.Event(wall_time=time.time(), **fields).SerializeToString()
        length = len(data).to_bytes(8, "little")
        crcs = [masked_crc32c(part).to_bytes(4, "little") for part in (length, data)]
        self._file.append(length + crcs[0] + data + crcs[1])


def add(folder: Path, summary: Summary, step: int) -> None:
    """Append a summary to the events of a run that may be in progress, or may have ended.

    Raises:
      OSError: the events cannot be written.
    """
    events = Events(folder, newest=True)
    try:
        events.add(summary, step)
        if events.error:
            raise events.error
    finally:
        events.close()


def scalars(line: Mapping[str, float | None]) -> Summary:
    """Return a line of the log, without its numbers that are not known."""
    known = {name: value for name, value in line.items() if value is not None}
    return Summary(value=[Summary.Value(tag=tag(n), simple_value=v) for n, v in known.items()])


def evaluation(results: Mapping[str, Mapping[str, float]]) -> Summary:
    """Return each mode's mean return, mean length and share of episodes that ended.

    results: of an evaluation, by "mode" or, of several tasks, by "mode task".
    """
    found: dict[str, float | None] = {}
    for name, result in results.items():
        mode, _, task = name.partition(" ")
        ended = result["ended"] / result["episodes"]
        for key, value in (
            ("return", result["mean"]),
            ("length", result["length"]),
            ("ended", ended),
        ):
            found[f"eval/{mode}_{key}" + (f"/{task}" if task else "")] = value
    return scalars(found)


def config_text(config: Any) -> Summary:
    """Return a table of a Config's fields."""
    rows = [f"| {name} | {value} |" for name, value in flat(config).items()]
    return text("config", "\n".join(["| field | value |", "| --- | --- |", *rows]))


def picture(name: str, path: Path) -> Summary:
    """Return a gif, which TensorBoard plays; name: under eval/."""
    with Image.open(path) as gif:
        width, height = gif.size
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
    )
    return Summary(value=[Summary.Value(tag=f"eval/{name}", image=image)])
