"""Learner steps of the published networks, in turn with the same in stock flax and with a matrix
product.

Both learn by the same update from batches of the same size; networks and how frames are handed over
(stock flax is given stacks, rlsys single frames) are what differs.
"""

import dataclasses
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

from experiments.bench import clock, made_up
from experiments.bench.figures import Figure, Setting
from experiments.bench.stock import stock
from rlsys import networks
from rlsys.algorithms import impala, r2d2


class Case(NamedTuple):
    """A learner step, and how much faster than stock flax it is asked to be."""

    algorithm: ModuleType
    make_step: Callable[..., made_up.Step]
    config: Any
    make_network: Callable[..., networks.AgentNetwork]
    bar: float


def cases(quick: bool) -> dict[str, Case]:
    atari, recurrent = impala.PRESETS["atari"], r2d2.PRESETS["atari"]
    nature = {"torso": "nature", "hidden_size": 512, "num_envs": 32, "batch_size": 32, "actors": 1}
    deep = {"torso": "impala", "core_size": 256, "num_envs": 8, "batch_size": 8, "actors": 1}
    sequences: dict[str, Any] = {"torso": "nature", "num_envs": 8, "batch_size": 8}
    if quick:
        small = {"hidden_size": 8, "num_envs": 4, "batch_size": 4}
        nature |= small
        deep |= {**small, "core_size": 8, "unroll_length": 5, "refresh_steps": 5}
        sequences |= {**small, "burn_in": 2, "length": 4, "stride": 2, "core_size": 8}
    make = dataclasses.replace
    policy, q = networks.policy_value_network, networks.q_network
    return {
        "Nature": Case(impala, made_up.from_batch, make(atari, **nature), policy, 3.5),
        "ResNet, LSTM": Case(impala, made_up.from_batch, make(atari, **deep), policy, 1.5),
        "R2D2": Case(r2d2, made_up.from_sample, make(recurrent, **sequences), q, 2.0),
    }


def make_network(case: Case, side: int) -> networks.AgentNetwork:
    """For single images of so many pixels a side, in stacks of 4."""
    fields = ("torso", "hidden_size", "core_size", "head_size", "frame_stack")
    body = {field: getattr(case.config, field) for field in fields}
    return case.make_network(made_up.images(side, 1), made_up.ACTION, **body)


def figures(setting: Setting) -> Iterator[Figure]:
    side, size = (36, 128) if setting.quick else (84, 2048)
    for name, case in cases(setting.quick).items():
        network = make_network(case, side)
        ours = case.make_step(case.algorithm, case.config, network)
        theirs = case.make_step(case.algorithm, case.config, stock(network))
        calls = {
            "ours": ours.call,
            "stock": theirs.call,
            "product": clock.matrix_product(size),
        }
        times = clock.alternate(calls, setting.samples(5), 0.0 if setting.quick else 0.1)
        batch = case.config.batch_size
        shape = f"{ours.samples // batch} x {batch}"
        rates = {key: clock.rates(times[key], ours.samples) for key in ("ours", "stock")}
        yield Figure("learner", name, shape, "samples/s", rates["ours"], rates["stock"],
                     "stock flax", case.bar)  # fmt: skip
        speed = clock.rates(times["ours"], ours.flops() / 1e9)
        product = clock.rates(times["product"], 2e-9 * size**3)
        yield Figure("learner", f"{name}, operations", shape, "GFLOP/s", speed, product,
                     "matrix product")  # fmt: skip
