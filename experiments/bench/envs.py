"""Playing: EnvPool alone with random actions, and each algorithm's actors beside it."""

from collections.abc import Iterator

from experiments.bench.figures import Figure
from experiments.bench.parts import seconds_per_step
from rlsys import algorithms

MEMORY = "MiniGrid-MemoryS7-v0"
CASES = (
    ("impala", "--env CartPole-v1"),
    *((name, f"--env {MEMORY}") for name in algorithms.NAMES),
    ("r2d2", f"--env {MEMORY} --num-envs 256"),  # as many actors as the paper's
    ("impala", "--env Pong-v5"),
)  # algorithm, words of the command line
BARS = {MEMORY: 0.4}  # of EnvPool's rate, for unrolls


def figures(quick: bool) -> Iterator[Figure]:
    for name, words in CASES[:1] if quick else CASES:
        config = algorithms.config_of(name, words.split(), on_cpu=False)
        seconds = seconds_per_step(name, config, "alone act unroll", 7, 0.3, quick)
        alone, act, unroll = (1.0 / x for x in seconds.values())
        what, bar = f"{config.env} x {config.num_envs}", BARS.get(config.env)
        yield Figure("envs", f"EnvPool alone, as {name}", what, "steps/s", alone)
        yield Figure("envs", f"{name} act", what, "steps/s", act, alone, "EnvPool")
        yield Figure("envs", f"{name} unroll", what, "steps/s", unroll, alone, "EnvPool", bar)
