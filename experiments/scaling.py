"""The work of each device when 1, 2, 4 or 8 share an update.

    python -m experiments.scaling [--env CartPole-v1] [--csv experiments/results/scaling.csv]

Read from the compiled programs of the algorithms' updates on simulated CPU devices, with the preset
that suits the task: nothing is timed, as simulated devices share the same cores.
"""

import csv
import dataclasses
import functools
import math
import re
from pathlib import Path

import jax
import numpy as np
import tyro

from rlsys import algorithms, networks
from rlsys.acting.actors import Actors, make_envs
from rlsys.algorithms import impala, ppo, r2d2
from rlsys.algorithms.ppo_minibatches import BATCH_SPEC
from rlsys.envs import shared_spaces
from rlsys.learning import learner
from rlsys.running import process
from rlsys.running.log import Silent
from rlsys.types import SAMPLE_SPEC, TRAJECTORY_SPEC


@dataclasses.dataclass(frozen=True)
class Config:
    """What to read."""

    env: str | None = None
    """EnvPool task; each algorithm's own if None."""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices."""
    csv: Path | None = None
    """Where to write the table."""


def played(module, config, num_unrolls: int = 1):
    """An algorithm's network, and its actors' first unrolls."""
    pools = make_envs(config)
    network = module.ALGORITHM.make_network(config, *shared_spaces(pools))
    policies = module.ALGORITHM.make_policies(network, config)
    actors = Actors(pools, policies, network.initial, config, Silent().time)
    params = networks.init(network, jax.random.key(0))
    unrolls = [actors.get(params, 0).trajectory for _ in range(num_unrolls)]
    actors.close()
    return network, unrolls


def impala_update(config, mesh):
    """-> jitted update, LearnerState, batch, all of the whole mesh."""
    network, (unroll,) = played(impala, config)
    step = learner.data_parallel(functools.partial(impala.update, network), mesh, TRAJECTORY_SPEC)
    batch = jax.tree.map(lambda x: x[0], impala.batches(config, unroll))
    return step, impala.make_state(network, config), learner.place(mesh, batch, TRAJECTORY_SPEC)


def ppo_update(config, mesh):
    """One of a minibatch; the batch holds all of them."""
    network, (unroll,) = played(ppo, config)
    begin = learner.data_parallel(
        functools.partial(ppo.prepare, network), mesh, TRAJECTORY_SPEC, (BATCH_SPEC, jax.P())
    )
    state = learner.place(mesh, ppo.make_state(network, config))
    state, (batch, _) = begin(config, state, learner.place(mesh, unroll, TRAJECTORY_SPEC))
    step = learner.data_parallel(functools.partial(ppo.update, network), mesh, BATCH_SPEC)
    return step, state, batch


def r2d2_update(config, mesh):
    """One of sequences from a replay with enough of them."""
    num_unrolls = 2 + (config.burn_in + config.length) // config.unroll_length
    network, unrolls = played(r2d2, config, num_unrolls)
    replay = r2d2.make_replay(config, network)
    for unroll in unrolls:
        numbers, _, _ = replay.add(unroll)
        replay.set_priorities(numbers, np.ones(len(numbers)))
    _, sample = replay.sample(config.batch_size)
    step = learner.data_parallel(
        functools.partial(r2d2.update, network), mesh, SAMPLE_SPEC, (learner.SHARDED, jax.P())
    )
    return step, r2d2.make_state(network, config), learner.place(mesh, sample, SAMPLE_SPEC)


UPDATES = {"impala": impala_update, "ppo": ppo_update, "r2d2": r2d2_update}


def all_reduce_bytes(text: str) -> list[int]:
    """Of a compiled program: the bytes that each device gives to each all-reduce."""
    shapes = re.findall(r"= (.+?) all-reduce(?:-start)?\(", text)
    return [
        sum(
            int(bits) // 8 * math.prod(map(int, filter(None, dims.split(","))))
            for bits, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", shape)
        )
        for shape in shapes
    ]


def row(algorithm: str, config, num_devices: int) -> dict:
    """What the compiled update says of one device."""
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    step, state, batch = UPDATES[algorithm](config, mesh)
    compiled = step.lower(config, learner.place(mesh, state), batch).compile()
    memory, reduced = compiled.memory_analysis(), all_reduce_bytes(compiled.as_text())
    batch_size = config.num_sequences // config.minibatches if algorithm == "ppo" else None
    return {
        "env": config.env,
        "algorithm": algorithm,
        "devices": num_devices,
        "sequences_per_device": (batch_size or config.batch_size) // num_devices,
        "params_bytes": sum(x.nbytes for x in jax.tree.leaves(state.params)),
        "all_reduces": len(reduced) if num_devices > 1 else 0,
        "all_reduce_bytes": sum(reduced) if num_devices > 1 else 0,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": int(compiled.cost_analysis()["flops"]),
    }


def main(config: Config) -> None:
    rows = []
    for algorithm in UPDATES:
        presets = algorithms.find(algorithm).presets
        for num_devices in config.devices:
            rows.append(row(algorithm, presets.choose(None, config.env, on_cpu=False), num_devices))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if config.csv:
        with config.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    process.prepare()
    options = tyro.cli(Config)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(options.devices))
    main(options)
