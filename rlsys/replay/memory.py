"""Memory: what a replay or a sweep will take, and what there is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from rlsys.types import UserError


def row_bytes(tree: Any) -> int:
    """Bytes of one row of arrays [N, ...]."""
    return sum(int(np.prod(x.shape[1:])) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Of arrays, or of what has their shapes and dtypes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


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


def check_sweep(num_members: int, on_host: int, on_devices: int, devices: Iterable[Any]) -> str:
    """A sentence on the memory that a sweep's members take beside their environments.

    Args:
      on_host, on_devices: bytes of all members together.
      devices: that they learn on.

    Raises:
      UserError: it is more than there is.
    """
    stats = [device.memory_stats() for device in devices]
    needs = {"": (on_host + on_devices, free_bytes())}
    if all(stats):  # they have memory of their own
        left = sum(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
        needs = {"": (on_host, free_bytes()), " on the devices": (on_devices, left)}
    sentences = []
    for where, (num_bytes, free) in needs.items():
        sentence = f"{num_bytes / 1e9:.2f} GB{where}, of {free / 1e9:.1f} GB free"
        if num_bytes > 0.9 * free:
            raise UserError(
                f"{num_members} members take {sentence}: "
                f"{int(0.8 * num_members * free / num_bytes)} would fit"
            )
        sentences.append(sentence)
    return f"{num_members} members take {' and '.join(sentences)}, beside their environments"


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
