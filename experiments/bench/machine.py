"""The machine's limits, which other figures are shares of."""

from collections.abc import Iterator

from experiments.bench import clock
from experiments.bench.figures import Figure, Setting

COPY = 2**28  # bytes
SIZE = 2048


def figures(setting: Setting) -> Iterator[Figure]:
    copy, size = (2**20, 128) if setting.quick else (COPY, SIZE)
    seconds = clock.alternate(
        {"copy": clock.copy(copy), "product": clock.matrix_product(size)}, setting.samples(9), 0.1
    )
    rate = clock.rates(seconds["copy"], copy / 1e9)
    yield Figure("machine", "memory copy", f"{copy >> 20} MB", "GB/s", rate)
    rate = clock.rates(seconds["product"], 2e-9 * size**3)
    yield Figure("machine", "matrix product", f"float32 {size} x {size}", "GFLOP/s", rate)
