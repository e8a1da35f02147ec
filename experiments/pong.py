"""PPO learns Pong from pixels on one CPU core, as far as two hours carry it.

python -m experiments.pong [--seeds 1] [--jobs 1]
"""

import dataclasses

import tyro

from experiments.study import Options, study

WORDS = (
    "ppo --env Pong-v5 --torso shallow --hidden-size 256 --num-envs 32 --unroll-length 64 "
    "--refresh-steps 64 --epochs 3 --minibatches 8 --learning-rate 5e-4 --env-steps 1800000 "
    "--checkpoint-every 300000 --log-every 8192"
)

if __name__ == "__main__":
    options = tyro.cli(Options, default=dataclasses.replace(Options(), seeds=1, jobs=1))
    study("pong", {"ppo": WORDS.split()}, options)
