"""Made-up episodes for tests of the algorithms that learn from trajectories."""

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np
from gymnasium import spaces

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.types import Timestep, Trajectory

VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)
IMAGES = spaces.Box(0, 255, (36, 36, 1), np.uint8)
MASKED = spaces.Dict(action_mask=spaces.MultiBinary(3), x=VECTOR)


class Stub:
    """A network made up for a test, without actions that are always illegal."""

    def legal(self, obs):
        return obs.get("action_mask") if isinstance(obs, dict) else None


class Kind(NamedTuple):
    """Describes the spaces and sizes that a network is made for."""

    obs: spaces.Space
    action: spaces.Space
    core_size: int = 0
    frame_stack: int = 1
    num_tasks: int = 1


KINDS = {
    "memoryless": Kind(MASKED, spaces.Discrete(3), num_tasks=3),
    "recurrent": Kind(VECTOR, spaces.Discrete(3), core_size=8, num_tasks=3),
    "many": Kind(VECTOR, spaces.MultiDiscrete([3, 3]), core_size=8),
    "stacked": Kind(IMAGES, spaces.Discrete(3), frame_stack=4),
    "stacked recurrent": Kind(IMAGES, spaces.Discrete(3), core_size=8, frame_stack=4),
}


@functools.cache
def network_of(kind):
    obs, action, core_size, frame_stack, num_tasks = KINDS[kind]
    return networks.policy_value_network(
        obs, action, num_tasks=num_tasks, torso="shallow" if obs is IMAGES else None,
        hidden_size=8, core_size=core_size, head_size=8, frame_stack=frame_stack,
    )  # fmt: skip


@functools.cache
def params_of(kind, seed=0):
    """Parameters under which no policy is near uniform, and none is zero."""
    params = jax.eval_shape(lambda: networks.init(network_of(kind), jax.random.key(0)))
    random = np.random.default_rng(seed)

    def draw(x):
        scale = 1.5 / np.sqrt(np.prod(x.shape[:-1])) if x.ndim > 1 else 0.1
        return (scale * random.normal(size=x.shape)).astype(np.float32)

    return jax.tree.map(draw, params)


def observations(random, kind, shape):
    """An image's pixels are alike but differ much from those of other steps."""
    if KINDS[kind].obs is IMAGES:
        noise = random.integers(0, 32, (*shape, 36, 36, 1))
        return (random.integers(0, 224, (*shape, 1, 1, 1)) + noise).astype(np.uint8)
    x = random.uniform(-1, 1, (*shape, 4)).astype(np.float32)
    if KINDS[kind].obs is not MASKED:
        return x
    mask = random.random((*shape, 3)) < 0.6  # some are all False
    return {"action_mask": mask, "x": x}


def timesteps(kind, num_steps, num_envs, seed=0, mean_length=5):
    """Timestep [num_steps + 1, B, ...] of episodes that end in every way, some after no step."""
    random = np.random.default_rng(seed)
    shape = (num_steps + 1, num_envs)
    first = random.random(shape) < 1 / mean_length
    first[0] = True
    last = np.roll(first, -1, 0)
    truncated = last & (random.random(shape) < 0.5)
    return Timestep(
        observations(random, kind, shape),
        first,
        np.where(first, 0, random.normal(size=shape)).astype(np.float32),
        (1.0 - (last & ~truncated)).astype(np.float32),
        truncated,
    )


@functools.cache
def policy_of(act, kind):
    return actor_critic.make_policy(act, network_of(kind))


def acted(policy, params, steps, state, key):
    """A policy's actions and aux [T, B, ...] in Timesteps [T + 1, B, ...] that do not heed them,
    and the T states before it acted."""
    states, actions, auxs = [], [], []
    for t in range(len(steps.first) - 1):
        timestep = jax.tree.map(lambda x, t=t: x[t], steps)
        states.append(jax.tree.map(np.asarray, state))
        action, aux, state, key = policy(params, timestep, state, key)
        actions.append(np.asarray(action))
        auxs.append(jax.tree.map(np.asarray, aux))
    return np.stack(actions), jax.tree.map(lambda *xs: np.stack(xs), *auxs), states


def play(act, kind, num_steps, num_envs=4, *, seed=0, warm_up=7, task=None, mean_length=5):
    """Makes what an actor hands over; it begins amid episodes, after warm_up steps of play."""
    steps = timesteps(kind, warm_up + num_steps, num_envs, seed, mean_length)
    start, key = network_of(kind).initial(num_envs), jax.random.key(seed)
    actions, aux, states = acted(policy_of(act, kind), params_of(kind), steps, start, key)
    steps, actions, aux = jax.tree.map(lambda x: x[warm_up:], (steps, actions, aux))
    task = np.zeros(num_envs, np.int32) if task is None else np.asarray(task, np.int32)
    return Trajectory(steps, actions, aux, states[warm_up], task)


def pieces(first, length):
    """Each episode's [begin, end) in a column of first [T + 1], end at its last observation."""
    begins = [0, *(np.flatnonzero(first[1:]) + 1), length + 1]
    return [(begin, after - 1) for begin, after in itertools.pairwise(begins)]


def close(x, y, **tolerance):
    """Trees equal to rounding."""
    tolerance = {"rtol": 1e-4, "atol": 1e-6} | tolerance
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), x, y)


def several_devices():
    """Numbers of devices to compare with one: 2 and 4, or 8 where there are so many."""
    return (8,) if len(jax.devices()) == 8 else (2, 4)
