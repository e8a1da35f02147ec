"""Predicts what an update costs on 1, 8, 64 and 512 hosts of 8 H100; it measures nothing.

    python -m experiments.scale

PPO as OpenAI Five ran it and R2D2 on Atari, each with the paper's batch and with one that grows
with the devices. Arithmetic comes from rlsys.plan's description of the H100, the exchange of
gradients from formulas, waiting for the slowest from a simulation. The figures are in
rlsys/plan/README.md, "Scale, on paper".
"""

import csv
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from experiments.stragglers import simulate
from experiments.study import RESULTS
from rlsys import networks
from rlsys.algorithms import r2d2
from rlsys.algorithms.r2d2 import ALGORITHM
from rlsys.learning import learner
from rlsys.plan import cost
from rlsys.plan.machine import MACHINES
from rlsys.plan.predict import OPTIMIZER_PASSES
from rlsys.types import SAMPLE_SPEC, Sample, Timestep, Trajectory

HOSTS = (1, 8, 64, 512)
GIGABITS = (100, 400)  # per second and host
HOST = MACHINES["8xh100"]
REACHED = 0.8  # share of the network's stated rate, as machine.py takes it of NVLink's
LATENCY = 10e-6  # seconds of a step between hosts, a guess
JITTER = 0.1  # standard deviation of log(compute time), of each device and update, a guess
UPDATES = 50  # simulated

# OpenAI Five (Berner et al. 2019): section 3.2 and table 2; "Rerun" is its second training.
FIVE_PARAMETERS = 158_502_815
FIVE_SAMPLES, FIVE_UNROLL, FIVE_HEROES = 120, 16, 5  # of a GPU: 120 x 16 timesteps, of 5 heroes
FIVE_LARGEST = 3_145_728  # timesteps of a batch
FIVE_OBSERVATION = 16_000 * 4  # bytes a timestep; that of the five heroes is nearly the same
RERUN_BATCH, RERUN_ROLLOUT_CPUS = 983_040, 51_200
RERUN_UPDATE = 42 * 86_400 / 54_000 / 32  # seconds: 54,000 iterations of 32 in 42 days (figure 7)
RERUN_PER_CPU = RERUN_BATCH / RERUN_UPDATE / RERUN_ROLLOUT_CPUS  # timesteps a second

R2D2 = ALGORITHM.presets.configs["atari"]
ATARI_PER_CORE = 1e6 / 4 / 256  # EnvPool (Weng et al. 2022): 1e6 frames/s on 256 cores
SEQUENCE_DRAWN = 9.0e-3 / 64  # seconds of one thread, experiments/results/replay.csv
FRAME = 84 * 84


class Share(NamedTuple):
    """An update: what all do, and each device that has work."""

    devices: int  # that have work
    samples: int  # timesteps learned from, of all
    seconds: float  # of each device: forward, backward, optimizer
    backward: float  # share of it, which an exchange of gradients can hide behind at best
    one_device: float  # seconds of one that does the whole update


@dataclasses.dataclass(frozen=True)
class Workload:
    """An algorithm, and how its batch is spread."""

    name: str
    spread: Callable  # (Workload, devices) -> Share
    batch: str  # "grows" with the devices, or "fixed"
    parameters: int
    per_core: float  # environment steps per second
    replay_ratio: float  # samples learned from per environment step
    step_bytes: float  # of an environment step, from actor to learner or replay
    largest: float  # batch that the paper used, samples


def five(work: Workload, devices: int) -> Share:
    """Arithmetic as 6 x parameters x evaluations, in bfloat16."""
    samples = FIVE_SAMPLES * FIVE_UNROLL * devices if work.batch == "grows" else 1536 * 1920
    rate, adam = HOST.bfloat16_flops, optimizer_seconds(work.parameters)
    arithmetic = 6 * work.parameters * samples * FIVE_HEROES / rate
    seconds = arithmetic / devices + adam
    whole = arithmetic + adam if work.batch == "fixed" else devices * seconds
    return Share(devices, samples, seconds, 2 / 3 * arithmetic / devices / seconds, whole)


