"""A run's evaluation.json keeps all its evaluations side by side; the one that counts stands first.

    {"score": "sampled", "env_steps": 1500000, "learner_steps": 7324, "episodes": 64, "seed": 7,
     "results": {"sampled": {...}, "greedy": {...}},
     "others": [{"score": "sampled", "env_steps": 1000000, ...}, ...]}

The one that counts is that of the newest parameters; of several, the one of most episodes, and of
those the first. A report shows it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlsys.running import files
from rlsys.types import UserError

NAME = "evaluation.json"


def read(folder: Path) -> list[dict[str, Any]]:
    """Reads the evaluations of a run, the one that counts first; none if it was not evaluated.

    Returns:
      for each: score (the mode of play that is the algorithm's score), env_steps and learner_steps
      (of the parameters that played), episodes (in each mode and task), seed (of the environments),
      results (evaluate.summary by "mode" or, of several tasks, by "mode task").

    Raises:
      UserError: the file is damaged, or of an earlier version.
    """
    path = folder / NAME
    try:
        first = json.loads(path.read_text())
        others = first.pop("others")
    except FileNotFoundError:
        return []
    except KeyError:
        raise UserError(
            f"{path} is of an earlier version: move it away, then make eval RUN={folder} writes it"
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    for evaluation in (first, *others):
        for name in ("score", "env_steps", "episodes", "seed", "results"):
            if name not in evaluation:
                raise UserError(f"{path} is damaged: an evaluation has no {name}")
    return [first, *others]


def add(folder: Path, evaluation: dict[str, Any]) -> Path:
    """Writes one more evaluation beside those that a run has, and returns the file's path.

    An evaluation that equals one of them is not written twice.

    Raises:
      UserError: the file cannot be written, is damaged, or of an earlier version.
    """
    with _alone(folder):
        found = read(folder)
        if evaluation not in found:
            found.append(evaluation)
        # The sort is stable: of equals the first stays.
        first, *others = sorted(found, key=lambda x: (-x["env_steps"], -x["episodes"]))
        try:
            text = json.dumps({**first, "others": others}, indent=2) + "\n"
            files.write_text(folder / NAME, text)
        except OSError as error:
            raise UserError(f"{folder / NAME} could not be written: {error.strerror}") from None
    return folder / NAME


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Has one process at a time in its body, so that none loses what another adds."""
    holder = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network's disk without locks
            fcntl.flock(holder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(holder)
