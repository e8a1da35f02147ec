"""An unroll: an actor plays some steps with fixed parameters."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from rlsys.envs import Envs
from rlsys.types import CoreState, Timestep, Trajectory


class Timer(Protocol):
    """Measures activities: `with timer("inference"):` adds the time spent within to that name."""

    def __call__(self, activity: str, /) -> contextlib.AbstractContextManager: ...


class ActorState(NamedTuple):
    """The part of an actor that a checkpoint holds; its environments start afresh there."""

    timestep: Timestep  # [B, ...] x_t, in which it is yet to act
    core_state: CoreState  # [B, ...]
    key: jax.Array


class Unroll(NamedTuple):
    """An unroll of one or more actors, joined along the environments."""

    trajectory: Trajectory  # [T + 1, B, ...], numpy
    learner_step: int  # at which the oldest parameters that played it were copied

    @property
    def env_steps(self) -> int:
        return self.trajectory.action.shape[0] * self.trajectory.action.shape[1]


class Act(Protocol):
    """Acts for B rows, as Policy does."""

    def __call__(
        self, params: Any, timestep: Timestep, core_state: CoreState, key: jax.Array
    ) -> tuple[Any, Any, CoreState, jax.Array]: ...


class Interrupted(Exception):
    """An unroll was broken off, as the run stops; it is as if it had not begun."""


def unroll(
    envs: Envs,
    policy: Act,
    params,
    state: ActorState,
    length: int,
    timer: Timer,
    stopping: Callable[[], bool] = lambda: False,
):
    """Plays `length` steps with fixed parameters.

    Args:
      policy: the agent's.
      timer: measures "inference" and "environment".
      stopping: tells, before each step, whether to break off.

    Returns:
      Trajectory [length + 1, B, ...] of numpy arrays, and the ActorState after it.

    Raises:
      Interrupted: stopping() was true.
    """
    timestep, core_state, key = state
    start, steps, actions, auxs = core_state, [timestep], [], []
    learns = []  # where another player moves, nothing is the policy's
    for _ in range(length):
        if stopping():
            raise Interrupted
        # What an actor sees is copied to the device implicitly: device_put takes 15 times as long.
        with timer("inference"), jax.transfer_guard_host_to_device("allow"):
            action, aux, core_state, key = policy(params, timestep, core_state, key)
            action = np.asarray(action)  # waits for the device
        if action.dtype.kind == "f":  # NaN from a policy that diverged: the log will tell of it
            action = np.where(np.isfinite(action), action, np.float32(0))
        learns.append(getattr(envs, "to_move", ()))  # games alone need to have it
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
        learns=stack(*learns) if len(learns[0]) else (),
    )
    return trajectory, ActorState(timestep, core_state, key)
