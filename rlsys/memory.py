"""Host memory: what a replay will take, and what there is."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from rlsys.types import UserError


def row_bytes(tree: Any) -> int:
    """Bytes of one row of arrays [N, ...]."""
    return sum(int(np.prod(x.shape[1:])) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def free_bytes() -> int:
    """What this process may still take of the machine, or of its cgroup."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and limit.read_text().strip().isdigit():
        cache = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        taken = int(used.read_text()) - int(cache["inactive_file"])  # files that may be dropped
        free = min(free, int(limit.read_text()) - taken)
    return free


def check_replay(num_bytes: int, capacity: int) -> str:
    """A sentence on the memory that a replay of `capacity` steps will take when full.

    Raises:
      UserError: it is more than there is.
    """
    free = free_bytes()
    if num_bytes > 0.9 * free:  # networks and unrolls need some too
        fits = int(0.8 * capacity * free / num_bytes)
        raise UserError(
            f"a replay of {capacity} steps takes {num_bytes / 1e9:.1f} GB, but there are "
            f"{free / 1e9:.1f} GB free: --replay-capacity {fits} would fit"
        )
    return (
        f"replay of {capacity:,} steps: {num_bytes / 1e9:.2f} GB when full "
        f"({num_bytes / capacity:.0f} bytes a step), of {free / 1e9:.1f} GB free"
    )
