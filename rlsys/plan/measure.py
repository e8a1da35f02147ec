"""Measurements on the machine that plans."""

import contextlib
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsys.acting.actors import Actors
from rlsys.envs import Envs
from rlsys.learning import learner
from rlsys.plan.machine import Machine
from rlsys.plan.workload import Workload
from rlsys.replay import memory
from rlsys.types import Policy

SECONDS = 5.0  # of each measurement, if once is less


class Round(NamedTuple):
    """Seconds of one unroll of every actor."""

    wall: float
    cpu: float  # of all cores
    environment: float  # of one actor, like the rest
    inference: float
    host: float  # all else
    trajectory: Any  # of all actors


class Learning(NamedTuple):
    """Seconds of one call of the learner's program."""

    transfer: float
    learn: float
    cpu: float  # of all cores, of both


class Stopwatch:
    """Adds up what threads spend; in place of a Log."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def time(self, activity: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        with self._lock:
            self.spent[activity] = self.spent.get(activity, 0.0) + time.perf_counter() - begin


def again(times: int, begin: float) -> bool:
    """Whether to measure once more after so many times."""
    return times == 0 or (times < 200 and time.perf_counter() - begin < SECONDS)


def play(
    config: Any,
    pools: list[Envs],
    policies: Sequence[Policy],
    network,
    params,
    begin_learning: Callable = tuple,
) -> Round:
    """Measures rounds in turn, after one in which programs are compiled, and closes the pools.

    Args:
      begin_learning: called before each round, which lasts until what it returns is there, too.
    """
    watch: Any = Stopwatch()
    inputs = {x: getattr(config, x) for x in ("seed", "unroll_length", "refresh_steps")}
    turn = SimpleNamespace(**inputs, actors=len(pools), unrolls_ahead=0, actor_devices=0)
    actors = Actors(pools, policies, network.initial, turn, watch.time)
    actors.get(params, 0)
    watch.spent.clear()
    walls: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()
    while again(len(walls), begin):
        start = time.perf_counter()
        learned = begin_learning()
        trajectory = actors.get(params, 0).trajectory
        jax.block_until_ready(learned)
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(walls)
    parts = {k: v / len(walls) / len(pools) for k, v in watch.spent.items()}
    wall = float(np.mean(walls))
    environment, inference = parts["environment"], parts["inference"]
    actors.close()
    host = max(wall - environment - inference, 0.0)
    return Round(wall, cpu, environment, inference, host, trajectory)


def without_network(network, policy: Policy, params, timestep, core_state) -> Policy:
    """A policy that costs nothing: random actions, and zeros for all else."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(policy.apply, policy.own, params, timestep, core_state, key)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes[1])
    size = shapes[0].shape[0]
    actions = itertools.cycle(
        [np.stack([network.action_space.sample() for _ in range(size)]) for _ in range(16)]
    )

    def act(own, params, timestep, core_state, key):
        return next(actions), zeros, core_state, key

    return Policy(act)


def learn(config: Any, mesh, program, state, batch, spec) -> Learning:
    """Measures the learner's compiled program on this machine's devices."""
    transfers: list[float] = []
    times: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()
    while again(len(times), begin):
        start = time.perf_counter()
        placed = jax.block_until_ready(learner.place(mesh, batch, spec))
        transfers.append(time.perf_counter() - start)
        state, out = program(config, state, placed)
        jax.block_until_ready((state, out))
        times.append(time.perf_counter() - start - transfers[-1])
    cpu = (time.process_time() - cpu) / len(times)
    return Learning(float(np.median(transfers)), float(np.median(times)), cpu)


def learning(config: Any, mesh, program, state, batch, spec, num_calls: int) -> Callable:
    """A function that begins the learner's part of a round, and returns what it will give."""

    def begin():
        nonlocal state
        for _ in range(num_calls):
            state, out = program(config, state, learner.place(mesh, batch, spec))
        return out

    return begin


def replay(work: Workload, trajectory) -> tuple[float, float, Workload]:
    """Seconds to add the round to the replay, and to draw a batch from it; and the work with as
    many updates as the replay ratio asks for, by the steps that samples truly learn.

    Episodes are those of the agent that plays here, which has not learned.
    """
    if work.add is None:
        return 0.0, 0.0, work
    for _ in range(work.first_adds):
        work.add(trajectory)
    adds: list[float] = []
    draws: list[float] = []
    learned: list[int] = []
    begin = time.perf_counter()
    while again(len(adds), begin):
        start = time.perf_counter()
        work.add(trajectory)
        middle = time.perf_counter()
        batch = work.batch(trajectory)
        adds.append(middle - start)
        draws.append(time.perf_counter() - middle)
        learned.append(batch.mask.sum())
    updates = work.learned_steps / max(float(np.mean(learned)), 1.0)
    work = work._replace(programs=updates, updates=updates)
    return float(np.median(adds)), float(np.median(draws)), work


def fastest(function: Callable, *args: Any) -> float:
    """Seconds of a call, the least of several."""
    jax.block_until_ready(function(*args))
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < 0.5:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return min(times)


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> Machine:
    """This one, with its default devices."""
    devices, size, array = jax.local_devices(), 2048, np.ones(2**26, np.uint8)
    stats = devices[0].memory_stats() or {}
    multiply = jax.jit(jnp.matmul)

    def rate(dtype) -> float:
        x = jnp.ones((size, size), dtype)
        return 2 * size**3 / fastest(multiply, x, x)

    x, small = jnp.ones(2**24), jnp.ones(8)
    on_device = 2 * x.nbytes / fastest(jax.jit(lambda x: x + 1), x)
    link = np.inf
    if len(devices) > 1:
        link = x.nbytes / fastest(lambda: jax.device_put(x, devices[1], may_alias=False))
    on_cpu = devices[0].platform == "cpu"  # where a placed array may alias numpy's
    copy = array.copy if on_cpu else functools.partial(jax.device_put, array)
    call = fastest(jax.jit(lambda x: x + 1), small)
    available = memory.free_bytes()
    return Machine(
        name="here",
        cores=num_cores(),
        core_speed=1.0,
        host_memory=available,
        devices=len(devices),
        device=devices[0].device_kind,
        device_memory=stats.get("bytes_limit", available),
        float32_flops=rate(jnp.float32),
        bfloat16_flops=rate(jnp.bfloat16),
        bandwidth=on_device,
        host_to_device=array.nbytes / fastest(copy),
        link=link,
        link_latency=call,
        dispatch=fastest(lambda: np.asarray(multiply(small, small))),
        launch=call,
        tile=1,
    )
