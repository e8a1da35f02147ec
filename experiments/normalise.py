"""Whether PPO learns faster where observations are normalised by running statistics.

    python -m experiments.normalise [--seeds 5] [--jobs 2] [--env-steps 500000]

A csv and a plot for each of two MuJoCo tasks, with PPO's preset "small".
"""

import dataclasses

from experiments.study import Options, study
from rlsys import cli

TASKS = ("Reacher-v5", "Hopper-v5")


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """PPO on two MuJoCo tasks, with observations as they are and normalised."""

    env_steps: int = 500_000
    """Environment steps of each run."""


def main(config: Config) -> None:
    for task in TASKS:
        words = ["ppo", "--preset", "small", "--env", task, "--env-steps", str(config.env_steps)]
        agents = {"raw": words, "normalised": [*words, "--normalize-observations", "True"]}
        study(f"normalise-{task}", agents, config)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
