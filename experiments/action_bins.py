"""How many values each dimension of a continuous action should have: PPO with 3 to 15 of them.

    python -m experiments.action_bins [--seeds 5] [--jobs 2] [--env-steps 1000000]

A csv and a plot for each of three MuJoCo tasks, with PPO's preset "small".
"""

import dataclasses

from experiments.study import Options, study
from rlsys import cli

TASKS = ("Reacher-v5", "Hopper-v5", "InvertedDoublePendulum-v5")
BINS = (3, 5, 7, 11, 15)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """PPO on three MuJoCo tasks, with several numbers of action bins."""

    env_steps: int = 1_000_000
    """Environment steps of each run."""


def main(config: Config) -> None:
    for task in TASKS:
        words = ["ppo", "--preset", "small", "--env", task, "--env-steps", str(config.env_steps)]
        agents = {f"{bins}-bins": [*words, "--action-bins", str(bins)] for bins in BINS}
        study(f"action-bins-{task}", agents, config)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
