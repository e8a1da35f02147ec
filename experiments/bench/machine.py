"""The machine: what it is called, and its limits, which other figures are shares of."""

import os
import platform
import re
import shlex
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.bench import clock
from experiments.bench.figures import Figure
from rlsys.running import provenance


def about(words: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the machine, versions, commit and date of a result, and its command, in words."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    yield {
        "machine": {
            "cpu": names[0] if names else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
            "system": platform.platform(terse=True),
        },
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(words),
    }


def hand_over() -> clock.Call:
    """Return a call that wakes a thread and is woken by it, on the cores that are allowed now."""
    (there, to_thread), (back, to_us) = os.pipe(), os.pipe()

    def echo() -> None:
        while os.read(there, 1):
            os.write(to_us, b"x")

    threading.Thread(target=echo, daemon=True).start()
    return lambda: (os.write(to_thread, b"x"), os.read(back, 1))


def figures(quick: bool) -> Iterator[Figure]:
    product, gflop = clock.matrix_product(2048)
    calls = {"copy": clock.copy(2**28), "product": product}
    seconds = clock.alternate(calls, 9, 0.1, quick)
    yield Figure("machine", "memory copy", "256 MB", "GB/s", 2**28 / 1e9 / seconds["copy"])
    rates = gflop / seconds["product"]
    yield Figure("machine", "matrix product", "float32 2048 x 2048", "GFLOP/s", rates)
    every = os.sched_getaffinity(0)
    for where, cores in {"on any core": every, "both on one core": {min(every)}}.items():
        os.sched_setaffinity(0, cores)  # of this thread and of those that it starts
        times = 1e6 * clock.alternate({"call": hand_over()}, 9, 0.05, quick)["call"]
        yield Figure("machine", "waking a thread and being woken", where, "us", times)
