"""The first lines of a run say what it will train, on what, and what it leaves unused."""

import collections
import dataclasses
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import jax
from gymnasium import spaces
from jax.sharding import Mesh

from rlsys.envs.randomise.physics import physics_of
from rlsys.envs.randomise.variants import plain
from rlsys.learning import hosts
from rlsys.learning.optimizer import learned
from rlsys.networks import AgentNetwork
from rlsys.running.presets import Presets

SHOWN = 5  # changed fields that are named
# By the extra that installs what it needs: files in /dev, a name, and the module of JAX's plugin.
ACCELERATORS = {
    "cuda": (("nvidia[0-9]*",), "NVIDIA GPU", "jax_cuda12_plugin"),
    "tpu": (("accel[0-9]*", "vfio/[0-9]*"), "TPU", "libtpu"),
}


def first_lines(
    presets: Presets,
    config: Any,
    network: AgentNetwork,
    mesh: Mesh,
    params: Any,
    num_members: int = 1,
) -> list[str]:
    """Returns lines on the task, network, preset and device, on drawn physics and past selves, and
    on an accelerator left unused.

    Args:
      mesh: the devices that learn.
      params: the network's parameters, of all members of a sweep together.
      num_members: members of the sweep.
    """
    size = sum(x.size for x in jax.tree.leaves(learned(params))) // num_members
    of_all = f" for each of {num_members} members" if num_members > 1 else ""
    numbers = "bfloat16 with float32 parameters" if config.bfloat16 else "float32"
    seen, done = describe(network.observation_space), describe(network.action_space)
    tasks = ", ".join(task.name for task in config.tasks)
    lines = [
        f"task: {tasks}; observation {seen}; action {done}",
        f"network: {size:,} parameters{of_all}, computed in {numbers}",
        f"preset: {preset(presets, config)}",
        f"device: {devices(config, mesh)}",
        *physics(config),
        *past_selves(config),
    ]
    unused = unused_accelerator(jax.default_backend())
    return [*lines, unused] if unused else lines


def describe(space: spaces.Space) -> str:
    """Says in words what a space of observations or actions holds."""
    if isinstance(space, spaces.Dict):
        return ", ".join(f"{name} {describe(part)}" for name, part in space.items())
    if isinstance(space, spaces.Discrete):
        return f"1 of {space.n}"
    if isinstance(space, spaces.MultiDiscrete):
        return " x ".join(f"1 of {n}" for n in space.nvec.ravel())
    return f"{space.dtype} {list(space.shape or ())}"


def preset(presets: Presets, config: Any) -> str:
    """Names the preset that is nearest to a Config, and the fields that differ."""
    name, changed = presets.nearest(config)
    words = []
    for field, value in changed.items():
        if dataclasses.is_dataclass(value):
            words.append(field)
        else:
            words.append(f"{field} {value:,}" if type(value) is int else f"{field} {value}")
    more = [f"{len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return f"{name}, but {', '.join(words[:SHOWN] + more)}" if words else name


def physics(config: Any) -> list[str]:
    """Says what is drawn of the tasks' physics; nothing where nothing is."""
    lines, given = [], config.randomise
    for task in config.tasks if given.physics_words else ():
        found = physics_of(plain(task), False)
        every = f"every {given.redraw_steps:,} steps and " if given.redraw_steps else ""
        draws = given.num_variants(config.num_envs // config.actors)
        out = f"; it has nothing for {' '.join(found.left_out)}" if found.left_out else ""
        lines.append(
            f"physics: {len(found.parameters)} numbers of {task.name} are drawn, {draws} draws "
            f"at once, anew {every}at each checkpoint{out}"
        )
        if given.adapt:
            lines.append(
                f"ranges begin as points, and each end moves outward by {given.adapt_step:.3g} of "
                f"the whole range where {given.adapt_episodes:,} episodes return "
                f"{given.adapt_threshold_high:g} on average, inward at "
                f"{given.adapt_threshold_low:g}"
            )
    return lines


def past_selves(config: Any) -> list[str]:
    """Says in how many games past selves play, where that is another share than past_share."""
    if not config.has_past_selves:
        return []
    games, wanted = config.games // hosts.count(), config.self_play.past_share
    groups, size = config.self_play.groups(games)
    share = groups * size / games
    if math.isclose(share, wanted):
        return []
    return [
        f"past selves: {groups} at a time play in {groups * size} of each actor's {games} games, "
        f"{100 * share:.3g} % in place of {100 * wanted:.3g} %"
    ]


def devices(config: Any, mesh: Mesh) -> str:
    """Says on how many devices of which kind a run learns and acts."""
    kinds = collections.Counter(device.device_kind for device in mesh.devices.flat)
    words = [f"{num} x {kind}" for kind, num in kinds.items()]
    if config.actor_devices:
        words.append(f"{config.actor_devices} more of each process act")
    if hosts.count() > 1:
        words.append(f"{hosts.count()} processes")
    threads = f"{config.actors} actor thread{'s' if config.actors > 1 else ''}"
    return ", ".join([*words, f"{config.num_envs:,} environments in {threads}"])


def unused_accelerator(backend: str, dev: Path = Path("/dev")) -> str | None:
    """Says which accelerator this machine has though JAX computes on the CPU, and how to use it.

    Args:
      backend: the platform that JAX computes on.
      dev: where the machine lists its devices.

    Returns:
      None if none is unused.
    """
    if backend != "cpu":
        return None
    for extra, (patterns, name, plugin) in ACCELERATORS.items():
        if not any(any(dev.glob(pattern)) for pattern in patterns):
            continue
        chosen = os.environ.get("JAX_PLATFORMS", "")
        if chosen:
            return f"unused: this machine's {name}; JAX_PLATFORMS={chosen} hides it"
        if extra == "cuda" and os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
            return f"unused: this machine's {name}; CUDA_VISIBLE_DEVICES hides it"
        if importlib.util.find_spec(plugin) is None:
            return f"unused: this machine's {name}; to use it:\nmake train EXTRA={extra}"
        return f"unused: this machine's {name}, which JAX cannot open; this may say why:\n" + (
            "nvidia-smi" if extra == "cuda" else "JAX_PLATFORMS=tpu .venv/bin/python -m rlsys.train"
        )
    return None
