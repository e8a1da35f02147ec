"""A run's physics.jsonl: a line for each draw of physics that was played or refused."""

import contextlib
import json
from pathlib import Path

from rlsys.envs.randomise.groups import Draw
from rlsys.running import files


class PhysicsFile:
    """Appends draws to physics.jsonl, which is made with the first of them.

    A line has env_steps, the environment steps of the run by which the draw was played; actor and
    group, which played it; draw, its number since the environments started afresh; refused, why it
    was set aside, "" if it was not; and values, the number that was drawn by each parameter's name.
    """

    def __init__(self, folder: Path, process: int = 0):
        """Names the file.

        Args:
          process: the number of this one of several; those above 0 have files of their own.
        """
        self._path = folder / (f"physics-{process}.jsonl" if process else "physics.jsonl")
        self._played = self._refused = 0  # since metrics()
        self._used = False  # whether the run draws physics

    def add(self, env_steps: int, draws: list[tuple[int, Draw]]) -> None:
        """Appends lines; draws: each with the number of its actor."""
        if not draws:
            return
        self._used, text = True, ""
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
        with contextlib.closing(files.Appended(self._path)) as file:
            file.append(text.encode())

    def drop_beyond(self, env_steps: int) -> None:
        """Drops the lines after a checkpoint, which a resumed run writes again."""
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["env_steps"] <= env_steps]
        files.write_text(self._path, "".join(kept))

    def metrics(self) -> dict[str, float]:
        """Returns numbers for the log, since the last call; none if the run draws no physics."""
        if not self._used:
            return {}
        found = {"randomise/draws": self._played, "randomise/refused": self._refused}
        self._played = self._refused = 0
        return {name: float(x) for name, x in found.items()}
