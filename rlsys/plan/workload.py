"""What each algorithm has a machine do in a round: one unroll of every actor, and its updates."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys import networks
from rlsys.algorithms import impala, ppo, r2d2
from rlsys.learning import learner
from rlsys.types import SAMPLE_SPEC, LearnerState, Trajectory


class Workload(NamedTuple):
    """A round's."""

    network: networks.AgentNetwork
    policies: list[Callable]  # of each actor, as unroll takes it
    learn: Callable  # (network, config, state, batch) -> state, out: one program
    spec: Any  # of a batch
    out_spec: Any
    state: LearnerState
    programs: float  # calls of learn in a round; more by 1 / learned, where there is a replay
    learner_steps: float  # in a round, alike
    batch: Callable  # Trajectory of all environments -> what one call of learn takes, numpy
    add: Callable | None = None  # Trajectory -> None, before batch, where there is a replay
    first_adds: int = 0  # after which batch can be called
    learned: Callable | None = None  # batch -> share of its learned steps that are no padding
    replay_bytes: float = 0.0  # when full


def impala_work(config: Any, network) -> Workload:
    envs = config.join * config.num_envs // config.actors  # of a program

    def batch(trajectory: Trajectory):
        return impala.batches(config, _of_first(trajectory, envs))

    return Workload(
        network,
        impala.make_policies(network, config),
        impala.learn,
        impala.BATCHES_SPEC,
        learner.REPLICATED,
        impala.make_state(network, config),
        programs=config.actors / config.join,
        learner_steps=config.num_envs / config.batch_size,
        batch=batch,
    )


def ppo_work(config: Any, network) -> Workload:
    return Workload(
        network,
        ppo.make_policies(network, config),
        ppo.learn,
        ppo.BATCHES_SPEC,
        learner.REPLICATED,
        ppo.make_state(network, config),
        programs=1.0,
        learner_steps=float(config.epochs * config.minibatches),
        batch=lambda trajectory: trajectory,
    )


def r2d2_work(config: Any, network) -> Workload:
    window = config.burn_in + config.length + max(config.frame_stack, 2)
    capacity = max(5 * window * config.num_envs // 2, config.batch_size * config.length)
    small = dataclasses.replace(config, replay_capacity=min(capacity, config.replay_capacity))
    replay = r2d2.make_replay(small, network)
    first_priorities = jax.jit(functools.partial(r2d2.initial_priorities, config))

    def add(trajectory: Trajectory) -> None:
        numbers, learned, mask = replay.add(trajectory)
        priorities = np.asarray(first_priorities(learned, mask))[: len(numbers)]
        replay.set_priorities(numbers, priorities)

    steps = config.unroll_length * config.num_envs * config.replay_ratio
    updates = steps / (config.batch_size * config.length)
    return Workload(
        network,
        r2d2.make_policies(network, config),
        r2d2.update,
        SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
        r2d2.make_state(network, config),
        programs=updates,
        learner_steps=updates,
        batch=lambda trajectory: replay.sample(config.batch_size)[1],
        add=add,
        first_adds=-(-window // config.unroll_length) + 1,
        learned=lambda sample: sample.mask[config.burn_in :].mean(),
        replay_bytes=replay.nbytes * config.replay_capacity / small.replay_capacity,
    )


def _of_first(trajectory: Trajectory, envs: int) -> Trajectory:
    """Of the first environments alone."""
    time_major = jax.tree.map(lambda x: x[:, :envs], trajectory[:3])
    return Trajectory(*time_major, *jax.tree.map(lambda x: x[:envs], trajectory[3:]))


WORK = {"impala": impala_work, "ppo": ppo_work, "r2d2": r2d2_work}
