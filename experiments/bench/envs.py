"""Playing: EnvPool alone with random actions, and actors beside it."""

import dataclasses
from collections.abc import Iterator

from experiments.bench import play
from experiments.bench.figures import Figure, Setting
from rlsys import train

CASES = (
    ("CartPole-v1", "impala", None),
    ("MiniGrid-MemoryS7-v0", "impala", None),
    ("MiniGrid-MemoryS7-v0", "r2d2", None),
    ("MiniGrid-MemoryS7-v0", "r2d2", 256),  # as many actors as the paper's
    ("Pong-v5", "impala", None),
)  # task, algorithm, environments if not the preset's
BARS = {"MiniGrid-MemoryS7-v0": 0.4}  # of EnvPool's rate, for unrolls


def figures(setting: Setting) -> Iterator[Figure]:
    for task, algorithm, num_envs in CASES[:1] if setting.quick else CASES:
        module, configs = train.algorithm(algorithm)
        config = configs.preset(None, task)
        config = dataclasses.replace(config, num_envs=num_envs or config.num_envs)
        seconds = 0.0 if setting.quick else 0.3
        rates = play.rates(module, config, setting.samples(7), seconds)
        what = f"{task} x {config.num_envs}"
        yield Figure("envs", f"EnvPool alone, as {algorithm}", what, "steps/s", rates["alone"])
        ceiling = rates["alone"], "EnvPool"
        yield Figure("envs", f"{algorithm} act", what, "steps/s", rates["act"], *ceiling)
        yield Figure("envs", f"{algorithm} unroll", what, "steps/s", rates["unroll"], *ceiling,
                     BARS.get(task))  # fmt: skip
