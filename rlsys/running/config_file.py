"""A run's config.json: its algorithm, Config, changes, number of processes, and who trained it."""

import json
import os
from pathlib import Path
from typing import Any

from rlsys.running import files
from rlsys.types import UserError


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write config.json, whole or not at all, and make the folder if it is missing.

    Raises:
      UserError: it cannot be written.
    """
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}") from None


def load(folder: str | os.PathLike) -> dict[str, Any]:
    """Read a run's config.json: its algorithm, its config and the number of its processes. A sweep
    has members in place of config.

    Raises:
      UserError: it is missing or damaged.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text())
        what = "members" if "members" in content else "config"
        needed = {"algorithm": str(content["algorithm"]), what: content[what]}
        for config in configs_of(content):
            if not isinstance(config["env"], str):
                raise TypeError(f"env is {config['env']!r}")
        for change in content.get("changes", []):
            change["env_steps"], change["fields"].items()
        return {"processes": 1} | content | needed
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {folder} is no run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def configs_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """List the Configs in config.json's content: the run's, or those of a sweep's members."""
    members = content.get("members")
    return [content["config"]] if members is None else [m["config"] for m in members]
