"""The algorithms, one file each, and how names find them."""

import dataclasses
import importlib
import importlib.util
from typing import Any

import jax

from rlsys import cli
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError

NAMES = ("r2d2", "impala", "ppo", "apex")  # modules here, each with a record ALGORITHM


def find(name: str) -> Algorithm:
    """Imports an algorithm by name: one of NAMES, or a module of the user's own.

    Args:
      name: such as "ppo", or the import path of a module that holds a record ALGORITHM, such as
        "my_package.my_algorithm".

    Raises:
      UserError: there is no such module, or it holds no such record.
    """
    module = f"rlsys.algorithms.{name}" if name in NAMES else name
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing, or the word is no module's name
        found = False
    if not found:
        unknown = cli.unknown("algorithm", name, NAMES)
        raise UserError(f"there is no module {name!r}" if "." in name else unknown)
    algorithm = getattr(importlib.import_module(module), "ALGORITHM", None)
    if not isinstance(algorithm, Algorithm):
        raise UserError(f"the module {module} has no ALGORITHM, the record of its algorithm")
    if algorithm.name != name:  # resume finds the module by this name
        raise UserError(f"ALGORITHM of the module {module} needs name={name!r}")
    return algorithm


def config_of(
    name: str,
    args: list[str],
    *,
    on_cpu: bool | None = None,
    command: str = "train",
    about: str = "Trains an agent, evaluates it, and keeps all in the run's folder.",
    also: Any = None,
) -> Any:
    """Returns the Config that the command-line words after an algorithm's name give.

    Args:
      name: of the algorithm, see find.
      args: the words after the name.
      on_cpu: whether the Config is for a machine without accelerator, where some tasks have presets
        of their own; if None this machine decides.
      command: the word after rlsys, for the help.
      about: what the command does; the help begins with it.
      also: a dataclass of flags, already taken, that are no fields of the Config; for the help.

    Raises:
      UserError: a word is wrong, or the fields cannot work together.
    """
    presets = find(name).presets
    preset, args = cli.take(args, "--preset")
    env, args = cli.take(args, "--env")
    large, small = (presets.choose(preset, env, x) for x in (False, True))
    if on_cpu is None:  # only where it matters: asking starts the devices
        on_cpu = small != large and jax.default_backend() == "cpu"
    default = small if on_cpu else large
    about = f"{about}\n\nPresets: {', '.join(presets.configs)}."
    config = cli.parse(default, args, about, usage=f"rlsys {command} {name}", also=also)
    config.randomise.check_used()
    if config.init_from:
        found = cli.run_folder(config.init_from, sweep=False)
        config = dataclasses.replace(config, init_from=found)
    return config