def atari(work: Workload, devices: int) -> Share:
    """R2D2: its own update's products, in TF32, none smaller than a tile and two kernels."""
    if work.batch == "grows":
        used, each = devices, R2D2.batch_size
    else:
        used = min(devices, R2D2.batch_size)  # a sequence is not split
        each = R2D2.batch_size // used
    seconds = atari_seconds(each)
    whole = atari_seconds(R2D2.batch_size) * (used if work.batch == "grows" else 1)
    forward, learned = R2D2.burn_in + R2D2.length + 1, R2D2.length + 1
    backward = 2 * learned / (2 * forward + 2 * learned)  # forward: online and target network
    return Share(used, used * each * R2D2.length, seconds, backward, whole)


def optimizer_seconds(parameters: int) -> float:
    return OPTIMIZER_PASSES * 4 * parameters / HOST.bandwidth


def atari_network():
    """R2D2's for Atari: 84 x 84 grey, 4 stacked, all 18 actions."""
    return networks.q_network(
        spaces.Box(0, 255, (84, 84, 1), np.uint8),
        spaces.Discrete(18),
        hidden_size=R2D2.hidden_size,
        core_size=R2D2.core_size,
        head_size=R2D2.head_size,
        frame_stack=R2D2.frame_stack,
        conv="plain",
    )


def atari_parameters() -> int:
    shapes = jax.eval_shape(lambda: networks.init(atari_network(), jax.random.key(0)))
    return sum(x.size for x in jax.tree.leaves(shapes))


@functools.cache
def atari_seconds(sequences: int) -> float:
    """Predicts the seconds of an update of so many sequences on one device, optimizer included."""
    network = atari_network()
    state = jax.eval_shape(lambda: r2d2.make_state(network, R2D2))
    mesh = learner.make_mesh(jax.local_devices()[:1])
    update = learner.data_parallel(
        functools.partial(r2d2.update, network),
        mesh,
        SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
    )
    found = cost.products(update, R2D2, state, atari_sample(network, sequences))
    return cost.seconds(found, HOST) + optimizer_seconds(atari_parameters())


def atari_sample(network, sequences: int) -> Sample:
    """Shapes alone."""
    length = R2D2.burn_in + R2D2.length
    shape = jax.ShapeDtypeStruct
    flags, numbers = (shape((length + 1, sequences), d) for d in (jnp.bool, jnp.float32))
    obs = shape((length + 1, sequences, 84, 84, 1), jnp.uint8)
    steps = Timestep(obs, flags, numbers, numbers, flags)
    core_state = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, network.initial(sequences)))
    action = shape((length, sequences), jnp.int32)
    mask, weights = shape(action.shape, jnp.bool), shape((sequences,), jnp.float32)
    return Sample(Trajectory(steps, action, (), core_state), mask, weights)


def works() -> list[Workload]:
    """All four."""
    ppo = Workload(
        "ppo", five, "grows", FIVE_PARAMETERS, RERUN_PER_CPU, 1.0, FIVE_OBSERVATION, FIVE_LARGEST
    )
    # A step: frame, first, reward, discount, truncated, action, two Q; a recurrent state per stride
    step_bytes = FRAME + 1 + 4 + 4 + 1 + 4 + 4 + 4 + 2 * 4 * R2D2.core_size / R2D2.stride
    replayed = Workload(
        "r2d2", atari, "grows", atari_parameters(), ATARI_PER_CORE, R2D2.replay_ratio, step_bytes,
        R2D2.batch_size * R2D2.length,
    )  # fmt: skip
    return [dataclasses.replace(w, batch=b) for w in (ppo, replayed) for b in ("grows", "fixed")]


class Exchange(NamedTuple):
    """Averaging gradients over the devices of hosts: each of a host's devices averages its share
    with the same device of the others, between a reduce-scatter and an all-gather over NVLink."""

    in_host: float  # seconds
    ring: float  # seconds between hosts, 2 (n - 1) steps
    tree: float  # 2 log2(n) steps, pipelined

    @property
    def kind(self) -> str:
        return "ring" if self.ring <= self.tree else "tree"

    @property
    def seconds(self) -> float:
        return self.in_host + min(self.ring, self.tree)


