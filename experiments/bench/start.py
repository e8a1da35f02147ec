"""How long until it trains: import, and from the command to the first update.

Once with nothing in the cache of compiled programs, and once more.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.bench.figures import Figure
from rlsys import algorithms
from rlsys.running import metrics_file

IMPORT = "import time; t = time.perf_counter(); import rlsys.train; print(time.perf_counter() - t)"
PIXELS = "Pong-v5"  # with the preset of a machine with an accelerator
LIMITS = {"import": 2.0, "first start": 40.0, "second start": 15.0}  # s


def import_seconds() -> float:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True)
    return float(done.stdout)


def first_update(algorithm: str, task: str, cache: str) -> float:
    """Return the seconds from the command to the log's first line with an update; then end the run.

    Raises:
      RuntimeError: the run ended by itself; why is on standard error.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rlsys.train", algorithm, "--env", task]
        command += ["--log-every", "1", "--run-dir", f"{folder}/run"]
        command += ["--preset", "atari"] if task == PIXELS else []
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            try:
                while not any(x["learner_steps"] for x in metrics_file.read(Path(folder, "run"))):
                    if process.poll() is not None:
                        raise RuntimeError(f"{' '.join(command)} ended without an update")
                    time.sleep(0.02)
                return time.perf_counter() - begin
            finally:
                process.kill()


def figures(quick: bool) -> Iterator[Figure]:
    seconds = [import_seconds() for _ in range(3)][1:]  # the first reads the disk
    yield _figure("import", "rlsys.train", seconds)
    cases = [*((name, "CartPole-v1") for name in algorithms.NAMES), ("impala", PIXELS)]
    for algorithm, task in cases[:1] if quick else cases:
        times: dict[str, list[float]] = {"first start": [], "second start": []}
        for _ in range(2):
            with tempfile.TemporaryDirectory() as cache:
                for name in times:
                    times[name].append(first_update(algorithm, task, cache))
        for name, seconds in times.items():
            yield _figure(name, f"{algorithm}, {task}", seconds)


def _figure(name: str, setting: str, seconds: list[float]) -> Figure:
    limit = [LIMITS[name]] * len(seconds)
    return Figure("start", name, setting, "s", seconds, limit, "limit", 1.0)
