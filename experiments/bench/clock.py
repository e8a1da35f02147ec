"""Time calls in turn, so that a machine that slows down does so for all of them."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Call = Callable[[], object]


def alternate(
    calls: dict[str, Call], repeats: int, seconds: float, quick: bool = False
) -> dict[str, Any]:
    """Time each call `repeats` times, in rounds that go back and forth.

    Args:
      calls: by name; each is waited for until what it returns is computed.
      seconds: the least that one sample takes; it is the mean over as many calls as fill it.
      quick: take two samples of one call each, whatever the two above say.

    Returns:
      seconds per call, numpy [repeats] by name.
    """
    repeats, seconds = (2, 0.0) if quick else (repeats, seconds)
    counts = {}
    for name, call in calls.items():
        _time(call, 1)  # compiles
        once = min(_time(call, 1) for _ in range(2))
        counts[name] = max(1, round(seconds / max(once, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats):
        for name in list(calls)[:: 1 if i % 2 else -1]:
            samples[name].append(_time(calls[name], counts[name]))
    return {name: np.array(x) for name, x in samples.items()}


def _time(call: Call, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - begin) / count


def copy(num_bytes: float) -> Call:
    """Return a call that copies so many bytes into memory that exists already."""
    source = np.ones(max(int(num_bytes), 1), np.uint8)
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


def matrix_product(size: int, dtype: str = "float32") -> tuple[Call, float]:
    """Return a call that multiplies two [size, size] matrices, and its GFLOP."""
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    return lambda: product(x), 2e-9 * size**3