def exchange(gradient_bytes: float, hosts: int, rate: float) -> Exchange:
    """rate: bytes/s that a host sends while it receives as much; its devices share it."""
    in_host = cost.all_reduce_seconds(gradient_bytes, HOST.devices, HOST.link, HOST.link_latency)
    ring = cost.all_reduce_seconds(
        gradient_bytes / HOST.devices, hosts, rate / HOST.devices, LATENCY
    )
    steps = 2 * math.ceil(math.log2(hosts))
    tree = 2 * gradient_bytes / rate + steps * LATENCY if hosts > 1 else 0.0
    return Exchange(in_host, ring, tree)


def predict(work: Workload, hosts: int, gigabits: float) -> dict[str, float | str]:
    """A row of the table."""
    devices = hosts * HOST.devices
    share = work.spread(work, devices)
    joined = -(-share.devices // HOST.devices)  # hosts with work
    gradient_bytes = 4.0 * work.parameters
    rate = REACHED * gigabits * 1e9 / 8
    averaged = exchange(gradient_bytes, joined, rate)
    update = share.seconds + averaged.seconds
    hidden = min(averaged.seconds, share.backward * share.seconds)
    simulated = simulate(
        joined, HOST.devices, share.seconds, JITTER,
        averaged.in_host, averaged.kind, min(averaged.ring, averaged.tree), UPDATES,
    )  # fmt: skip
    samples = share.samples / simulated
    env_steps = samples / work.replay_ratio
    cores = env_steps / work.per_core
    sequences = share.samples / R2D2.length / joined  # of a host
    reasons = {
        "idle devices": share.devices < devices,
        "network": averaged.seconds > share.seconds,
        "batch": share.samples > work.largest,
        "environments": cores > HOST.cores * hosts,
        "unrolls": env_steps * work.step_bytes / hosts > rate,
        "replay": work.name == "r2d2" and sequences * SEQUENCE_DRAWN > simulated,
    }
    return {
        "algorithm": work.name,
        "batch": work.batch,
        "hosts": hosts,
        "gigabits_per_host": gigabits,
        "devices_with_work": share.devices,
        "parameters": work.parameters,
        "batch_timesteps": share.samples,
        "bytes_sent_per_update_and_host": 2 * (joined - 1) / joined * gradient_bytes,
        "between_hosts": averaged.kind,
        "nvlink_ms": 1e3 * averaged.in_host,
        "ring_ms": 1e3 * averaged.ring,
        "tree_ms": 1e3 * averaged.tree,
        "all_reduce_ms": 1e3 * averaged.seconds,
        "compute_ms": 1e3 * share.seconds,
        "update_ms": 1e3 * update,
        "update_with_overlap_ms": 1e3 * (update - hidden),
        "update_with_stragglers_ms": 1e3 * simulated,
        "efficiency": share.one_device / devices / update,
        "efficiency_with_overlap": share.one_device / devices / (update - hidden),
        "efficiency_with_stragglers": share.one_device / devices / simulated,
        "updates_per_s": 1 / simulated,
        "samples_per_s": samples,
        "env_steps_per_s": env_steps,
        "frames_per_s": 4 * env_steps,
        "cores_for_environments": cores,
        "cores_of_hosts": HOST.cores * hosts,
        "unroll_bytes_per_s_and_host": env_steps * work.step_bytes / hosts,
        "priority_bytes_per_s": priorities(work, samples, env_steps),
        "limits": "; ".join(reason for reason, true in reasons.items() if true),
    }


def priorities(work: Workload, samples: float, env_steps: float) -> float:
    """Bytes/s to the replay: of sequences learned from, number and priority; of new ones, one."""
    if work.name != "r2d2":
        return 0.0
    return 16 * samples / R2D2.length + 8 * env_steps / R2D2.stride


def rows() -> Iterator[dict[str, float | str]]:
    for work in works():
        for hosts in HOSTS:
            for gigabits in GIGABITS:
                yield predict(work, hosts, gigabits)


def main() -> None:
    """Writes results/scale.csv and prints what that README quotes."""
    table = list(rows())
    with (RESULTS / "scale.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in table
        )
    for row in table:
        print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()), sep="\t")


if __name__ == "__main__":
    main()
