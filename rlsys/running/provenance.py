"""Records by what a run is trained: the code, the versions, the devices and the command.

config.json holds a record of it for the run's start and for each resume, under "trained_by".
"""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = "rlsys jax jaxlib flax optax envpool gymnasium numpy".split()
ROOT = Path(__file__).parents[2]


def commit(root: Path = ROOT) -> str | None:
    """Return the commit that is checked out in root, with "-dirty" after it if files that it holds
    have changed since; None if root is not a git checkout."""
    if not (root / ".git").exists():  # but not the checkout of something else around it
        return None
    words = "git describe --always --dirty --abbrev=40 --exclude=*".split()
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # another git may be at work there
    try:
        done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # rlsys itself may be used without being installed
            continue
    return found


def record(
    records: list[dict[str, Any]], env_steps: int, learner_steps: int
) -> list[dict[str, Any]]:
    """Return who trained a run, this process last.

    A record that began at this checkpoint or beyond it is left out, because the run has nothing
    that was trained then.

    Args:
      records: of the run until now.
      env_steps, learner_steps: counters from which this process trains.
    """
    device = jax.devices()[0]
    own = {
        "env_steps": env_steps,
        "learner_steps": learner_steps,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(sys.orig_argv),
        "commit": commit(),
        "versions": versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "number": jax.device_count(),
        },
    }
    return [*(entry for entry in records if entry["env_steps"] < env_steps), own]
