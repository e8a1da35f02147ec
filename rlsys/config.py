"""What every algorithm's Config shares: a frozen dataclass whose numbers a sweep may vary."""

import dataclasses
from typing import Any

import jax

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
