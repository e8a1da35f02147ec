"""Replay at the Atari setting: memory per step, and milliseconds to add, sample and set priorities.

make bench [ARGS="--sequences 100000 --csv experiments/results/replay.csv"]

The paper's 1e5 sequences need 4e6 frames, 28 GB; --sequences sets how many are made. The memory
copy beside them is the ceiling: a sample moves its bytes once.
"""

import csv
import dataclasses
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from gymnasium import spaces

from rlsys import networks, run
from rlsys.algorithms import r2d2
from rlsys.algorithms.r2d2_config import PRESETS
from rlsys.sum_tree import SumTree
from rlsys.types import Timestep, Trajectory


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the replay of the preset atari: sequences of 40 + 80 + 1 steps of 84 x 84 frames."""

    sequences: int = 40_000
    """Sequences held; each adds 40 frames of 7 KB."""
    tree_sequences: int = 100_000
    """Sequences in the sum tree whose priorities are set."""
    repeats: int = 30
    """Calls that the median is of."""
    csv: str = ""
    """File for the results."""


def median_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times) * 1e3)


def filled_replay(config, random: np.random.Generator):
    """A full Replay of random frames in episodes of about 1,000 steps, and an unroll to add."""
    network = networks.q_network(
        spaces.Box(0, 255, (84, 84, 1), np.uint8), spaces.Discrete(18), frame_stack=4
    )
    replay = r2d2.make_replay(config, network)
    length, num_envs = config.unroll_length, config.num_envs
    shape = (length + 1, num_envs)
    core_state = network.initial(num_envs)
    number = np.zeros((length, num_envs), np.float32)
    lstm = tuple(np.zeros((length, *x.shape), np.float32) for x in core_state.lstm)
    steps = Timestep(
        random.integers(0, 255, (*shape, 84, 84, 1), dtype=np.uint8),
        np.zeros(shape, bool),
        np.zeros(shape, np.float32),
        np.ones(shape, np.float32),
        np.zeros(shape, bool),
    )
    action = np.zeros((length, num_envs), np.int32)
    trajectory = Trajectory(steps, action, r2d2.Aux(number, number, lstm), core_state)
    for _ in range(config.replay_capacity // (num_envs * length) + 4):
        steps.first[:] = random.random(shape) < 1e-3
        numbers, _, _ = replay.add(trajectory)
        replay.set_priorities(numbers, random.random(len(numbers)))
    return replay, trajectory


def main(config: Config) -> None:
    run.prepare_process()
    random = np.random.default_rng(0)
    setting = dataclasses.replace(
        PRESETS["atari"], num_envs=64, replay_capacity=40 * config.sequences
    )
    replay, trajectory = filled_replay(setting, random)
    batch, frames = setting.batch_size, setting.burn_in + setting.length + 1
    source = random.integers(0, 255, (batch * frames, 84 * 84), dtype=np.uint8)
    copy_ms = median_ms(lambda: source.copy(), config.repeats)
    sample_ms = median_ms(lambda: replay.sample(batch), config.repeats)
    numbers, _ = replay.sample(batch)
    set_ms = median_ms(lambda: replay.set_priorities(numbers, random.random(batch)), config.repeats)

    tree = SumTree(config.tree_sequences)
    tree.set(np.arange(config.tree_sequences), random.random(config.tree_sequences))
    leaves = random.integers(config.tree_sequences, size=batch)
    tree_ms = median_ms(lambda: tree.set(leaves, random.random(batch)), config.repeats)
    add_ms = median_ms(lambda: replay.add(trajectory), max(config.repeats // 5, 3))

    rows = {
        "bytes a step": replay.nbytes / setting.replay_capacity,
        "sequences held": len(replay),
        f"sample {batch} x {frames}, ms": sample_ms,
        "the same bytes copied, ms": copy_ms,
        f"set_priorities {batch}, ms": set_ms,
        f"sum tree of {config.tree_sequences:,}: set {batch}, ms": tree_ms,
        f"add {setting.unroll_length} x {setting.num_envs}, ms": add_ms,
    }
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for name, value in rows.items():
        print(f"{name:42s} {value:12,.3f}")
    if config.csv:
        with Path(config.csv).open("w", newline="") as file:
            csv.writer(file).writerows([("what", "value"), *rows.items()])


if __name__ == "__main__":
    main(tyro.cli(Config))
