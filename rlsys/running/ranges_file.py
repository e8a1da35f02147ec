"""A run's ranges.jsonl: how the ranges of its physics came to widen."""

import json
from pathlib import Path
from typing import Any

from rlsys.acting.adaptation import Adaptation
from rlsys.envs.randomise.adapt import HIGH, Decision
from rlsys.running import files

NAME = "ranges.jsonl"


class RangesFile:
    """Appends to ranges.jsonl.

    It begins with a line for each parameter: parameter, its name; low and high, the ends of its
    range; whole, the ends that it may reach; how, the word's (words.py); and together, whether all
    elements share the number. A line follows for each decision on a boundary: env_steps, the
    environment steps of the run by which it was made; parameter; side, "low" or "high"; mean, the
    mean return there; episodes, of how many; and low and high after all decisions of that step.

    If the disk is full, lines are kept and written with the next ones.
    """

    def __init__(self, folder: Path):
        self._path = folder / NAME
        self._file = files.Appended(self._path, at_once=False)

    def begin(self, env_steps: int, adaptation: Adaptation) -> None:
        """Writes the first lines, unless they are there."""
        if read(self._path.parent):
            return
        lines = []
        for i, parameter in enumerate(adaptation.parameters):
            low, high = adaptation.numbers(i)
            word = parameter.word
            about = {
                "whole": adaptation.whole(i),
                "how": word.how,
                "together": word.together,
            }
            line = {"env_steps": env_steps, "parameter": parameter.name, "low": low, "high": high}
            lines.append(line | about)
        self._append(lines)

    def add(self, env_steps: int, adaptation: Adaptation, decisions: list[Decision]) -> None:
        """Appends a line for each decision."""
        lines = []
        for decision in decisions:
            i, side = decision.boundary
            low, high = adaptation.numbers(i)
            lines.append({
                "env_steps": env_steps,
                "parameter": adaptation.parameters[i].name,
                "side": "high" if side == HIGH else "low",
                "mean": decision.mean,
                "episodes": decision.episodes,
                "low": low,
                "high": high,
            })  # fmt: skip
        self._append(lines)

    def drop_beyond(self, env_steps: int) -> None:
        """Drops the lines after a checkpoint, which a resumed run writes again."""
        self._file.close()  # another takes its place
        if self._path.exists():
            kept = [x for x in read(self._path.parent) if x["env_steps"] <= env_steps]
            files.write_text(self._path, "".join(json.dumps(x) + "\n" for x in kept))

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if lines:
            self._file.append("".join(json.dumps(x) + "\n" for x in lines).encode())

    @property
    def error(self) -> OSError | None:
        """Returns the reason why some lines are not written yet, None if all are."""
        return self._file.error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Reads the whole lines of a run's ranges.jsonl; none if its ranges are not adapted."""
    path = folder / NAME
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
