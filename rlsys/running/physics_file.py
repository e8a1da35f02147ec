"""Writes a run's physics.jsonl: a line for each draw of physics that was played or refused."""

import json
from pathlib import Path

from rlsys.envs.randomise.groups import Draw
from rlsys.learning import hosts
from rlsys.running import files


class PhysicsFile:
    """Appends draws to physics.jsonl. The file is made when the first draw comes.

    A line has these fields. env_steps: the run's environment steps when the line was written.
    actor, group: who played the draw. draw: its number in the group, from 0, since the environments
    started afresh. refused: why the draw was set aside, "" if it was played. values: the drawn
    number of each parameter, by name.

    If the disk is full, lines are kept and written with the next ones.
    """

    def __init__(self, folder: Path, process: int = 0):
        """Chooses the file.

        Args:
          folder: the run's folder.
          process: the number of this process; each process above 0 has a file of its own.
        """
        self._path = folder / (f"physics-{process}.jsonl" if process else "physics.jsonl")
        self._file = files.Appended(self._path, at_once=False)
        self._played = self._refused = 0  # since metrics()
        self._used = False  # whether the run draws physics

    def add(self, env_steps: int, draws: list[tuple[int, Draw]]) -> None:
        """Appends a line for each draw.

        Args:
          env_steps: the run's environment steps so far.
          draws: pairs of an actor's number and a draw that it played.
        """
        if not draws:
            return
        text = ""
        for actor, draw in draws:
            self._refused += bool(draw.refused)
            self._played += not draw.refused
            line = {
                "env_steps": env_steps,
                "actor": actor,
                "group": draw.group,
                "draw": draw.number,
                "refused": draw.refused,
                "values": draw.values,
            }
            text += json.dumps(line) + "\n"
        self._file.append(text.encode())

    @property
    def error(self) -> OSError | None:
        """Returns the reason why some lines are not written yet, None if all are."""
        return self._file.error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def drop_beyond(self, env_steps: int) -> None:
        """Removes the lines that came after a checkpoint, as a resumed run writes them again.

        Args:
          env_steps: the environment steps of the checkpoint.
        """
        self._file.close()  # another takes its place
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["env_steps"] <= env_steps]
        files.write_text(self._path, "".join(kept))

    def metrics(self) -> dict[str, float]:
        """Returns the numbers of draws played and refused since the last call, for the log, of all
        processes; nothing if the run draws no physics. It is collective, so all must call it."""
        played, refused = hosts.all_sum(self._played), hosts.all_sum(self._refused)
        self._played = self._refused = 0
        self._used |= played + refused > 0
        if not self._used:
            return {}
        return {"randomise/draws": float(played), "randomise/refused": float(refused)}
