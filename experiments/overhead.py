"""What past selves and randomisation cost: training with them and without, in turn.

    python -m experiments.overhead [--turns 24] [--only past-selves]

Both runs of a pair live side by side, but only one is awake at a time: they take turns of some
seconds, so that a machine that is slow for a minute is slow for both. Writes results/overhead.csv,
with a row for each turn: its steps/s are those between two lines of its log. The ratio is that of
the sums over turns, with to without; its interval is a bootstrap over pairs of turns.
"""

import contextlib
import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.study import RESULTS, check_only, write
from rlsys import cli
from rlsys.running import metrics_file
from rlsys.types import UserError

PHYSICS = "--randomise.physics gear=logscale:0.5:2 mass=scale:0.5:1.5 damping=logscale:0.3:3"
EFFECTS = (
    "--randomise.observation-noise 0.01 --randomise.action-delay 0.5 --randomise.action-noise 0.05"
)
HOPPER = "ppo --env Hopper-v5 --log-every 2048"
WIDE = f"{HOPPER} --num-envs 64 --unroll-length 32 --refresh-steps 32"
HAND = "ppo --env HandManipulateBlockRotateZDense-v1 --separate-networks --log-every 4096"
PENDULUM = "ppo --env InvertedDoublePendulum-v5 --preset small --log-every 2048"
PAIRS = {  # the words of both runs, of the one without, of the one with
    "past-selves": (
        "ppo --env ConnectFour-v1 --eval-every 0 --log-every 16384",
        "--past-share 0",
        "--past-share 0.2",
    ),
    "physics, Hopper": (HOPPER, "", PHYSICS),
    "physics, Hopper, 64 environments": (WIDE, "", PHYSICS),
    "Dactyl's table, Shadow Hand": (HAND, "", "--randomise.preset dactyl"),
    "physics, InvertedDoublePendulum": (PENDULUM, "", PHYSICS),
    "noise and delay, InvertedDoublePendulum": (PENDULUM, "", EFFECTS),
}
ENDLESS = "--env-steps 1000000000 --no-gif"
WARM = 4  # lines of the log before the first turn: programs are compiled by then


@dataclasses.dataclass(frozen=True)
class Config:
    """Times training with past selves, or with randomisation, and without."""

    only: tuple[str, ...] = tuple(PAIRS)
    """The pairs of runs."""
    turns: int = 24
    """The number of turns of each run."""
    seconds: float = 4.0
    """A turn ends with the first line of the log after so many seconds."""
    runs: str = "runs"
    """Folder of the runs, which are deleted at the end."""

    def __post_init__(self):
        check_only("pair", self.only, PAIRS)


class Asleep:
    """A run that trains only within take_turn."""

    def __init__(self, words: list[str], folder: Path):
        """Starts the run, lets it compile, and puts it to sleep."""
        self._folder = folder
        command = [sys.executable, "-m", "rlsys.train", *words, f"--run-dir={folder}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        while len(metrics_file.read(folder)) < WARM:
            self._wait()
        self._signal(signal.SIGSTOP)

    def take_turn(self, seconds: float) -> float:
        """Lets the run train for about so many seconds; returns its environment steps a second."""
        self._signal(signal.SIGCONT)
        begin, first = self._next_line()
        while (now := self._next_line())[0] < begin + seconds:
            pass
        self._signal(signal.SIGSTOP)
        return (now[1] - first) / (now[0] - begin)

    def end(self) -> None:
        """Kills the run and deletes its folder."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder)

    def _next_line(self) -> tuple[float, int]:
        """Waits for a line of the log; returns when it came, and its environment steps."""
        size = self._size()
        while self._size() == size:
            self._wait()
        return time.perf_counter(), metrics_file.read(self._folder)[-1]["env_steps"]

    def _size(self) -> int:
        return (self._folder / "metrics.jsonl").stat().st_size

    def _wait(self) -> None:
        if self._process.poll() is not None:
            raise UserError(f"the run in {self._folder} ended by itself")
        time.sleep(0.005)

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)


@contextlib.contextmanager
def both(name: str, runs: str) -> Iterator[list[Asleep]]:
    """Starts the runs of a pair, without and with, one after the other, and ends them."""
    words, *apart = PAIRS[name]
    with contextlib.ExitStack() as stack:
        started = []
        for arm, more in zip(("without", "with"), apart, strict=True):
            folder = Path(runs) / f"overhead-{name.replace(', ', '-')}-{arm}"
            started.append(Asleep([*words.split(), *more.split(), *ENDLESS.split()], folder))
            stack.callback(started[-1].end)
        yield started


def interval(rates: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the ratio of sums; rates: [turns, 2], without and with."""
    rows = np.random.default_rng(0).integers(len(rates), size=(2_000, len(rates)))
    sums = rates[rows].sum(axis=1)
    low, high = np.percentile(sums[:, 1] / sums[:, 0], [2.5, 97.5])
    return float(low), float(high)


def main(config: Config) -> None:
    path = RESULTS / "overhead.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [row for row in rows if row["pair"] not in config.only]
    for name in config.only:
        rates = np.empty((config.turns, 2))
        with both(name, config.runs) as runs:
            for i in range(config.turns):
                for j in (0, 1) if i % 2 == 0 else (1, 0):
                    rates[i, j] = runs[j].take_turn(config.seconds)
        rows += [
            {
                "pair": name,
                "turn": i,
                "arm": ("without", "with")[j],
                "words": PAIRS[name][1 + j],
                "env_steps_per_second": rates[i, j],
            }
            for i, j in np.ndindex(*rates.shape)
        ]
        write(path, rows)
        without, with_ = rates.mean(axis=0)
        low, high = interval(rates)
        print(
            f"{name}: {without:,.0f} steps/s without, {with_:,.0f} with; ratio "
            f"{with_ / without:.2f} (95 % interval {low:.2f} to {high:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
