"""The command line: words become a Config, errors become sentences."""

import contextlib
import dataclasses
import decimal
import difflib
import errno
import glob
import io
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from rlsys.config import PREFIXED, flat
from rlsys.learning import hosts
from rlsys.types import Stopped, UserError

TYRO = (tyro.conf.FlagConversionOff,)
Word = Annotated[str, tyro.conf.arg(metavar="WORD", help_behavior_hint="")]  # of no field
NO_PREFIX = tyro.conf.arg(name="")  # a Config is no prefix of its flags
RULE = re.compile("[─-]+")  # a line in tyro's boxes
REGISTRY = ConstructorRegistry()
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
SYNONYMS = {  # fields as other libraries call them
    "batch": "batch-size",
    "buffer-size": "replay-capacity",
    "clip-coef": "clip-eps",
    "clip-range": "clip-eps",
    "ent-coef": "entropy-cost",
    "env-id": "env",
    "gamma": "discount",
    "lstm-size": "core-size",
    "max-grad-norm": "max-gradient-norm",
    "n-envs": "num-envs",
    "n-steps": "unroll-length",
    "num-steps": "unroll-length",
    "rollout-length": "unroll-length",
    "steps": "env-steps",
    "task": "env",
    "timesteps": "env-steps",
    "total-timesteps": "env-steps",
    "update-epochs": "epochs",
    "vf-coef": "value-cost",
}


def _whole_number(words: list[str]) -> int:
    """Reads a whole number, also one that is written as 1e6, 1_000_000 or 1,000,000."""
    text = words[0]
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        text = text.replace(",", "")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = decimal.Decimal(text)
    except decimal.InvalidOperation:
        number = decimal.Decimal("nan")
    if not number.is_finite() or number != int(number):
        raise ValueError(f"it must be a whole number, not {words[0]!r}")
    return int(number)


def _truth(words: list[str]) -> bool:
    """Reads true or false, however it is capitalised."""
    try:
        return {"true": True, "false": False}[words[0].lower()]
    except KeyError:
        raise ValueError(f"it must be true or false, not {words[0]!r}") from None


def _number(words: list[str]) -> float:
    """Reads a number."""
    try:
        return float(words[0])
    except ValueError:
        raise ValueError(f"it must be a number, not {words[0]!r}") from None


@REGISTRY.primitive_rule
def _rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Tells tyro how to read a bool, a float and an int."""
    if info.type is bool:
        return PrimitiveConstructorSpec(
            1, "true|false", _truth, lambda x: isinstance(x, bool), lambda x: [str(x).lower()]
        )
    if info.type is float:
        return PrimitiveConstructorSpec(
            1, "FLOAT", _number, lambda x: isinstance(x, float | int), lambda x: [str(x)]
        )
    if info.type is int:
        return PrimitiveConstructorSpec(
            1, "INT", _whole_number, lambda x: type(x) is int, lambda x: [str(x)]
        )
    return None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Says in a sentence that there is no such name, and which known ones come nearest."""
    plain, known = name.strip("-").lower(), list(known)
    near = []
    for one in known:
        words = one.strip("-").split("-")
        initials = "".join(word[:1] for word in words) if len(words) > 1 else ""
        if plain in (one.strip("-").lower(), initials) or "-".join(words) == SYNONYMS.get(plain):
            near.append(one)
    near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:5]
    return f"there is no {what} {name!r}; the nearest: {', '.join(near)}"


def fields_of(config: Any) -> dict[str, Any]:
    """Gives the flag and the value of each field of a Config and of the dataclasses in it."""
    return {"--" + name.replace("_", "-"): value for name, value in flat(config).items()}


