"""What every algorithm's Config shares: a frozen dataclass whose numbers a sweep may vary."""

import dataclasses
from typing import Any

import jax

from rlsys import envs
from rlsys.types import UserError


def register(cls):
    """Registers a Config as a pytree: its float fields are leaves, all else is static.

    So an update takes a Config as an argument like any other, and vmap over a stack of Configs is a
    sweep.
    """
    fields = dataclasses.fields(cls)
    leaves = [f.name for f in fields if f.type in (float, "float")]
    rest = [f.name for f in fields if f.name not in leaves]
    return jax.tree_util.register_dataclass(cls, data_fields=leaves, meta_fields=rest)


def check_at_least(config, least: int, names: str) -> None:
    """Raises UserError if one of the fields is less."""
    for name in names.split():
        if getattr(config, name) < least:
            raise UserError(f"{name} must be {least} or more, not {getattr(config, name)}")


def check_positive(config, names: str) -> None:
    """Raises UserError if one of the fields is a number that is not positive."""
    for name in names.split():
        value = getattr(config, name)
        if isinstance(value, int | float) and not value > 0:  # tracers of a sweep pass
            raise UserError(f"{name} must be positive, not {value}")


def check_within(config, low: float, high: float, names: str) -> None:
    """Raises UserError if one of the fields is a number outside [low, high]."""
    for name in names.split():
        value = getattr(config, name)
        if isinstance(value, int | float) and not low <= value <= high:  # tracers of a sweep pass
            bounds = f"{low:g} or more" if high == float("inf") else f"within [{low:g}, {high:g}]"
            raise UserError(f"{name} must be {bounds}, not {value}")


def power_of_two(n: int) -> int:
    """The largest that is not above n, which several devices can share; 1 for less."""
    return 1 << max(n.bit_length() - 1, 0)


def check_shares(config, num_tasks: int) -> None:
    """Raises UserError unless environments, actors and tasks divide each other."""
    if config.actors % num_tasks:
        raise UserError(
            f"actors must be a multiple of the {num_tasks} tasks, not {config.actors}: each actor "
            f"plays one of them"
        )
    if config.num_envs % config.actors:
        raise UserError(
            f"{config.num_envs} environments cannot be shared evenly by {config.actors} actors"
        )
    if config.refresh_steps % config.unroll_length:
        raise UserError(
            f"refresh_steps {config.refresh_steps} is no multiple of unroll_length "
            f"{config.unroll_length}"
        )


def choose(presets: dict[str, Any], suits: dict[str, str], name: str | None, env: str | None):
    """The preset of that name or, without one, what suits the tasks; and what sets it to them.

    Args:
      presets: by name; the first is the default, "small" is for what nothing else suits.
      suits: names of presets by family of tasks.
      name: of a preset, or None.
      env: the tasks, as a Config has them, or None for the preset's own.

    Returns:
      A Config, and values of its fields env and task.

    Raises:
      UserError: there is no such preset, or no such task.
    """
    plain = envs.Options()
    if env is not None and name is None:
        first = envs.tasks(env, plain)[0].env_id
        same = [k for k, c in presets.items() if c.env == env and c.task == plain]
        name = same[0] if same else suits.get(envs.family(first), "small")
    elif name is None:
        name = next(iter(presets))
    if name not in presets:
        raise UserError(f"there is no preset {name!r}, only {', '.join(presets)}")
    config = presets[name]
    if env is None or env == config.env:
        return config, {"env": config.env, "task": config.task}
    tasks = envs.tasks(env, plain)
    suit = suits.get(envs.family(tasks[0].env_id))
    own = config.task if suit is not None and config.task == presets[suit].task else plain
    if len(tasks) > 1:  # games do not share which actions they use
        own = dataclasses.replace(own, minimal_actions=False)
    return config, {"env": env, "task": own}


def from_dict(cls, values: dict[str, Any]):
    """A Config from what dataclasses.asdict gave, through JSON."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"{cls.__module__} has no field {unknown[0]!r}: another version wrote it")

    def value(name, x):
        default = fields[name].default
        if dataclasses.is_dataclass(default):
            return from_dict(type(default), x)
        return tuple(x) if isinstance(x, list) else x

    return cls(**{name: value(name, x) for name, x in values.items()})
