"""How long until it trains: import, and from the command to the first update.

Once with nothing in the cache of compiled programs, and once more.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.bench.figures import Figure, Setting

IMPORT = "import time; t = time.perf_counter(); import rlsys.train; print(time.perf_counter() - t)"
BARS = {"import": 2.0, "first start": 40.0, "second start": 15.0}  # s
TASKS = (("impala", "CartPole-v1"), ("ppo", "CartPole-v1"), ("r2d2", "CartPole-v1"),
         ("impala", "Pong-v5"))  # fmt: skip
LIMIT = 300.0  # s, after which a run is given up


def import_seconds() -> float:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True)
    return float(done.stdout)


def first_update(algorithm: str, task: str, cache: str) -> float:
    """Seconds from the command to the first line of the log with an update; then it is ended.

    Raises:
      RuntimeError: it ended by itself, or there was none for LIMIT seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rlsys.train", algorithm, "--env", task]
        command += ["--log-every", "1", "--run-dir", f"{folder}/run"]
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        path = Path(folder, "run/metrics.jsonl")
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            while not _updated(path):
                if process.poll() is not None or time.perf_counter() - begin > LIMIT:
                    process.kill()
                    raise RuntimeError(f"{' '.join(command)}: {process.communicate()[0]}")
                time.sleep(0.02)
            return time.perf_counter() - begin
        finally:
            process.kill()
            process.communicate()


def _updated(path: Path) -> bool:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return any(json.loads(x)["learner_steps"] > 0 for x in lines if x.endswith("\n"))


def figures(setting: Setting) -> Iterator[Figure]:
    repeats = setting.samples(2)
    seconds = [import_seconds() for _ in range(repeats + 1)][1:]  # the first reads the disk
    yield _figure("import", "rlsys.train", seconds)
    for algorithm, task in TASKS[:1] if setting.quick else TASKS:
        times: dict[str, list[float]] = {"first start": [], "second start": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                for name in times:
                    times[name].append(first_update(algorithm, task, cache))
        for name, seconds in times.items():
            yield _figure(name, f"{algorithm}, {task}", seconds)


def _figure(name: str, setting: str, seconds: list[float]) -> Figure:
    limit = [BARS[name]] * len(seconds)
    return Figure("start", name, setting, "s", seconds, limit, "limit", 1.0)
