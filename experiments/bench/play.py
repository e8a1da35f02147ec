"""How fast a task is played: EnvPool alone, the policy alone, and both in unrolls."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from experiments.bench import clock
from rlsys import envs
from rlsys.acting.actors import Actors, make_envs
from rlsys.envs.backend import environment_seeds
from rlsys.envs.envpool_settings import make_pool
from rlsys.running.log import Log


def envpool_alone(config: Any, num_steps: int) -> Callable[[], object]:
    """Steps all of a run's environments, in one EnvPool, with random actions drawn beforehand.

    With one thread or one for each core, whichever is faster.
    """
    (task,) = envs.tasks(config.env, config.env_options)
    random = np.random.default_rng(0)

    def with_threads(num_threads: int) -> Callable[[], object]:
        seeds = environment_seeds(config.num_envs, 0)
        pool = make_pool(task.env_id, config.num_envs, seeds, task.options, num_threads, False)
        pool.reset()
        actions = random.integers(pool.action_space.n, size=(num_steps, config.num_envs))

        def call():
            for action in actions:
                pool.step(action)

        return call

    calls = [with_threads(n) for n in (1, os.cpu_count() or 1)]
    times = clock.alternate(dict(enumerate(calls)), 3, 0.0)
    return min(zip(times.values(), calls, strict=True), key=lambda item: min(item[0]))[1]


def act(module: ModuleType, config: Any) -> Callable[[], object]:
    """One action of a run's environments, without stepping them."""
    config = dataclasses.replace(config, actors=1)
    (pool,) = make_envs(config)
    network = module.make_network(config, [pool])
    (policy,) = module.make_policies(network, config)
    params = module.make_state(network, config).params
    timestep, state, key = pool.reset(), network.initial(config.num_envs), jax.random.key(0)
    pool.close()
    return lambda: np.asarray(policy(params, timestep, state, key)[0])


def unroll(module: ModuleType, config: Any) -> Callable[[], object]:
    """One unroll of a run's environments, by one actor in turn with nobody."""
    config = dataclasses.replace(config, actors=1, unrolls_ahead=0)
    pools = make_envs(config)
    network = module.make_network(config, pools)
    params = module.make_state(network, config).params
    with tempfile.TemporaryDirectory() as folder:
        log = Log(folder, 1)
    policies = module.make_policies(network, config)
    actors = Actors(pools, policies, network.initial, config, log.time)

    def call():
        actors.pop_episodes()
        return actors.get(params, 0).trajectory

    return call


def rates(module: ModuleType, config: Any, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Environment steps per second: "alone", "act" and "unroll", in turn."""
    length = config.unroll_length
    calls = {
        "alone": envpool_alone(config, length),
        "act": act(module, config),
        "unroll": unroll(module, config),
    }
    times = clock.alternate(calls, repeats, seconds)
    steps = {"alone": length * config.num_envs, "act": config.num_envs}
    steps["unroll"] = steps["alone"]
    return {name: clock.rates(times[name], steps[name]) for name in calls}
