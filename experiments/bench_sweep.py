"""How much faster members train as one sweep than the same runs one after the other.

    python -m experiments.bench_sweep [--members 8] [--csv FILE]
        [--fields="--num-envs 32 --batch-size 32"]

Whole commands, each a process of its own: start, compiling, training and evaluation; and training
by itself: environment steps of all members per second, the median over the log's lines but the
first two, in which programs are compiled.
"""

import csv
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rlsys import cli
from rlsys.running import metrics_file
from rlsys.sweep.members import members


@dataclasses.dataclass(frozen=True)
class Config:
    """Says what is timed."""

    algorithm: str = "impala"
    """Which to train."""
    env: str = "CartPole-v1"
    """EnvPool task."""
    members: int = 8
    """Members of the sweep, by seed."""
    env_steps: int = 400_000
    """The environment steps of each member."""
    fields: str = ""
    """More words for the algorithm's command line."""
    repeats: int = 1
    """How often everything is timed."""
    cold: bool = False
    """Whether sweep and runs each begin with an empty cache of compiled programs."""
    csv: Path | None = None
    """Where to write what it took."""


def command(module: str, words: list[str], folder: Path, cache: Path | None) -> tuple[float, float]:
    """Seconds that a command takes, and the environment steps per second of its log."""
    env = os.environ | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", module, *words, "--run-dir", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=env,
    )
    seconds = time.perf_counter() - begin
    rates = [line["env_steps_per_second"] for line in metrics_file.read(folder)][2:]
    return seconds, float(np.median(rates))


def measure(config: Config, folder: Path) -> dict[str, float]:
    """Seconds and steps per second of the sweep and of the runs one after the other."""
    caches = [folder / name if config.cold else None for name in ("cache-sweep", "cache-runs")]
    words = [
        *("--env", config.env, "--env-steps", str(config.env_steps)),
        *("--log-every", str(config.env_steps // 20), *config.fields.split()),
        *("--seeds", str(config.members)),
    ]
    seconds, rate = command("rlsys.sweep", [config.algorithm, *words], folder / "sweep", caches[0])
    rate *= config.members
    print(f"a sweep of {config.members} members: {seconds:.1f} s, training {rate:,.0f} steps/s")
    alone = [
        command("rlsys.train", [config.algorithm, *m.words], folder / str(i), caches[1])
        for i, m in enumerate(members(config.algorithm, words))
    ]
    all_seconds, rate_alone = sum(s for s, _ in alone), float(np.median([r for _, r in alone]))
    print(f"one after the other: {all_seconds:.1f} s, training {rate_alone:,.0f} steps/s")
    found = {
        "sweep_seconds": seconds,
        "runs_seconds": all_seconds,
        "sweep_steps_per_second": rate,
        "run_steps_per_second": rate_alone,
        "times_the_speed": all_seconds / seconds,
        "times_the_speed_of_training": rate / rate_alone,
    }
    print(
        f"the sweep is {found['times_the_speed']:.2f} times as fast, and "
        f"{found['times_the_speed_of_training']:.2f} times in training alone"
    )
    return found


def main(config: Config) -> None:
    rows = []
    for repeat in range(config.repeats):
        with tempfile.TemporaryDirectory() as folder:
            about = dataclasses.asdict(config) | {"repeat": repeat, "cores": os.cpu_count()}
            rows.append(about | measure(config, Path(folder)))
    if config.csv:
        with config.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [name for name in rows[0] if name != "csv"],
                                    extrasaction="ignore")  # fmt: skip
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
