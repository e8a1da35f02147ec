"""The parts of a training run, each as a call that can be timed alone."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import clock
from rlsys import algorithms, envs
from rlsys.acting.actors import Actors, make_envs
from rlsys.envs.backend import environment_seeds
from rlsys.envs.envpool_settings import make_pool
from rlsys.learning import learner
from rlsys.plan import cost
from rlsys.plan.workload import Workload, workload
from rlsys.running.log import Silent
from rlsys.types import Trajectory


def play(name: str, config: Any) -> tuple[Workload, Callable[[], Trajectory]]:
    """Return the algorithm of that name, and a call that plays an unroll of all environments.

    One actor plays them, in turn with the caller, and always with the first parameters.
    """
    config = dataclasses.replace(config, actors=1, unrolls_ahead=0)
    pools = make_envs(config)
    algorithm = algorithms.find(name)
    work = workload(algorithm, config, algorithm.make_network(config, *envs.shared_spaces(pools)))
    actors = Actors(pools, work.policies, work.network.initial, config, Silent().time)
    return work, lambda: actors.get(work.state.params, 0).trajectory


def seconds_per_step(
    name: str, config: Any, parts: str, repeats: int, seconds: float, quick: bool = False
) -> dict[str, Any]:
    """Time parts of a run, and return seconds per environment step of each, numpy [repeats].

    Args:
      name: of the algorithm.
      config: of the run.
      parts: names of some: "alone" steps EnvPool with random actions, "act" draws an action for
        each environment without stepping it, "unroll" does both, and "learn" is what the learner
        does with that.
      repeats, seconds, quick: see clock.alternate.
    """
    work, unroll = play(name, config)
    trajectory, steps = unroll(), config.unroll_length * config.num_envs
    now = jax.tree.map(lambda x: x[0], trajectory.steps)
    inputs = work.state.params, now, trajectory.core_state, jax.random.key(0)
    learning = learn(work, config, trajectory)
    every: dict[str, tuple[clock.Call, float]] = {
        "alone": (envpool_alone(config), steps),
        "act": (lambda: np.asarray(work.policies[0](*inputs)[0]), config.num_envs),
        "unroll": (unroll, steps),
        "learn": (learning.call, learning.env_steps),
    }
    times = clock.alternate(
        {part: every[part][0] for part in parts.split()}, repeats, seconds, quick
    )
    return {part: times[part] / every[part][1] for part in times}


def envpool_alone(config: Any) -> clock.Call:
    """Return a call that steps a run's environments for an unroll, with random actions.

    All are in one EnvPool, of one thread or one for each core, whichever is faster.
    """
    (task,) = config.tasks
    random, shape = np.random.default_rng(0), (config.unroll_length, config.num_envs)

    def with_threads(num_threads: int) -> clock.Call:
        seeds = environment_seeds(config.num_envs, 0)
        pool = make_pool(task.env_id, config.num_envs, seeds, task.options, num_threads, False)
        pool.reset()
        actions = random.integers(pool.action_space.n, size=shape)
        return lambda: [pool.step(action) for action in actions]

    calls = {str(n): with_threads(n) for n in (1, os.cpu_count() or 1)}
    times = clock.alternate(calls, 3, 0.0)
    return calls[min(times, key=lambda name: times[name].min())]


class Learning(NamedTuple):
    """A call of the learner's program, again and again on one batch."""

    call: clock.Call
    env_steps: float  # that the run plays for each such call
    gflop: Callable[[], float]  # of its matrix products and convolutions


def batch_of(work: Workload, unroll: Callable[[], Trajectory]) -> Any:
    """Return what one call of work.learn takes, of unrolls as the call plays them."""
    for _ in range(work.first_adds if work.add else 0):
        work.add(unroll())  # type: ignore[misc]
    return work.batch(unroll())


def learn(work: Workload, config: Any, played: Trajectory) -> Learning:
    """Return how the algorithm learns from what was played."""
    batch = batch_of(work, lambda: played)
    steps = config.unroll_length * config.num_envs
    programs = work.learned_steps / batch.mask.sum() if work.add else work.programs
    mesh = learner.make_mesh()
    settings, state = learner.place(mesh, (config, jax.tree.map(jnp.copy, work.state)))
    batch = learner.place(mesh, batch, work.spec)
    update = functools.partial(work.learn, work.network)
    program = learner.data_parallel(update, mesh, work.spec, work.out_spec)

    def call() -> Any:
        nonlocal state
        state, out = program(settings, state, batch)
        return out

    def gflop() -> float:
        return cost.flops(cost.products(program, settings, state, batch)) / 1e9

    return Learning(call, steps / programs, gflop)
