"""The work of each device when 1, 2, 4 or 8 share the learning of every algorithm.

    python -m experiments.scaling [--env CartPole-v1] [--csv experiments/results/scaling.csv]

It is read from the program that learns from an unroll, or from a sample of the replay, with the
preset that suits the task, on simulated CPU devices. Nothing is timed, as simulated devices share
the same cores.
"""

import dataclasses
import functools
import math
import re
from pathlib import Path
from typing import Any

import jax

from experiments import study
from experiments.bench import parts
from rlsys import algorithms, cli
from rlsys.learning import learner
from rlsys.plan import cost
from rlsys.running import process


@dataclasses.dataclass(frozen=True)
class Config:
    """What to read."""

    env: str | None = None
    """The task; each algorithm's own if None."""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices."""
    csv: Path | None = None
    """Where to write the table."""


def all_reduce_bytes(text: str) -> list[int]:
    """Return the bytes that each device gives to each all-reduce of a compiled program."""
    shapes = re.findall(r"= (.+?) all-reduce(?:-start)?\(", text)
    return [
        sum(
            int(bits) // 8 * math.prod(map(int, filter(None, dims.split(","))))
            for bits, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", shape)
        )
        for shape in shapes
    ]


def rows(algorithm: str, config: Any, devices: tuple[int, ...]) -> list[dict]:
    """Return what the program of an algorithm asks of one device, for each number of devices."""
    work, unroll = parts.play(algorithm, config)
    batch = parts.batch_of(work, unroll)
    return [row(algorithm, config, work, batch, number) for number in devices]


def row(algorithm: str, config: Any, work: Any, batch: Any, num_devices: int) -> dict:
    """Return what a workload's program asks of one of so many devices.

    Operations are those of matrix products, as often as loops repeat them; an all-reduce in a loop
    is listed once.
    """
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    update = functools.partial(work.learn, work.network)
    program = learner.data_parallel(update, mesh, work.spec, work.out_spec)
    inputs = config, learner.place(mesh, work.state), learner.place(mesh, batch, work.spec)
    compiled = program.lower(*inputs).compile()
    memory, reduced = compiled.memory_analysis(), all_reduce_bytes(compiled.as_text())
    shared = num_devices > 1  # with one device the compiler leaves all-reduces in that do nothing
    return {
        "env": config.env,
        "algorithm": algorithm,
        "devices": num_devices,
        "params_bytes": sum(x.nbytes for x in jax.tree.leaves(work.state.params)),
        "all_reduces": len(reduced) * shared,
        "largest_all_reduce_bytes": max(reduced, default=0) * shared,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "operations": cost.flops(cost.products(program, *inputs)),
    }


def main(config: Config) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(config.devices))
    words = ["--env", config.env] if config.env else []
    table = []
    for algorithm in algorithms.NAMES:
        of_run = algorithms.config_of(algorithm, words, on_cpu=False)
        table += rows(algorithm, of_run, config.devices)
        print(*table[-len(config.devices) :], sep="\n", flush=True)
    if config.csv:
        study.write(config.csv, table)


if __name__ == "__main__":
    process.prepare()
    cli.run(main, Config(), __doc__)
