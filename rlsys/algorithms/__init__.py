"""The algorithms, a file each, and the table of them."""

import importlib
from typing import Any

import jax

from rlsys import cli
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError

NAMES = ("r2d2", "impala", "ppo", "apex")  # each is a module here, with its record as ALGORITHM


def find(name: str) -> Algorithm:
    """The algorithm of that name, whose module is imported only now.

    Raises:
      UserError: there is none of that name.
    """
    if name not in NAMES:
        raise UserError(cli.unknown("algorithm", name, NAMES))
    return importlib.import_module(f"rlsys.algorithms.{name}").ALGORITHM


def config_of(name: str, args: list[str], *, on_cpu: bool | None = None) -> Any:
    """The Config of an algorithm that the words after its name give.

    Args:
      on_cpu: whether it is for a machine without accelerator, where some tasks have presets of
        their own; if None this machine decides.

    Raises:
      UserError: a word is wrong, or the fields cannot work together.
    """
    presets = find(name).presets
    preset, args = cli.take(args, "--preset")
    env, args = cli.take(args, "--env")
    if on_cpu is None:  # which devices there are is asked only where it matters
        on_cpu = env in presets.on_cpu and jax.default_backend() == "cpu"
    default = presets.choose(preset, env, on_cpu)
    return cli.parse(default, args, f"Presets: {', '.join(presets.configs)}.")
