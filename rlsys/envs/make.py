"""The one constructor of environments: a back-end, with a wrapper for each option around it."""

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces

from rlsys.envs import wrappers
from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.envs.interface import Envs
from rlsys.envs.options import DEFAULTS, Task
from rlsys.envs.randomise import NOTHING
from rlsys.envs.randomise.effects import effects_of
from rlsys.envs.randomise.groups import Groups
from rlsys.envs.tasks import backend_of, check_opponent
from rlsys.envs.teams import WITHIN, TeamEnvs
from rlsys.types import UserError


def make(
    task: Task,
    num_envs: int,
    seed: int | Sequence[int],
    *,
    num_threads: int = 0,
    render: bool = False,
) -> Envs:
    """Makes the environments of a task.

    Args:
      task: the task with its options, as read_tasks() gives it.
      num_envs: the number of environments, B.
      seed: any integer from 0 up; the same seed gives the same Timesteps for the same actions. If
        there are several, each seeds an equal share of the environments, in order, as it would
        seed them alone.
      num_threads: the number of threads that step EnvPool's environments. 0 stands for one a
        core, or for one in all where a step costs less than handing it to a thread. Other
        back-ends ignore it.
      render: whether render() will be called.

    Raises:
      UserError: there is no such task, it cannot be made here, or it cannot honour the options.
    """
    envs = make_own(task, num_envs, seed, num_threads=num_threads, render=render)
    options, exact = task.options, None
    if task.randomise != NOTHING:
        effects = effects_of(
            task.randomise,
            task.env_id,
            envs.observation_space,
            envs.action_space,
            envs.steps_per_second,
        )
        envs = wrappers.with_actions(envs, effects, seed)
        if task.randomise.show_value:
            envs = exact = wrappers.Exact(envs)
        envs = wrappers.with_observations(envs, effects, seed)
    if options.action_bins != DEFAULTS.action_bins:
        if not isinstance(envs.action_space, spaces.Box):
            raise UserError(
                f"action_bins is for continuous actions, and those of {task.name!r} are not"
            )
        if task.continuous:
            raise UserError("action_bins has no use where actions are played as numbers")
    if isinstance(envs.action_space, spaces.Box) and not task.continuous:
        envs = wrappers.ActionBins(envs, options.action_bins)
    if options.clip_rewards:
        envs = wrappers.ClipRewards(envs)
    if options.reward_scale != 1.0:
        envs = wrappers.ScaleRewards(envs, options.reward_scale)
    if options.observe:
        envs = wrappers.Observe(envs, options.observe)
    if options.permute:
        envs = wrappers.Permute(envs, options.permute)
    if options.only_first:
        envs = wrappers.OnlyFirst(envs)
    if options.flicker:
        envs = wrappers.Flicker(envs, options.flicker, seed)
    if exact:
        envs = wrappers.ShowValue(envs, exact)
    return envs


def make_own(
    task: Task,
    num_envs: int,
    seed: int | Sequence[int],
    *,
    num_threads: int = 0,
    render: bool = False,
) -> Envs:
    """Makes environments that show a task's own observations and take its own actions: without
    effects, which are in these units, and without the options that make() adds after them. make()
    explains the arguments and errors."""
    options, backend = task.options, backend_of(task.env_id)
    if options.opponent:
        check_opponent(task.env_id, options)
    against = options.opponent and options.opponent not in WITHIN
    rows = 2 * num_envs if against else num_envs
    made: Any = Groups if task.randomise.physics_words else backend
    envs: Envs = made(task, rows, seed, num_threads=num_threads, render=render)
    if isinstance(envs, TeamEnvs) and options.event_rewards:
        envs = wrappers.AddEvents(envs, options.event_rewards)
    if against:
        envs = wrappers.Versus(envs, options.opponent, task.env_id, seed)
    if options.life_loss_ends:
        assert isinstance(envs, EnvPoolEnvs)  # other back-ends have refused it
        envs = wrappers.LifeLossEnds(envs)
    return envs
