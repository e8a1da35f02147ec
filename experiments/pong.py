"""PPO learns Pong from pixels on two CPU cores: `make train ALGO=ppo ENV=Pong-v5` without a GPU.

    python -m experiments.pong [--seeds 3]

One run at a time, on all cores.
"""

import dataclasses

import tyro

from experiments.study import Options, study

WORDS = "ppo --env Pong-v5"

if __name__ == "__main__":
    options = tyro.cli(Options, default=dataclasses.replace(Options(), seeds=3, jobs=1))
    study("pong", {"ppo": WORDS.split()}, options, pinned=False)
