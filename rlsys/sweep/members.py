"""From the words of a sweep's command line to the Configs of its members."""

import dataclasses
import itertools
from typing import Any, NamedTuple

from rlsys import train
from rlsys.types import UserError

OWN = ("seed", "run_dir")  # fields that are not numbers of the program, and differ all the same


class Member(NamedTuple):
    """One of a sweep's runs."""

    name: str  # what sets it apart from the others: "learning-rate 0.001 seed 2"
    values: dict[str, str]  # the same, by flag
    words: list[str]  # after the algorithm's name, to run it alone
    config: Any


def members(algorithm: str, args: list[str]) -> list[Member]:
    """All combinations of the values that flags are given, seeds last.

    Args:
      algorithm: its name.
      args: a run's, but a flag may have several values; `--seeds N` is `--seed 0 1 .. N-1`.

    Raises:
      UserError: a run's words would be refused, or a flag has no value.
    """
    lists = [name for name, kind in _kinds(train.algorithm(algorithm)[1].Config) if kind == "tuple"]
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    for flag, values in _groups(args):
        if flag == "--seeds":
            if len(values) != 1 or not values[0].isdecimal() or values[0] == "0":
                raise UserError("--seeds takes one number, 1 or more; --seed takes several seeds")
            flag, values = "--seed", [str(i) for i in range(int(values[0]))]
        if len(values) > 1 and flag[2:].replace("_", "-") not in lists:
            axes[flag] = values
        else:
            fixed += [flag, *values]
    axes |= {"--seed": axes.pop("--seed")} if "--seed" in axes else {}
    found = []
    for combination in itertools.product(*axes.values()):
        values_of = dict(zip(axes, combination, strict=True))
        words = fixed + [word for pair in values_of.items() for word in pair]
        name = " ".join(f"{flag[2:]} {value}" for flag, value in values_of.items())
        found.append(Member(name or "alone", values_of, words, train.config_of(algorithm, words)))
    return found


def check_together(configs: list[Any]) -> None:
    """Raises UserError unless the Configs differ in what one compiled program can vary: the fields
    that are leaves of the Config as a pytree, and the seed."""
    first = configs[0]
    leaves = [name for name, kind in _kinds(type(first)) if kind == "float"]
    for config in configs[1:]:
        for field in dataclasses.fields(first):
            name = field.name
            if name.replace("_", "-") in leaves or name in OWN:
                continue
            if getattr(config, name) != getattr(first, name):
                raise UserError(
                    f"{name} cannot vary within one compiled program, only seed and "
                    f"{', '.join(leaves)} can; --print-commands gives a command for each member"
                )


def _groups(args: list[str]) -> list[tuple[str, list[str]]]:
    """Flags with their values; of a flag given twice the last."""
    groups: dict[str, list[str]] = {}
    flag = ""
    for word in args:
        if word.startswith("--"):
            flag, given, value = word.partition("=")
            groups[flag] = [value] if given else []
        elif flag:
            groups[flag].append(word)
        else:
            raise UserError(f"{word!r} stands before any --field")
    for flag, values in groups.items():
        if not values and flag != "--help":
            raise UserError(f"{flag} needs a value")
    return list(groups.items())


def _kinds(cls: Any) -> list[tuple[str, str]]:
    """Names of a Config's fields and of the dataclasses' in it, as flags, with kinds."""
    found = []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            found += _kinds(type(field.default))
        else:
            kind = (
                field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
            )
            found.append((field.name.replace("_", "-"), kind.partition("[")[0]))
    return found
