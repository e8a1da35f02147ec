"""From the words of a sweep's command line to the Configs of its members."""

import dataclasses
import itertools
import typing
from typing import Any, NamedTuple

import jax

from rlsys import algorithms, cli
from rlsys.config import PREFIXED, flat
from rlsys.types import UserError


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
      UserError: a run's words would be refused, a flag has no value, or two members are the same.
    """
    record = algorithms.find(algorithm)
    lists = _lists(record.Config)
    args = cli.spell_out(args, next(iter(record.presets.configs.values())))
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    for flag, values in _groups(args).items():
        if len(values) > 1 and flag not in lists:
            axes[flag] = values
        else:
            fixed += [flag, *values]
    axes |= {"--seed": axes.pop("--seed")} if "--seed" in axes else {}
    # A preset's eval_every is for a run alone; one that is asked for is refused.
    asked = "--eval-every" in fixed or "--eval-every" in axes
    ahead = [] if asked else ["--eval-every", "0"]
    found: list[Member] = []
    for combination in itertools.product(*axes.values()):
        values_of = dict(zip(axes, combination, strict=True))
        words = fixed + [word for pair in values_of.items() for word in pair]
        name = " ".join(f"{flag[2:]} {value}" for flag, value in values_of.items())
        config = algorithms.config_of(algorithm, ahead + words)
        for other in found:
            if other.config == config:
                raise UserError(f"two members are the same: {other.name!r} and {name!r}")
        found.append(Member(name or "alone", values_of, words, config))
    return found


def numbers(config: Any) -> list[str]:
    """The fields in which the members of one compiled program may differ: those that are leaves of
    the Config as a pytree, and the seed."""
    return [path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(config)] + ["seed"]


def check_together(configs: list[Any]) -> None:
    """Raises UserError unless the Configs differ in numbers alone, and are a sweep's."""
    if any(config.eval_every for config in configs):
        raise UserError(
            "eval_every is for a run alone: a sweep evaluates each member at its end only; "
            "--print-commands gives a command for each member"
        )
    if any(config.has_past_selves for config in configs):
        raise UserError(
            "past selves are for a run alone: a sweep plays games with past_share 0; "
            "--print-commands gives a command for each member"
        )
    if any(config.randomise.adapt for config in configs):
        raise UserError(
            "randomise.adapt is for a run alone, as each member would have ranges of its own; "
            "--print-commands gives a command for each member"
        )
    may_vary = numbers(configs[0])
    first, *others = [flat(config) for config in configs]
    for name, other in itertools.product(first, others):
        if other[name] != first[name] and name not in may_vary:
            raise UserError(
                f"{name} cannot vary within one compiled program, only {', '.join(may_vary)} can; "
                f"--print-commands gives a command for each member"
            )


def _groups(args: list[str]) -> dict[str, list[str]]:
    """Flags with their values; of a flag given twice the last."""
    groups: dict[str, list[str]] = {}
    flag = ""
    for word in args:
        if word.startswith("--"):
            flag, given, value = word.partition("=")
            flag = flag.replace("_", "-")
            groups[flag] = [value] if given else []
        elif flag:
            groups[flag].append(word)
        else:
            raise UserError(f"{word!r} stands before any --field")
    for flag, values in groups.items():
        if not values and flag != "--help":
            raise UserError(f"{flag} needs a value")
    if "--seeds" in groups:
        number, *more = groups.pop("--seeds")
        if more or not number.isdecimal() or int(number) == 0 or "--seed" in groups:
            raise UserError(
                "--seeds takes one number, 1 or more; --seed, in its place, takes several seeds"
            )
        groups["--seed"] = [str(i) for i in range(int(number))]
    return groups


def _lists(cls: Any, prefix: str = "") -> list[str]:
    """Flags of the fields that take several values."""
    found = []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default):
            inner = f"{field.name}." if field.name in PREFIXED else ""
            found += _lists(type(field.default), inner)
        elif any(typing.get_origin(x) is tuple for x in (field.type, *typing.get_args(field.type))):
            found.append("--" + prefix + field.name.replace("_", "-"))
    return found
