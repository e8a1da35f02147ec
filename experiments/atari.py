"""Atari games are learned from pixels on two CPU cores, with the presets that a machine without an
accelerator takes: `make train ALGO=ppo ENV=Pong-v5`, and the same of other algorithms and games.

    python -m experiments.atari [--only pong-ppo breakout-ppo] [--seeds 3]

One run goes at a time, on all cores. Each agent has a csv, curves and a picture in results/.
"""

import dataclasses

from experiments.study import Options, check_only, study
from rlsys import cli

WORDS = {
    "pong-ppo": "ppo --env Pong-v5 --preset pong-cpu",
    "pong-impala": "impala --env Pong-v5 --preset pong-cpu",
    "pong-r2d2": "r2d2 --env Pong-v5 --preset pong-cpu",
    "breakout-ppo": "ppo --env Breakout-v5 --preset atari-cpu",
    "qbert-ppo": "ppo --env Qbert-v5 --preset atari-cpu",
}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Trains agents, each on one game."""

    only: tuple[str, ...] = tuple(WORDS)
    """The agents, each a game and an algorithm."""

    def __post_init__(self):
        check_only("agent", self.only, WORDS)


def main(config: Config) -> None:
    for name in config.only:
        algorithm = name.rpartition("-")[2]
        study(name, {algorithm: WORDS[name].split()}, config, pinned=False)


if __name__ == "__main__":
    cli.run(main, Config(seeds=3, jobs=1), __doc__)
