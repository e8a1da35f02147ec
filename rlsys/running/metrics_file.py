"""A run's metrics.jsonl, of whose lines TensorBoard's events hold the same numbers."""

import contextlib
import json
from pathlib import Path
from typing import Any

from rlsys.running import events, files
from rlsys.types import UserError


class Records:
    """Appends lines of numbers to a run's metrics.jsonl and to its TensorBoard events."""

    def __init__(self, folder: Path, resume_at: int | None = None, config: Any = None):
        """Open the files, and make them if they are missing.

        Args:
            folder: where both files lie.
            resume_at: env_steps of the checkpoint that the run goes on from, None for a new run.
                Lines beyond it are dropped, as the run will write them again.
            config: the run's Config, which TensorBoard shows as text; None for none.
        Raises:
            ValueError: a new run would be mixed into the metrics of another.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if resume_at is None and path.exists():
            raise ValueError(f"{path} is there already, so {folder} belongs to another run.")
        # The lines that are kept.
        self.before = [] if resume_at is None else _drop_beyond(path, resume_at)
        self._metrics = files.Appended(path)
        self._events = events.Events(folder, resume_at)
        if config is not None:
            self._events.add(events.config_text(config), resume_at or 0)

    def append(self, line: dict[str, float | None]) -> None:
        """Append a line of numbers by name, finite or None; env_steps is TensorBoard's step."""
        self._metrics.append((json.dumps(line, allow_nan=False) + "\n").encode())
        self._events.add(events.scalars(line), int(line["env_steps"] or 0))

    @property
    def error(self) -> OSError | None:
        """Return the reason why some records are not written yet, None if all are."""
        return self._metrics.error or self._events.error

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._events.close()


def read(folder: Path) -> list[dict]:
    """Read the lines of a run's metrics.jsonl, except those that are damaged, as is one that a kill
    has cut off."""
    lines, path = [], folder / "metrics.jsonl"
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and "env_steps" in line:
                lines.append(line)
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
