"""These functions check that the memory which a replay or a sweep will take is free."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from rlsys.types import UserError


def row_bytes(tree: Any) -> int:
    """Count the bytes of one row of a tree of arrays [N, ...]."""
    return sum(int(np.prod(x.shape[1:])) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Count the bytes of a tree of arrays, or of anything with their shapes and dtypes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def free_bytes() -> int:
    """Return the bytes that the machine, or a cgroup if less, lets this process still take."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and limit.read_text().strip().isdigit():
        cache = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        taken = int(used.read_text()) - int(
            cache["inactive_file"]
        )  # cached files, which the kernel may drop
        free = min(free, int(limit.read_text()) - taken)
    return free


def check_sweep(num_members: int, on_host: int, on_devices: int, devices: Iterable[Any]) -> str:
    """Say in a sentence how much memory a sweep's members take beside their environments.

    Args:
      num_members: number of members.
      on_host: bytes of host memory that all members take together.
      on_devices: bytes of device memory that all members take together.
      devices: the devices that they learn on.

    Raises:
      UserError: it is more than 90 % of what is free; the sentence says how many would fit.
    """
    stats = [device.memory_stats() for device in devices]
    needs = {"": (on_host + on_devices, free_bytes())}
    if all(stats):  # the devices have memory of their own
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
    """Say in a sentence how much memory a replay will take when it is full.

    Args:
      num_bytes: bytes of the full replay.
      capacity: steps of the full replay.

    Raises:
      UserError: it is more than 90 % of what is free; the sentence says how many steps would fit.
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
