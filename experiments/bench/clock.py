"""Timing: calls in turn, so that a machine that slows down does so for all of them."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np


def alternate(
    calls: dict[Any, Callable[[], object]], repeats: int, seconds: float
) -> dict[Any, list[float]]:
    """Seconds that each call takes, `repeats` samples of each; the rounds go back and forth.

    Args:
      calls: by name; what they return is waited for.
      seconds: that a sample takes at least: it is a mean over as many calls as that needs.
    """
    counts = {}
    for name, call in calls.items():
        _time(call, 1)  # compiles
        once = min(_time(call, 1) for _ in range(2))
        counts[name] = max(1, round(seconds / max(once, 1e-7)))
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    for i in range(repeats):
        for name in list(calls)[:: 1 if i % 2 else -1]:
            samples[name].append(_time(calls[name], counts[name]))
    return samples


def _time(call: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - begin) / count


def rates(seconds: list[float], amount: float) -> list[float]:
    """What is done each second, if a call does so much."""
    return [amount / s for s in seconds]


def copy(num_bytes: float) -> Callable[[], object]:
    """Copies so many bytes into memory that is there already."""
    source = np.ones(max(int(num_bytes), 1), np.uint8)
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


def matrix_product(size: int) -> Callable[[], object]:
    """A product of two float32 matrices: 2 size^3 operations."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return lambda: product(x)


def peak_memory() -> float:
    """The most that this process has held at once, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the parent held before exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
