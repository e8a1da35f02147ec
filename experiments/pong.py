"""PPO learns Pong from pixels on two CPU cores: `make train ALGO=ppo ENV=Pong-v5` without a GPU.

    python -m experiments.pong [--seeds 3]

One run at a time, on all cores.
"""

from experiments.study import Options, study
from rlsys import cli

WORDS = "ppo --env Pong-v5"


def main(options: Options) -> None:
    study("pong", {"ppo": WORDS.split()}, options, pinned=False)


if __name__ == "__main__":
    cli.run(main, Options(seeds=3, jobs=1), __doc__)
