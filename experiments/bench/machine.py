"""The machine's limits, which other figures are shares of."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from experiments.bench import clock
from experiments.bench.figures import Figure, Setting

COPY = 2**28  # bytes
SIZE = 2048


@contextlib.contextmanager
def hand_over(cores: set[int]) -> Iterator[Callable[[], object]]:
    """Wakes a thread and is woken by it, through pipes; both stay on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # of this thread, and of those that it starts
    (there, to_other), (back, to_us) = os.pipe(), os.pipe()

    def echo():
        while os.read(there, 1):
            os.write(to_us, b"x")

    other = threading.Thread(target=echo)
    other.start()

    def call():
        os.write(to_other, b"x")
        os.read(back, 1)

    try:
        yield call
    finally:  # or the thread would keep the process alive
        os.close(to_other)
        other.join()
        for end in (there, back, to_us):
            os.close(end)
        os.sched_setaffinity(0, before)


def figures(setting: Setting) -> Iterator[Figure]:
    copy, size = (2**20, 128) if setting.quick else (COPY, SIZE)
    seconds = clock.alternate(
        {"copy": clock.copy(copy), "product": clock.matrix_product(size)}, setting.samples(9), 0.1
    )
    rate = clock.rates(seconds["copy"], copy / 1e9)
    yield Figure("machine", "memory copy", f"{copy >> 20} MB", "GB/s", rate)
    rate = clock.rates(seconds["product"], 2e-9 * size**3)
    yield Figure("machine", "matrix product", f"float32 {size} x {size}", "GFLOP/s", rate)
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    for where, some in {"on any core": cores, "both on one core": {min(cores)}}.items():
        with hand_over(some) as call:
            times = clock.alternate({"call": call}, setting.samples(9), 0.05)["call"]
        name = "waking a thread and being woken"
        yield Figure("machine", name, where, "us", [1e6 * t for t in times])
