"""The work of a round for a machine: one unroll of every actor, and its updates."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rlsys import networks
from rlsys.learning import learner
from rlsys.learning.sampler import Sampler
from rlsys.running.algorithm import Algorithm, FromSamples, FromUnrolls
from rlsys.types import SAMPLE_SPEC, LearnerState, Policy, Trajectory, map_arrays


class Workload(NamedTuple):
    """The work of a round."""

    network: networks.AgentNetwork
    policies: list[Policy]  # of each actor
    learn: Callable  # (network, config, state, batch) -> state, out: one program
    spec: Any  # PartitionSpecs of a batch
    out_spec: Any
    state: LearnerState
    batch: Callable[[Trajectory], Any]  # of all environments -> what one call of learn takes, numpy
    programs: float = math.nan  # calls of learn in a round
    updates: float = math.nan  # in a round
    add: Callable[[Trajectory], None] | None = None  # before batch, where there is a replay
    first_adds: int = 0  # after which batch can be called
    learned_steps: float = 0.0  # by the updates of a round, where there is a replay
    replay_bytes: float = 0.0  # when full


def workload(algorithm: Algorithm, config: Any, network: networks.AgentNetwork) -> Workload:
    """The work of a round of an algorithm with a Config."""
    kind = algorithm.learning
    if isinstance(kind, FromSamples):
        return _from_samples(algorithm, kind, config, network)
    return _from_unrolls(algorithm, kind, config, network)


def _from_unrolls(algorithm: Algorithm, kind: FromUnrolls, config: Any, network) -> Workload:
    num_envs = config.join * config.num_envs // config.actors  # of a program

    def batch(trajectory: Trajectory):
        part = map_arrays(lambda x: x[:, :num_envs], lambda x: x[:num_envs], trajectory)
        return kind.batches(config, part)

    programs = config.actors / config.join
    return Workload(
        network,
        algorithm.make_policies(network, config),
        kind.learn,
        kind.batches_spec,
        learner.REPLICATED,
        algorithm.make_state(network, config),
        programs=programs,
        updates=programs * kind.num_updates(config),
        batch=batch,
    )


def _from_samples(algorithm: Algorithm, kind: FromSamples, config: Any, network) -> Workload:
    window = kind.window(config) + max(config.frame_stack, 2)
    capacity = max(5 * window * config.num_envs // 2, config.batch_size * window)
    capacity = -(-capacity // config.num_envs) * config.num_envs  # as many of each environment
    small = dataclasses.replace(config, replay_capacity=min(capacity, config.replay_capacity))
    replay = kind.make_replay(small, network)
    first_priorities = jax.jit(functools.partial(kind.initial_priorities, config))
    sampler = Sampler(replay, config, first_priorities, lambda _: contextlib.nullcontext())
    return Workload(
        network,
        algorithm.make_policies(network, config),
        kind.update,
        SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
        algorithm.make_state(network, config),
        batch=lambda trajectory: replay.sample(config.batch_size)[1],
        add=sampler.add,
        first_adds=-(-window // config.unroll_length) + 1,
        learned_steps=config.unroll_length * config.num_envs * config.replay_ratio,
        replay_bytes=replay.nbytes * config.replay_capacity / small.replay_capacity,
    )
