"""PPO and IMPALA learn Pong from pixels on two CPU cores: `make train ALGO=ppo ENV=Pong-v5` without
a GPU, and the same of IMPALA.

    python -m experiments.pong [--only ppo] [--seeds 3]

One run at a time, on all cores. Writes results/pong-<algorithm>.csv, curves and a picture.
"""

import dataclasses

from experiments.study import Options, check_only, study
from rlsys import cli

WORDS = {name: f"{name} --env Pong-v5 --preset pong-cpu".split() for name in ("ppo", "impala", "r2d2")}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Trains each algorithm on Pong."""

    only: tuple[str, ...] = tuple(WORDS)
    """The algorithms."""

    def __post_init__(self):
        check_only("algorithm", self.only, WORDS)


def main(config: Config) -> None:
    for name in config.only:
        study(f"pong-{name}", {name: WORDS[name]}, config, pinned=False)


if __name__ == "__main__":
    cli.run(main, Config(seeds=3, jobs=1), __doc__)
