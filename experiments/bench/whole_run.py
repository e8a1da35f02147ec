"""Trains as `python -m rlsys.train` does, then measures the parts alone, in the same process:

python -m experiments.bench.whole_run ALGORITHM --env TASK [--field value ...]

The last line of its output is JSON: peak memory of training, and environment steps per second of
EnvPool alone ("alone") and of EnvPool, acting and learning one after the other ("sum").
"""

import json
import sys

from experiments.bench import clock, made_up, play
from rlsys import cli, train
from rlsys.acting.actors import make_envs
from rlsys.running import run

MARK = "parts: "
SECONDS = 1.0  # that each sample of EnvPool's and the policy's rate takes


def main(words: list[str]) -> None:
    name, *rest = words
    module, configs = train.algorithm(name)
    env, rest = cli.take(rest, "--env")
    config = cli.parse(configs.preset(None, env), rest, "")
    module.train(config)
    memory = clock.peak_memory()

    pools = make_envs(config)
    network = module.make_network(config, pools)
    for pool in pools:
        pool.close()
    calls = {
        "alone": play.envpool_alone(config, config.unroll_length),
        "act": play.act(module, config),
    }
    times = {name: min(x) for name, x in clock.alternate(calls, 3, SECONDS).items()}
    step = made_up.learner_step(module, config, network)
    learning = min(clock.alternate({"learn": step.call}, 2, 0.0)["learn"])
    alone = times["alone"] / (config.unroll_length * config.num_envs)
    total = alone + times["act"] / config.num_envs + learning / step.env_steps
    found = {"memory": memory, "alone": 1.0 / alone, "sum": 1.0 / total}
    print(MARK + json.dumps(found))


if __name__ == "__main__":
    run.prepare_process()
    main(sys.argv[1:])
