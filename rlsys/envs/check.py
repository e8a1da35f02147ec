"""Checks that environments keep the interface's rules.

python -m rlsys.envs.check ENV [--num-envs N] [--steps N] [--seed N]

Plays random legal actions and prints a line for each check. The exit code is 0 if all are kept, 1
if one is not, and 2 if there are no such environments or they fail.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import tyro

from rlsys.envs.interface import Envs
from rlsys.envs.make import make
from rlsys.envs.options import Options, Task
from rlsys.envs.rules import RULES, Broken, Unseen, play
from rlsys.envs.tasks import read_tasks
from rlsys.envs.teams import is_team_game
from rlsys.types import UserError


class Check(NamedTuple):
    """Says how one check went."""

    rule: str
    kept: bool | None  # None where nothing was played that could break it
    found: str  # what was seen


def check(build: Callable[[int], Envs], num_steps: int = 500, seed: int = 0) -> list[Check]:
    """Plays environments and checks each rule.

    Args:
      build: makes the environments from a seed; they must give raw rewards and whole episodes.
      num_steps: the steps that each environment plays, each time that it is played.
      seed: the seed of the environments.

    Raises:
      UserError: they cannot be made.
    """
    played = play(build(seed), num_steps)
    results = []
    for rule, function in RULES.items():
        try:
            results.append(Check(rule, True, function(played, build, seed)))
        except Broken as error:
            results.append(Check(rule, False, str(error)))
        except Unseen as error:
            results.append(Check(rule, None, str(error)))
        except Exception as error:  # whatever they raise where they are played again
            results.append(Check(rule, False, f"{type(error).__name__}: {error}"))
    played.envs.close()
    return results


@dataclasses.dataclass(frozen=True)
class Config:
    """Checks that environments keep the interface's rules."""

    env: Annotated[str, tyro.conf.Positional] = ""
    """The task, with its options."""
    num_envs: int = 4
    """The number of environments that are played together."""
    steps: int = 500
    """The steps that each environment plays, each time that it is played."""
    seed: int = 0
    """The seed of the environments."""


def raw(task: Task) -> Task:
    """Returns the task without the options that make the learner's rewards and episodes differ from
    the raw ones."""
    plain = Options()
    changed = {"clip_rewards", "reward_scale", "life_loss_ends"}
    values = {name: getattr(plain, name) for name in changed}
    if is_team_game(task.env_id):
        values["event_rewards"] = 0.0
    return task._replace(options=dataclasses.replace(task.options, **values))


def main(config: Config) -> int:
    """Prints a line for each check of each task; returns the exit code."""
    if not config.env:
        raise UserError("which task? python -m rlsys.envs.check Catch-v0, say")
    for name, least in (("steps", 1), ("num_envs", 1), ("seed", 0)):
        if getattr(config, name) < least:
            raise UserError(f"{name} must be {least} or more, not {getattr(config, name)}")
    failed = False
    for task in map(raw, read_tasks(config.env, Options())):
        print(f"{task.name}, {config.num_envs} environments, {config.steps} steps each")
        build = functools.partial(make, task, config.num_envs)
        for rule, kept, found in check(build, config.steps, config.seed):
            word = {True: "ok", False: "FAILED", None: "unseen"}[kept]
            print(f"  {word:7s} {rule}: {' '.join(found.split())}")
            failed |= kept is False
    return int(failed)


if __name__ == "__main__":
    from rlsys import cli  # a command: rlsys.envs itself imports nothing above it

    cli.run(main, Config(), __doc__)
