"""What past selves and randomisation cost: training with them and without, in turn.

    python -m experiments.overhead [--repeats 3] [--only past-selves]

Writes results/overhead.csv, with a row for each run: its steps/s are the median over the second
half of its log. The ratio of each pair of runs is with to without.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from experiments.study import RESULTS, check_only, rlsys_train, write
from rlsys import cli
from rlsys.running import metrics_file

PHYSICS = "--randomise.physics gear=logscale:0.5:2 mass=scale:0.5:1.5 damping=logscale:0.3:3"
EFFECTS = (
    "--randomise.observation-noise 0.01 --randomise.action-delay 0.5 --randomise.action-noise 0.05"
)
HOPPER = "ppo --env Hopper-v5 --env-steps 122880 --log-every 6144"
WIDE = f"{HOPPER} --num-envs 64 --unroll-length 32 --refresh-steps 32"
HAND = (
    "ppo --env HandManipulateBlockRotateZDense-v1 --separate-networks --env-steps 16384 "
    "--log-every 2048"
)
PENDULUM = "ppo --env InvertedDoublePendulum-v5 --preset small --env-steps 300000 --log-every 16384"
PAIRS = {  # the words of both runs, of the one without, of the one with
    "past-selves": (
        "ppo --env ConnectFour-v1 --env-steps 900000 --eval-every 0 --log-every 49152",
        "--past-share 0",
        "--past-share 0.2",
    ),
    "physics, Hopper": (HOPPER, "", PHYSICS),
    "physics, Hopper, 64 environments": (WIDE, "", PHYSICS),
    "Dactyl's table, Shadow Hand": (HAND, "", "--randomise.preset dactyl"),
    "physics, InvertedDoublePendulum": (PENDULUM, "", PHYSICS),
    "noise and delay, InvertedDoublePendulum": (PENDULUM, "", EFFECTS),
}
ENDING = "--eval-episodes 2 --no-gif"


@dataclasses.dataclass(frozen=True)
class Config:
    """Times training with past selves, or with randomisation, and without."""

    only: tuple[str, ...] = tuple(PAIRS)
    """The pairs of runs."""
    repeats: int = 3
    """How often each pair runs."""
    runs: str = "runs"
    """Folder of the runs."""

    def __post_init__(self):
        check_only("pair", self.only, PAIRS)


def main(config: Config) -> None:
    path = RESULTS / "overhead.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [row for row in rows if row["pair"] not in config.only]
    for name in config.only:
        both, *apart = PAIRS[name]
        rates = np.empty((config.repeats, 2))
        for i, j in np.ndindex(*rates.shape):
            folder = Path(config.runs) / f"overhead-{name.replace(', ', '-')}-{j}-{i}"
            words = [*both.split(), *apart[j].split(), *ENDING.split(), f"--run-dir={folder}"]
            rlsys_train(*words)
            log = metrics_file.read(folder)
            rates[i, j] = np.median([x["env_steps_per_second"] for x in log[len(log) // 2 :]])
            rows.append(
                {
                    "pair": name,
                    "repeat": i,
                    "arm": ("without", "with")[j],
                    "words": apart[j],
                    "env_steps_per_second": rates[i, j],
                }
            )
        write(path, rows)
        ratio = rates[:, 1] / rates[:, 0]
        without, with_ = np.median(rates, axis=0)
        print(
            f"{name}: {without:,.0f} steps/s without, {with_:,.0f} with; ratio "
            f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
