"""Made-up spaces and batches, and an algorithm's learner step on them."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces

from rlsys import networks
from rlsys.learning import learner
from rlsys.types import SAMPLE_SPEC, TRAJECTORY_SPEC, Sample, Timestep, Trajectory

ACTION = spaces.Discrete(6)


def images(side: int, channels: int) -> spaces.Box:
    return spaces.Box(0, 255, (side, side, channels), np.uint8)


def observations(space: Any, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    """Random arrays [*shape, ...] in the tree of a space."""

    def fill(x):
        full = (*shape, *x.shape[1:])
        if np.issubdtype(x.dtype, np.floating):
            return random.normal(size=full).astype(x.dtype)
        return random.integers(0, 255 if x.ndim == 4 else 2, full).astype(x.dtype)

    return jax.tree.map(fill, networks.sample_obs(space))


def timesteps(space: Any, length: int, batch: int, random: np.random.Generator) -> Timestep:
    """Timestep [T + 1, B, ...] of episodes of about 200 steps."""
    shape = (length + 1, batch)
    return Timestep(
        observations(space, shape, random),
        random.random(shape) < 0.005,
        random.normal(size=shape).astype(np.float32),
        np.ones(shape, np.float32),
        np.zeros(shape, bool),
    )


def trajectory(
    network: networks.AgentNetwork, act: Callable, length: int, batch: int
) -> Trajectory:
    """As an actor would hand it over; aux is zero.

    act: (timestep, core_state, key) -> action, aux, core_state.
    """
    random = np.random.default_rng(0)
    steps = timesteps(network.observation_space, length, batch, random)
    core_state = network.initial(batch)
    first = jax.tree.map(lambda x: x[0], steps)
    _, aux, _ = jax.eval_shape(act, first, core_state, jax.random.key(0))
    aux = jax.tree.map(lambda x: np.zeros((length, *x.shape), x.dtype), aux)
    space = network.action_space
    dimensions = space.shape if isinstance(space, spaces.MultiDiscrete) else ()
    action = np.zeros((length, batch, *dimensions), np.int32)
    return Trajectory(steps, action, aux, core_state, np.zeros(batch, np.int32))


class Step(NamedTuple):
    """What an algorithm learns of one batch, again and again."""

    call: Callable[[], Any]
    samples: int  # steps learned from
    env_steps: float  # that it takes to be allowed such a step
    flops: Callable[[], float]  # by the compiler's count, in which a loop's body counts once


def learner_step(algorithm: ModuleType, config: Any, network: networks.AgentNetwork) -> Step:
    """What an algorithm learns of one sample from replay or of one unroll of all environments."""
    replays = hasattr(algorithm, "make_replay")
    return (from_sample if replays else _from_unroll)(algorithm, config, network)


def from_batch(impala: ModuleType, config: Any, network: networks.AgentNetwork) -> Step:
    """One update of IMPALA on one batch, without the loop over an unroll's batches.

    In such a loop XLA's own convolutions are ten times slower on CPUs, and ours are not.
    """
    mesh, samples = learner.make_mesh(), config.unroll_length * config.batch_size
    state = learner.place(mesh, impala.make_state(network, config))
    act = functools.partial(impala.act, network, state.params)
    batch = trajectory(network, act, config.unroll_length, config.batch_size)
    batch = learner.place(mesh, batch, TRAJECTORY_SPEC)
    learn = learner.data_parallel(functools.partial(impala.update, network), mesh, TRAJECTORY_SPEC)
    call, flops = _repeat(learn, config, state, batch)
    return Step(call, samples, samples, flops)


def _from_unroll(algorithm, config, network) -> Step:
    mesh, env_steps = learner.make_mesh(), config.unroll_length * config.num_envs
    state = learner.place(mesh, algorithm.make_state(network, config))
    act = functools.partial(algorithm.act, network, state.params)
    unroll = trajectory(network, act, config.unroll_length, config.num_envs)
    batch = learner.place(mesh, algorithm.batches(config, unroll), algorithm.BATCHES_SPEC)
    learn = functools.partial(algorithm.learn, network)
    learn = learner.data_parallel(learn, mesh, algorithm.BATCHES_SPEC)
    call, flops = _repeat(learn, config, state, batch)
    return Step(call, env_steps, env_steps, flops)


def from_sample(r2d2: ModuleType, config: Any, network: networks.AgentNetwork) -> Step:
    """One update of R2D2."""
    mesh, length = learner.make_mesh(), config.burn_in + config.length
    state = learner.place(mesh, r2d2.make_state(network, config))
    epsilon = np.zeros(config.batch_size, np.float32)

    def act(*args):
        return r2d2.act(network, state.params, *args, epsilon)

    sequences = trajectory(network, act, length, config.batch_size)._replace(aux=(), task_id=())
    mask = np.ones((length, config.batch_size), bool)
    sample = Sample(sequences, mask, np.ones(config.batch_size, np.float32))
    sample = learner.place(mesh, sample, SAMPLE_SPEC)
    learn = learner.data_parallel(
        functools.partial(r2d2.update, network), mesh, SAMPLE_SPEC, (learner.SHARDED, jax.P())
    )
    call, flops = _repeat(learn, config, state, sample)
    learned = config.length * config.batch_size
    return Step(call, length * config.batch_size, learned / config.replay_ratio, flops)


def _repeat(learn: Any, config: Any, state: Any, batch: Any) -> tuple[Callable, Callable]:
    """Calls learn with the state that it gave before; and its operations."""
    config, box = learner.place(learner.make_mesh(), config), [state]

    def call():
        box[0], out = learn(config, box[0], batch)
        return out

    return call, lambda: learn.lower(config, box[0], batch).compile().cost_analysis()["flops"]
