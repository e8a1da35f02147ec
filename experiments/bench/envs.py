"""Playing: EnvPool alone with random actions, and IMPALA's actors beside it."""

from collections.abc import Iterator

from experiments.bench import play
from experiments.bench.figures import Figure, Setting
from rlsys.algorithms import impala, impala_config

TASKS = ("CartPole-v1", "MiniGrid-MemoryS7-v0", "Pong-v5")


def figures(setting: Setting) -> Iterator[Figure]:
    for task in TASKS[:1] if setting.quick else TASKS:
        config = impala_config.preset(None, task)
        seconds = 0.0 if setting.quick else 0.3
        rates = play.rates(impala, config, setting.samples(7), seconds)
        what = f"{task} x {config.num_envs}"
        yield Figure("envs", "EnvPool alone", what, "steps/s", rates["alone"])
        for name in ("act", "unroll"):
            yield Figure("envs", name, what, "steps/s", rates[name], rates["alone"], "EnvPool")
