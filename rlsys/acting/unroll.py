"""An unroll: an actor plays some steps with fixed parameters."""

import contextlib
from typing import NamedTuple, Protocol

import jax
import numpy as np

from rlsys.envs import Envs
from rlsys.types import CoreState, Policy, Timestep, Trajectory


class Timer(Protocol):
    """Measures activities: `with timer("inference"):` adds the time spent within to that name."""

    def __call__(self, activity: str, /) -> contextlib.AbstractContextManager: ...


class ActorState(NamedTuple):
    """All of an actor that a checkpoint holds; its environments start afresh."""

    timestep: Timestep  # [B, ...] x_t, in which it has not acted
    core_state: CoreState  # [B, ...]
    key: jax.Array


class Unroll(NamedTuple):
    """An unroll of some actors, whose environments stand side by side."""

    trajectory: Trajectory  # [T + 1, B, ...], numpy
    learner_step: int  # at which the oldest of the parameters were copied that played it

    @property
    def env_steps(self) -> int:
        return self.trajectory.action.shape[0] * self.trajectory.action.shape[1]


def unroll(envs: Envs, policy: Policy, params, state: ActorState, length: int, timer: Timer):
    """Plays `length` steps with fixed parameters.

    Args:
      policy: the agent's.
      timer: measures "inference" and "environment".

    Returns:
      Trajectory [length + 1, B, ...] of numpy arrays, and the ActorState after it.
    """
    timestep, core_state, key = state
    start, steps, actions, auxs = core_state, [timestep], [], []
    for _ in range(length):
        # What an actor sees goes to the device here, unasked: device_put takes 15 times as long.
        with timer("inference"), jax.transfer_guard_host_to_device("allow"):
            action, aux, core_state, key = policy(params, timestep, core_state, key)
            action = np.asarray(action)  # waits for it
        with timer("environment"):
            timestep = envs.step(action)
        steps.append(timestep)
        actions.append(action)
        auxs.append(aux)

    def stack(*xs):  # as np.stack, at half its overhead
        x = [np.asarray(x) for x in xs]
        return np.concatenate(x).reshape(len(x), *x[0].shape)

    trajectory = Trajectory(
        jax.tree.map(stack, *steps),
        stack(*actions),
        jax.tree.map(stack, *auxs),
        jax.tree.map(np.asarray, start),
    )
    return trajectory, ActorState(timestep, core_state, key)