def take(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of a flag, and the arguments without it.

    Raises:
      UserError: the flag has no value, as before another flag or at the end.
    """
    value, rest, words = None, [], iter(args)
    for word in words:
        name, equals, given = word.partition("=")
        if name.replace("_", "-") != flag:
            rest.append(word)
            continue
        value = given if equals else next(words, "--")
        if value.startswith("--"):
            raise UserError(f"{flag} needs a value")
    return value, rest


def spell_out(args: list[str], config: Any) -> list[str]:
    """Gives each flag that is true or false a value: --popart becomes --popart true, and
    --no-popart becomes --popart false. Numbers with commas between them, as in the name of a task,
    become several where a flag takes several: --observe 0,2 becomes --observe 0 2."""
    truths = [flag for flag, value in fields_of(config).items() if isinstance(value, bool)]
    several = [flag for flag, value in fields_of(config).items() if isinstance(value, tuple)]
    found: list[str] = []
    for word, after in itertools.zip_longest(args, args[1:], fillvalue="--"):
        flag = word.replace("_", "-")
        if found and found[-1] in several and re.fullmatch("[0-9,]+", word):
            found += word.split(",")
        elif flag.startswith("--no-") and f"--{flag[5:]}" in truths:
            found += [f"--{flag[5:]}", "false"]
        elif flag in truths and (after.startswith("--") or after == "-h"):
            found += [flag, "true"]
        else:
            found.append(word)
    return found


def wants_help(args: list[str]) -> bool:
    """Tells whether the arguments ask for help."""
    return "--help" in args or "-h" in args


def parse(default: Any, args: list[str], description: str, *, usage: str = "", also: Any = None):
    """Returns default with the fields that the command line gives.

    Args:
      description: what the command does, with which its help begins.
      usage: the command and its words before the fields, "rlsys train ppo".
      also: a dataclass of flags that were taken already, which the help lists beside the fields.

    Raises:
      UserError: there is no such field, or a value is none that it takes.
    """
    known = [*fields_of(default), *(fields_of(also) if also else ()), "--help"]
    args = spell_out(args, default)
    for word in args:
        name = word.partition("=")[0].replace("_", "-")
        is_number = word.lower() in ("-inf", "-nan")
        if re.match("--?[a-zA-Z]", word) and name not in (*known, "-h") and not is_number:
            raise UserError(f"{unknown('field', name, known)}; --help lists all")
    nested = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    for name, value in nested.items():
        if dataclasses.is_dataclass(value) and name not in PREFIXED:
            tyro.conf.configure(tyro.conf.OmitArgPrefixes)(type(value))
    fields: list[Any] = [("config", Annotated[type(default), NO_PREFIX], default)]
    if also and wants_help(args):
        fields.insert(0, ("command", Annotated[type(also), NO_PREFIX], also))
    Words = dataclasses.make_dataclass("Words", fields)
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error):
            found: Any = tyro.cli(
                Words,
                prog=usage or None,
                args=args,
                config=TYRO,
                description=description,
                registry=REGISTRY,
            )
    except SystemExit as end:
        if end.code:
            raise UserError(_plain(error.getvalue())) from None
        raise
    return found.config


def _plain(box: str) -> str:
    """Gives what tyro says in the first part of its box as one sentence."""
    rows = [row.strip("│| ") for row in box.splitlines()[1:]]  # the first holds the title
    if rows and RULE.fullmatch(rows[0]):  # so it is where the output is not UTF-8
        rows = rows[1:]
    said = " ".join(itertools.takewhile(lambda row: not RULE.fullmatch(row), rows))
    said = said.removeprefix("Error parsing ").replace("Unrecognized options:", "no field takes")
    return re.sub(r"^Missing value for argument '(\S+)'.*", r"\1 needs a value", said)


def run_folder(word: str, *, sweep: bool | None = None) -> str:
    """Finds the folder of a run or a sweep that a word means.

    Args:
      word: a folder; "latest" for the one in runs/ that was begun or resumed last; or a pattern
        such as runs/ppo-*, for the one of those that fit.
      sweep: whether only sweeps count, or only runs; None for both.

    Raises:
      UserError: no folder fits.
    """
    if Path(word).exists() or not (word == "latest" or glob.has_magic(word)):
        return word
    found = [
        folder
        for folder in map(Path, glob.glob("runs/*" if word == "latest" else word))
        if (folder / "config.json").is_file() and sweep in (None, (folder / "members").is_dir())
    ]
    if not found:
        kind = {None: "run or sweep", True: "sweep", False: "run"}[sweep]
        where = "in runs/" if word == "latest" else f"that fits {word!r}"
        raise UserError(f"there is no {kind} {where}")
    newest = max(found, key=lambda folder: (folder / "config.json").stat().st_mtime_ns)
    print(f"{word} is {newest}")
    return str(newest)


def run(main: Callable[[Any], int | None], default: Any, description: str | None) -> None:
    """Runs a program whose only words are the fields of a dataclass, and ends the process.

    Args:
      main: it takes the dataclass and returns the exit code, or None for 0.
      default: the dataclass with its defaults.
      description: what the program does, with which its help begins.
    """
    code: int | None = None

    def command() -> None:
        nonlocal code
        code = main(parse(default, sys.argv[1:], description or "", usage=usage))

    spec = sys.modules["__main__"].__spec__
    usage = f"python -m {spec.name.removesuffix('.__main__')}" if spec else ""
    sys.exit(exit_code(command) or code)


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
    except OSError as error:
        if not error.filename or error.errno not in UNWRITABLE:
            traceback.print_exc()
            return 1
        print(f"rlsys: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"rlsys: this does not fit the memory: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        words = " ".join(str(error).split())
        if words.startswith("RESOURCE_EXHAUSTED"):  # what XLA says, in an error of several types
            print(f"rlsys: this does not fit the device's memory: {words}", file=sys.stderr)
            return 2
        if lost := hosts.lost(error):
            print(f"rlsys: {lost}.", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0
