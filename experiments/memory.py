"""Tasks that need memory are learnt by R2D2 and not by the same agent without its LSTM.

    python -m experiments.memory [--preset cartpole] [--seeds 5] [--jobs 2]

The preset with and without memory (core_size 0).
"""

import dataclasses

from experiments.study import Options, study
from rlsys import cli


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """A preset of R2D2 with and without memory."""

    preset: str = "cartpole"
    """Preset of r2d2."""


def main(config: Config) -> None:
    words = ["r2d2", "--preset", config.preset]
    agents = {"r2d2": words, "feed-forward": [*words, "--core-size", "0"]}
    study(f"memory-{config.preset}", agents, config)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
