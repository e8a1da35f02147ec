"""A run that begins with the parameters of another, which was trained before (--init-from)."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsys.acting import actor_critic
from rlsys.config import tasks_of
from rlsys.learning import hosts
from rlsys.running import config_file
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import Checkpoints
from rlsys.types import LearnerState, UserError

# Fields of a network that may differ. bfloat16 changes only the precision. torso may be named here
# and left to None there, which is the same network where it has the same shapes, so they decide.
FREE = ("bfloat16", "torso")
POPART = ("popart", "popart_floor")  # fields that say what PopArt's statistics do to values


class Initial(NamedTuple):
    """The arrays that a run takes over from another, in numpy."""

    params: Any  # with the statistics of observations
    popart: Any  # None where the run begins with its own: of other tasks, or without PopArt
    popart_config: Any  # has the other run's popart and popart_floor; None where popart is
    sentence: str  # that says so


def begin(state: LearnerState, initial: Initial | None, config: Any) -> LearnerState:
    """Puts what is taken over, if anything is, into the LearnerState before the first update.

    If PopArt's statistics are taken over, values in units of return stay the same, though config
    may have another popart or popart_floor.
    """
    if initial is None:
        return state
    params, target = jax.tree.map(jnp.array, initial.params), None
    if state.target_params is not None:
        target = jax.tree.map(jnp.array, initial.params)
    popart = state.popart
    if initial.popart is not None:
        taken = jax.tree.map(jnp.array, initial.popart)
        popart = taken if config.popart else popart  # without PopArt values are learned as they are
        old = actor_critic.statistics_of(initial.popart_config, taken)
        new = actor_critic.statistics_of(config, popart)
        params = actor_critic.preserve_outputs(old, new, params)
    return state._replace(params=params, target_params=target, popart=popart)


def read(algorithm: Algorithm, config: Any, network: Any) -> Initial | None:
    """Reads what a new run takes over from the run config.init_from; None if it names none.

    The optimiser starts anew, and so do PopArt's statistics unless the tasks are the same.

    Args:
      algorithm: of the new run.
      network: of the new run.

    Raises:
      UserError: there is no such run, or its network is another one.
      CheckpointError: it has no checkpoint.
    """
    if not config.init_from:
        return None
    folder = Path(config.init_from)
    there, unfit = saved_config("init_from", folder, algorithm)
    check_network(there, config, unfit)
    shapes, trees, steps = saved_learner(folder, algorithm, config, network)
    params = like(shapes.params, trees["params"], unfit)
    popart = popart_config = None
    if shapes.popart is not None and "popart" in trees:
        if [task.name for task in tasks_of(there)] == [task.name for task in config.tasks]:
            popart = like(shapes.popart, trees["popart"], unfit)
            fields = {name: there.get(name, getattr(config, name)) for name in POPART}
            popart_config = SimpleNamespace(**fields)
    words = f"begins with the parameters of {folder} after {steps:,} environment steps"
    return Initial(params, popart, popart_config, words)


def saved_config(field: str, folder: Path, algorithm: Algorithm) -> tuple[dict[str, Any], str]:
    """Reads the Config of a run, as config.json holds it, and how a sentence begins that refuses
    the run.

    Args:
      field: of the new run's Config, that names the folder.

    Raises:
      UserError: there is no such run.
    """
    saved = config_file.load(folder)
    if "config" not in saved:
        raise UserError(f"{field} {folder} is a sweep: its runs are {folder}/members/0 and so on")
    there, other = saved["config"], saved["algorithm"]
    kind = f", a run of {other}," if other != algorithm.name else ""
    unfit = f"{field} {folder}{kind} does not fit this run of {algorithm.name}"
    return there, unfit


def check_network(there: dict[str, Any], config: Any, unfit: str) -> None:
    """Raises UserError unless a saved Config's network has the fields of config's; unfit: see
    saved_config."""
    for name, here in config.network.items():
        if name not in FREE and name in there and there[name] != here:
            raise UserError(f"{unfit}: {name} is {there[name]} there, and {here} here")


def saved_learner(
    folder: Path, algorithm: Algorithm, config: Any, network: Any
) -> tuple[Any, Any, int]:
    """Reads the learner's state in a run's newest checkpoint; collective.

    Returns:
      the shapes of the new run's LearnerState, nested dicts of arrays, and the environment steps
      that the run had played.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    number = hosts.gather(checkpoints.newest(["learner"]))[0]  # the same in all processes
    _, trees, meta = checkpoints.restore({"learner": None}, number)
    shapes = jax.eval_shape(functools.partial(algorithm.make_state, network, config))
    return shapes, trees["learner"], meta["counters"]["env_steps"]


def like(wanted: Any, found: Any, unfit: str) -> Any:
    """Gives a tree's leaves the structure of another.

    Args:
      wanted: the other: its structure and shapes.
      found: nested dicts of arrays.
      unfit: how the sentence begins that refuses a difference.

    Raises:
      UserError: they differ.
    """
    here, there = _by_name(wanted), _by_name(found)
    for name in here | there:
        words = [_text(tree[name]) if name in tree else "missing" for tree in (there, here)]
        if words[0] != words[1]:
            raise UserError(f"{unfit}: {name} is {words[0]} there, and {words[1]} here")
    return jax.tree.unflatten(jax.tree.structure(wanted), [there[name] for name in here])


def _by_name(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _text(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"
