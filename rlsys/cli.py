"""The command line: words become a Config, errors become sentences."""

import dataclasses
import difflib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import tyro

from rlsys.learning import hosts
from rlsys.types import Stopped, UserError

TYRO = (tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes)


def unknown(what: str, name: str, known) -> str:
    """A sentence that names what comes nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:5]
    return f"there is no {what} {name!r}; the nearest: {', '.join(near)}"


def field_names(config: Any) -> list[str]:
    """List the fields of a Config and of the dataclasses in it, as on the command line."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        names += field_names(value) if dataclasses.is_dataclass(value) else [field.name]
    return [name.replace("_", "-") for name in names]


def take(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of a flag, and the arguments without it."""
    value, rest, words = None, [], iter(args)
    for word in words:
        name, _, given = word.partition("=")
        if name.replace("_", "-") != flag:
            rest.append(word)
            continue
        value = given or next(words, None)
        if value is None:
            raise UserError(f"{flag} needs a value")
    return value, rest


def parse(default: Any, args: list[str], description: str):
    """default with the fields that the command line gives."""
    known = [f"--{name}" for name in [*field_names(default), "help"]]
    for word in args:
        name = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and name not in known:
            raise UserError(unknown("field", name, known))
    return tyro.cli(type(default), default=default, args=args, config=TYRO, description=description)


def sentence(error: Exception) -> str:
    text = str(error)
    return f"rlsys: {text}" if text.endswith((".", "?")) else f"rlsys: {text}."


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0, or 2 after a sentence on what the user asked for, or 1 after a failure, or
    3 if a signal stopped a run, which can be resumed."""
    try:
        command()
    except Stopped:
        return 3
    except UserError as error:
        print(sentence(error), file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(sentence(error), file=sys.stderr)
        return 1
    except Exception as error:
        if lost := hosts.lost(error):
            print(f"rlsys: {lost}.", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0
