"""Makes environments that all have one draw of physics, and checks that draws change a task."""

import functools

import jax
import numpy as np
from gymnasium import spaces

from rlsys.envs.backend import Backend
from rlsys.envs.options import Task
from rlsys.envs.randomise.model import Refused
from rlsys.envs.randomise.physics import Physics, numbers_at, physics_of
from rlsys.envs.randomise.ranges import NOTHING
from rlsys.types import Timestep, UserError

STEPS = 200  # length of the rollouts that are compared
SHARES = (0.6, 0.9, 0.3, 0.75)  # the quantiles of the drawn numbers that are compared


def plain(task: Task) -> Task:
    """Returns a task without those of its words on which its physics do not depend, so that what is
    cached of its physics serves all such tasks."""
    return task._replace(name=task.env_id, continuous=False)


def make_variant(
    task: Task,
    physics: Physics,
    numbers: np.ndarray,
    num_envs: int,
    seed: int,
    *,
    num_threads: int = 0,
    render: bool = False,
) -> Backend:
    """Makes environments that all have the same physics.

    Args:
      task: the task, with `randomise` that draws no physics.
      physics: the physics of the task.
      numbers: [n] one for each of the physics' parameters.
      num_envs, seed, num_threads, render: make.make explains them.

    Raises:
      Refused: the environments cannot be made with these numbers.
    """
    from rlsys.envs.tasks import backend_of  # tasks imports what imports this module

    with physics.variant(numbers) as variant:
        try:
            return backend_of(task.env_id)(
                task, num_envs, seed, num_threads=num_threads, render=render, variant=variant
            )
        except UserError as error:
            raise Refused(str(error)) from None


@functools.cache
def check_effect(task: Task) -> None:
    """Checks, once in a process, that drawn physics change what happens in a task.

    It plays the same random actions with the nominal numbers and with those of SHARES, until one
    rollout differs from the first. There is nothing to check if all words are points that are the
    nominal numbers.

    Raises:
      UserError: none differs, or no environment can be made with any of these numbers.
    """
    physics, bare = physics_of(task, False), task._replace(randomise=NOTHING)
    given, reason = " ".join(task.randomise.physics_words), ""

    def play(numbers: np.ndarray) -> list[Timestep]:  # nothing if the numbers are refused
        nonlocal reason
        try:
            envs = make_variant(bare, physics, numbers, 1, 0, num_threads=1)
        except Refused as error:
            reason = str(error)
            return []
        found = rollout(envs, STEPS)
        envs.close()
        return found

    count = len(physics.parameters)
    drawn = [numbers_at(physics.parameters, np.full(count, share)) for share in SHARES]
    if np.allclose(drawn, physics.nominal(), rtol=1e-9):
        return
    first, any_drawn = play(physics.nominal()), False
    for numbers in drawn:
        found = play(numbers)
        any_drawn |= bool(found)
        first = first or found
        if found and not all(map(_same, first, found)):
            return
    if not any_drawn:
        raise UserError(f"physics {given} cannot be played in {task.env_id!r}: {reason}")
    raise UserError(f"physics {given} does nothing to {task.env_id!r} in {STEPS} random steps")


def _same(a: Timestep, b: Timestep) -> bool:
    pairs = zip(jax.tree.leaves((a.obs, a.reward)), jax.tree.leaves((b.obs, b.reward)), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def rollout(envs: Backend, steps: int) -> list[Timestep]:
    """Plays random actions, the same at each call, and returns the Timesteps x_0 .. x_steps."""
    rng, found = np.random.default_rng(0), [envs.reset()]
    for _ in range(steps):
        found.append(envs.step(random_actions(envs.action_space, envs.num_envs, rng)))
    return found


def random_actions(space: spaces.Space, num_envs: int, rng: np.random.Generator) -> np.ndarray:
    """Draws uniform actions [num_envs, ...] of a back-end's action space. Where a dimension has no
    bound, -1 or 1 takes its place."""
    if isinstance(space, spaces.Box):
        low = np.where(np.isfinite(space.low), space.low, -1)
        high = np.where(np.isfinite(space.high), space.high, 1)
        return rng.uniform(low, high, (num_envs, *low.shape)).astype(np.float32)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, (num_envs, *space.nvec.shape))
    assert isinstance(space, spaces.Discrete)
    return rng.integers(0, space.n, num_envs)
