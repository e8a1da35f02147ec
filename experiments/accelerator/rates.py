"""Rates of the learner's steps and of the actors, of the three networks of the papers."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.accelerator.settings import PRECISIONS, on_accelerator
from experiments.bench import clock, parts
from experiments.bench.figures import Figure
from experiments.bench.learner import CASES, one_update
from rlsys import algorithms

# The data sheet's dense rates in TFLOP/s, by the beginning of a device's name.
PEAKS = {
    "NVIDIA H100": {"float32": 67.0, "tf32": 494.7, "bfloat16": 989.4},
    "NVIDIA H200": {"float32": 67.0, "tf32": 494.7, "bfloat16": 989.4},
    "NVIDIA A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
}


def learner_steps(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield learner steps of the three networks, and the rate of a large matrix product beside."""
    accelerated = on_accelerator()
    for precision, (products, bfloat16) in PRECISIONS.items():
        if precision == "tf32" and not accelerated:
            continue
        with jax.default_matmul_precision(products):
            dtype = "bfloat16" if bfloat16 else "float32"
            product, operations = clock.matrix_product(8192 if accelerated else 2048, dtype)
            for case, name, words, length, batch, _ in CASES[: 1 if quick else None]:
                batch *= 8 if accelerated else 1
                words += f" --env Pong-v5 --actors 1 --num-envs {batch} --batch-size {batch}"
                words += f" --bfloat16 {bfloat16}"
                config = algorithms.config_of(name, words.split(), on_cpu=False)
                work, unroll = parts.play(name, config)
                learning = parts.learn(one_update(work), config, unroll())
                calls = {"learn": learning.call, "product": product}
                times = clock.alternate(calls, 3, 0.3, quick)
                yield Figure(
                    "learner", case, f"{precision}, {length} x {batch}", "samples/s",
                    length * batch / times["learn"],
                )  # fmt: skip
                yield Figure(
                    "learner", f"{case}, operations", precision, "GFLOP/s",
                    learning.gflop() / times["learn"], operations / times["product"],
                    "matrix product",
                )  # fmt: skip
        rate, peak = operations / times["product"], peak_of(precision)
        yield Figure("learner", "matrix product", precision, "GFLOP/s", rate, peak, "data sheet")


def peak_of(precision: str) -> list[float]:
    """Return the device's rate in GFLOP/s by its data sheet, in a list that is empty if unknown."""
    kind = jax.devices()[0].device_kind
    return [1e3 * rates[precision] for start, rates in PEAKS.items() if kind.startswith(start)]


def actors(quick: bool, seconds: float) -> Iterator[Figure]:
    """Yield the actions a second of the three networks, and steps a second of an actor on Pong."""
    sizes = (32, 256) if on_accelerator() else (32,)
    for case, name, words, *_ in CASES[: 1 if quick else None]:
        for num_envs in sizes:
            more = f" --env Pong-v5 --actors 1 --num-envs {num_envs} --unroll-length 10"
            if "impala" in name:
                more += f" --batch-size {num_envs}"
            given = f"{words} {more} --refresh-steps 10".split()
            config = algorithms.config_of(name, given, on_cpu=False)
            work, unroll = parts.play(name, config)
            played = unroll()
            now = jax.tree.map(lambda x: x[0], played.steps)
            inputs = work.state.params, now, played.core_state, jax.random.key(0)
            policy = work.policies[0]

            def act(policy: Any = policy, inputs: Any = inputs) -> Any:
                return np.asarray(policy(*inputs)[0])

            times = clock.alternate({"act": act, "unroll": unroll}, 3, 0.2, quick)
            setting = f"{num_envs} environments"
            yield Figure("actors", f"{case}, act", setting, "actions/s", num_envs / times["act"])
            rate, ceiling = 10 * num_envs / times["unroll"], num_envs / times["act"]
            yield Figure("actors", f"{case}, Pong", setting, "steps/s", rate, ceiling, "act alone")
