"""Replay at R2D2's Atari setting: memory per step; how fast it adds, samples and sets priorities.

The paper's 1e5 sequences need 4e6 frames, 28 GB; as many are made as fit in half of what is free.
A sample moves its bytes once, so copying as many is its ceiling.
"""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.bench import clock, parts
from experiments.bench.figures import Figure
from rlsys import algorithms
from rlsys.algorithms import r2d2
from rlsys.replay import memory
from rlsys.replay.sum_tree import SumTree

SEQUENCES = 100_000
SEQUENCE_STEPS = 40  # that each sequence adds to those before it
STEP_BYTES = 7_200
EPISODE_ENDS = 1e-3  # probability at each step
BAR = 0.5  # of memory copy's rate


def figures(quick: bool) -> Iterator[Figure]:
    fits = int(0.5 * memory.free_bytes() / (SEQUENCE_STEPS * STEP_BYTES))
    sequences = 400 if quick else min(SEQUENCES, fits // 10_000 * 10_000)
    capacity = str(SEQUENCE_STEPS * sequences)
    words = ["--env", "Pong-v5", "--num-envs", "64", "--replay-capacity", capacity]
    config = algorithms.config_of("r2d2", words)
    work, play = parts.play("r2d2", config)
    unroll = play()
    replay, random = r2d2.make_replay(config, work.network), np.random.default_rng(0)

    def add() -> None:
        numbers, _, _ = replay.add(unroll)
        replay.set_priorities(numbers, random.random(len(numbers)))

    unrolls = config.replay_capacity // unroll.action.size
    for _ in range(unrolls + 4):  # until it is full
        unroll.steps.first[:] = random.random(unroll.steps.first.shape) < EPISODE_ENDS
        add()
    held, frame = f"of {sequences:,}", [84.0 * 84.0]
    step_bytes = [replay.nbytes / config.replay_capacity]
    yield Figure("replay", "memory of a step", held, "bytes", step_bytes, frame, "frame")

    batch, frames = config.batch_size, config.burn_in + config.length + 1
    numbers, sample = replay.sample(batch)
    sampled = sum(x.nbytes for x in jax.tree.leaves(sample.trajectory)) / 1e9  # GB
    added = unroll.steps.obs[1:].nbytes / 1e9
    tree = SumTree(SEQUENCES)
    tree.set(np.arange(SEQUENCES), random.random(SEQUENCES))
    chosen = random.integers(SEQUENCES, size=batch)
    calls: dict[str, clock.Call] = {
        "sample": lambda: replay.sample(batch),
        "copy of sample": clock.copy(1e9 * sampled),
        "add": add,
        "copy of add": clock.copy(1e9 * added),
        "set": lambda: replay.set_priorities(numbers, random.random(batch)),
        "tree": lambda: tree.set(chosen, random.random(batch)),
    }
    seconds = clock.alternate(calls, 15, 0.02, quick)
    rate, copy = sampled / seconds["sample"], sampled / seconds["copy of sample"]
    yield Figure("replay", f"sample {batch} x {frames}", held, "GB/s", rate, copy, "copy", BAR)
    rate, copy = added / seconds["add"], added / seconds["copy of add"]
    what = f"add {config.unroll_length} x {config.num_envs}, with priorities"
    yield Figure("replay", what, held, "GB/s", rate, copy, "copy")
    yield Figure("replay", f"set {batch} priorities", held, "ms", 1e3 * seconds["set"])
    what = f"sum tree, set {batch}"
    yield Figure("replay", what, f"of {SEQUENCES:,}", "ms", 1e3 * seconds["tree"])
