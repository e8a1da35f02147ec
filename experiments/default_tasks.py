"""IMPALA and PPO reach 500, the most there is, on their default task; PPO also without velocities.

python -m experiments.default_tasks [--seeds 5] [--jobs 2]
"""

import tyro

from experiments.study import Options, study

AGENTS = {"impala": ["impala"], "ppo": ["ppo"]}
RECURRENT = {
    "recurrent": ["ppo", "--preset", "recurrent"],
    "feed-forward": ["ppo", "--preset", "recurrent", "--core-size", "0"],
}

if __name__ == "__main__":
    options = tyro.cli(Options)
    study("cartpole", AGENTS, options)
    study("cartpole-without-velocities-ppo", RECURRENT, options)
