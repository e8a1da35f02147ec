"""A run's policy as one file that a program of its user's own loads: see acting/exported.py."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from rlsys import networks
from rlsys.acting import exported
from rlsys.acting.playing import SEED
from rlsys.envs import NOTHING, against_players, layout, make
from rlsys.envs.randomise.places import named
from rlsys.envs.space_json import to_json
from rlsys.networks import AgentNetwork
from rlsys.networks.heads import DuelingHead, PolicyValueHead
from rlsys.results.evaluate import NEWEST, saved
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Writes the policy in a run's newest checkpoint to one file."""

    out: str = "policy.zip"
    """The file to write."""
    params: str = NEWEST
    """Which parameters: the newest, or the best of a run that was trained with --eval-every."""
    task: int = 0
    """For a run of several tasks: the number, from 0, of the task that the exported policy
    plays."""


def export(algorithm: Algorithm, config: Any, options: ExportConfig) -> Path:
    """Writes a run's policy to options.out.

    Raises:
      UserError: there is no such task, or the file cannot be written.
      CheckpointError: the run has no checkpoint.
    """
    if not 0 <= options.task < len(config.tasks):
        raise UserError(f"task must lie in 0 to {len(config.tasks) - 1}, not {options.task}")
    agent = saved(algorithm, config, options.params)
    network = networks.policy_alone(agent.network)
    about = describe(algorithm, config, network, options.task)
    about |= {"params": options.params, "env_steps": agent.env_steps}
    leaves = jax.tree_util.tree_flatten_with_path(agent.params)[0]
    used = jax.eval_shape(lambda: networks.init(network, jax.random.key(0)))
    names = [exported.name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(used)]
    arrays = io.BytesIO()
    named: dict[str, Any] = {exported.name_of(path): np.asarray(x) for path, x in leaves}
    named = {name: named[name] for name in names}  # without the values' own
    np.savez(arrays, **named)
    path = Path(options.out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("policy.json", json.dumps(about, indent=2))
            file.writestr("params.npz", arrays.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    print(
        f"saved {path}, {path.stat().st_size:,} bytes: rlsys.load_policy({str(path)!r}) plays "
        f"{about['task']} in any program"
    )
    return path


def describe(
    algorithm: Algorithm, config: Any, network: AgentNetwork, task_id: int
) -> dict[str, Any]:
    """Returns the content of policy.json: all that ExportedPolicy needs but the parameters.

    Args:
      network: without values that have a body of their own, as networks.policy_alone gives it.
    """
    task = config.tasks[task_id]._replace(randomise=NOTHING)
    envs = make(against_players(task)[0], layout(task).players, SEED)  # of a game one side
    is_q = isinstance(network.head, DuelingHead)
    arguments = dict(config.network)
    kind = "q" if is_q else "policy"
    if isinstance(network.head, PolicyValueHead):
        kind = "policy_value"
        arguments |= {"num_tasks": network.head.num_tasks, "separate": False}
    elif not is_q:
        arguments["reward_bound"] = network.body.reward_bound
    seen = network.observation_space
    known = seen.keys() if isinstance(seen, spaces.Dict) else ("obs",)
    hidden = [key for key in named(envs.observation_space) if key not in known]
    exploration = ("epsilon_base", "epsilon_exponent") if is_q else ()
    about = {
        "format": exported.FORMAT,
        "algorithm": algorithm.name,
        "task": task.name,
        "modes": list(algorithm.eval_modes),
        "score_mode": algorithm.score_mode,
        "network": kind,
        "network_arguments": arguments,
        "exploration": {name: getattr(config, name) for name in exploration},
        "options": dataclasses.asdict(task.options),
        "continuous": task.continuous,
        "observation_space": to_json(network.observation_space),
        "action_space": to_json(network.action_space),
        "raw_observation_space": to_json(without(envs.raw_observation_space, hidden)),
        "raw_action_space": to_json(envs.raw_action_space),
    }
    envs.close()
    if exported.make_network(json.loads(json.dumps(about))) != network:
        raise UserError(f"the network of {algorithm.name} is no plain one, and cannot be exported")
    return about


def without(space: Any, names: Sequence[str], prefix: str = "") -> Any:
    """A task's own observation space without the arrays of these names, as envs/spaces.py names
    them: "goal/position" is the part "position" of the Dict "goal"."""
    if not names or not isinstance(space, spaces.Dict):
        return space
    kept = {
        key: without(part, names, f"{prefix}{key}/")
        for key, part in space.items()
        if f"{prefix}{key}" not in names
    }
    full = {key: x for key, x in kept.items() if not isinstance(x, spaces.Dict) or len(x)}
    return spaces.Dict(full)
