"""Replay at the Atari setting: memory per step; how fast it adds, samples and sets priorities.

The paper's 1e5 sequences need 4e6 frames, 28 GB; as many are made as fit in half of what is free.
A sample moves its bytes once, so copying as many is its ceiling.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from experiments.bench import clock, made_up
from experiments.bench.figures import Figure, Setting
from rlsys import networks
from rlsys.algorithms import r2d2
from rlsys.algorithms.r2d2 import ALGORITHM
from rlsys.replay import memory
from rlsys.replay.sum_tree import SumTree

SEQUENCES = 100_000
STRIDE_BYTES = 40 * 7_200  # that a sequence adds
EPISODE_ENDS = 1e-3  # probability at each step
BAR = 0.5  # of memory copy's rate


def filled_replay(config: Any, random: np.random.Generator):
    """A full Replay of random frames in episodes, and an unroll to add."""
    space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    network = networks.q_network(space, spaces.Discrete(18), frame_stack=4)
    replay = r2d2.make_replay(config, network)
    length, num_envs = config.unroll_length, config.num_envs
    epsilon = np.zeros(num_envs, np.float32)
    params = networks.init(network, jax.random.key(0))

    def act(*args):
        return r2d2.act(network, params, *args, epsilon)

    trajectory = made_up.trajectory(network, act, length, num_envs)
    for _ in range(config.replay_capacity // (num_envs * length) + 4):
        trajectory.steps.first[:] = random.random((length + 1, num_envs)) < EPISODE_ENDS
        numbers, _, _ = replay.add(trajectory)
        replay.set_priorities(numbers, random.random(len(numbers)))
    return replay, trajectory


def figures(setting: Setting) -> Iterator[Figure]:
    fits = int(0.5 * memory.free_bytes() / STRIDE_BYTES)
    sequences = 400 if setting.quick else min(SEQUENCES, fits // 10_000 * 10_000)
    config = dataclasses.replace(
        ALGORITHM.presets.configs["atari"], num_envs=64, replay_capacity=40 * sequences
    )
    random = np.random.default_rng(0)
    replay, trajectory = filled_replay(config, random)
    held = f"of {sequences:,}"
    step_bytes = replay.nbytes / config.replay_capacity
    yield Figure("replay", "memory of a step", held, "bytes", [step_bytes], [84.0 * 84.0], "frame")

    batch, frames = config.batch_size, config.burn_in + config.length + 1
    numbers, sample = replay.sample(batch)
    leaves = jax.tree.leaves(sample.trajectory)
    sampled, added = sum(x.nbytes for x in leaves), _frame_bytes(trajectory)
    tree = SumTree(SEQUENCES)
    tree.set(np.arange(SEQUENCES), random.random(SEQUENCES))
    chosen = random.integers(SEQUENCES, size=batch)

    def add():
        numbers, _, _ = replay.add(trajectory)
        replay.set_priorities(numbers, random.random(len(numbers)))

    calls = {
        "sample": lambda: replay.sample(batch),
        "copy of sample": clock.copy(sampled),
        "add": add,
        "copy of add": clock.copy(added),
        "set": lambda: replay.set_priorities(numbers, random.random(batch)),
        "tree": lambda: tree.set(chosen, random.random(batch)),
    }
    times = clock.alternate(calls, setting.samples(15), 0.0 if setting.quick else 0.02)
    ours, copy = (clock.rates(times[name], sampled / 1e9) for name in ("sample", "copy of sample"))
    yield Figure("replay", f"sample {batch} x {frames}", held, "GB/s", ours, copy, "copy", BAR)
    ours, copy = (clock.rates(times[name], added / 1e9) for name in ("add", "copy of add"))
    what = f"add {config.unroll_length} x {config.num_envs}, with priorities"
    yield Figure("replay", what, held, "GB/s", ours, copy, "copy")
    milliseconds = [[1e3 * t for t in times[name]] for name in ("set", "tree")]
    yield Figure("replay", f"set {batch} priorities", held, "ms", milliseconds[0])
    yield Figure("replay", f"sum tree, set {batch}", f"of {SEQUENCES:,}", "ms", milliseconds[1])


def _frame_bytes(trajectory) -> int:
    return trajectory.steps.obs[1:].nbytes
