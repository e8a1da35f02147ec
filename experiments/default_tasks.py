"""IMPALA, PPO and Ape-X learn their default task, where 500 is the most there is; PPO also learns
it without velocities, and IMPALA and PPO with as many environments as make bench has.

python -m experiments.default_tasks [--seeds 5] [--jobs 2]
"""

from experiments.study import Options, study
from rlsys import cli

AGENTS = {"impala": ["impala"], "ppo": ["ppo"]}
APEX = {"apex": ["apex"]}
RECURRENT = {
    "recurrent": ["ppo", "--preset", "recurrent"],
    "feed-forward": ["ppo", "--preset", "recurrent", "--core-size", "0"],
}
MANY_IMPALA = "--num-envs 1024 --batch-size 128 --learning-rate 5e-4 --env-steps 8000000"
MANY_PPO = "--num-envs 2048 --unroll-length 16 --refresh-steps 16 --learning-rate 1.5e-3"
MANY_PPO += " --env-steps 4000000"
MANY = {"impala": ["impala", *MANY_IMPALA.split()], "ppo": ["ppo", *MANY_PPO.split()]}


def main(options: Options) -> None:
    study("cartpole", AGENTS, options)
    study("cartpole-apex", APEX, options)
    study("cartpole-without-velocities-ppo", RECURRENT, options)
    study("cartpole-many", MANY, options)


if __name__ == "__main__":
    cli.run(main, Options(), __doc__)
