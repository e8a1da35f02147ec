"""These functions check that the memory which a replay or a sweep will take is free."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

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


def free_bytes() -> float:
    """Return the bytes that this process may still take, by the machine and by its cgroups."""
    try:
        groups = _cgroups(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    except OSError:  # not Linux
        groups = []
    return min([psutil.virtual_memory().available, *map(_left_in, groups)])


class _Files(NamedTuple):
    """Names the files of a version of cgroups."""

    limit: str
    used: str
    cache: str  # the entry of memory.stat that counts cached files, which the kernel may drop


V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = _Files("memory.max", "memory.current", "inactive_file")


def _cgroups(own: str, root: Path) -> list[tuple[Path, _Files]]:
    """List the folders of the cgroups that bound this process: its own, and those around it.

    If a container does not see its own path below the root, the root holds its limit.

    Args:
      own: content of /proc/self/cgroup, whose lines are number:controllers:path.
      root: where cgroups are mounted.
    """
    found = []
    for line in own.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mounts, files = [root, root / "unified"], V2
        elif "memory" in controllers.split(","):
            mounts, files = [root / "memory"], V1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            nested = [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            found += [(folder, files) for folder in nested if (folder / files.limit).exists()]
    return found


def _left_in(group: tuple[Path, _Files]) -> float:
    """Return the bytes that a cgroup still lets its processes take, inf if it has no limit."""
    folder, files = group
    try:
        limit = (folder / files.limit).read_text().strip()
        if not limit.isdigit():  # "max"
            return math.inf
        stat = (folder / "memory.stat").read_text().splitlines()
        cached = int(dict(line.split() for line in stat)[files.cache])
        return int(limit) - int((folder / files.used).read_text()) + cached
    except (OSError, KeyError, ValueError):  # a group that this process cannot read
        return math.inf


def check_sweep(num_members: int, on_host: int, on_devices: int, devices: Iterable[Any]) -> str:
    """Return a sentence on the memory that a sweep's members take beside their environments.

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
    """Return a sentence on the memory that a replay will take when it is full.

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
