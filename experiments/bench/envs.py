"""Playing: EnvPool alone with random actions, and actors beside it."""

from collections.abc import Iterator

from experiments.bench import play
from experiments.bench.figures import Figure, Setting
from rlsys import train

CASES = (
    ("CartPole-v1", "impala"),
    ("MiniGrid-MemoryS7-v0", "impala"),
    ("MiniGrid-MemoryS7-v0", "r2d2"),
    ("Pong-v5", "impala"),
)
BARS = {"MiniGrid-MemoryS7-v0": 0.4}  # of EnvPool's rate, for unrolls


def figures(setting: Setting) -> Iterator[Figure]:
    for task, algorithm in CASES[:1] if setting.quick else CASES:
        module, configs = train.algorithm(algorithm)
        config = configs.preset(None, task)
        seconds = 0.0 if setting.quick else 0.3
        rates = play.rates(module, config, setting.samples(7), seconds)
        what = f"{task} x {config.num_envs}"
        yield Figure("envs", f"EnvPool alone, as {algorithm}", what, "steps/s", rates["alone"])
        ceiling = rates["alone"], "EnvPool"
        yield Figure("envs", f"{algorithm} act", what, "steps/s", rates["act"], *ceiling)
        yield Figure("envs", f"{algorithm} unroll", what, "steps/s", rates["unroll"], *ceiling,
                     BARS.get(task))  # fmt: skip
