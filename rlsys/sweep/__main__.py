"""Many runs that differ in numbers and seeds, as one compiled program.

python -m rlsys.sweep ALGORITHM [--env TASK] [--field value value ...] [--seeds N]
python -m rlsys.sweep ALGORITHM ... --print-commands     a command for each member, to run alone
python -m rlsys.sweep resume SWEEP [--field value ...]

Exit codes: 0 when all is done; 1 after a failure; 2 if what was asked for cannot work; 3 if Ctrl-C,
SIGTERM or SIGHUP stopped the sweep, which has saved a checkpoint and can be resumed.
"""

from rlsys.running.signals import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the other imports, which take seconds

import dataclasses
import shlex
import sys
import time

from rlsys import algorithms, cli
from rlsys.running import changes, config_file, output, process
from rlsys.sweep.members import Member, members
from rlsys.sweep.sweep import of_json, sweep
from rlsys.types import UserError


@dataclasses.dataclass(frozen=True)
class Words:
    """Words that are no fields of the Config; a field may be given several values, and all
    combinations are trained."""

    preset: cli.Word = ""
    """The preset that the fields start from; without it the task decides."""
    seeds: cli.Word = ""
    """Train each combination with this many seeds: 0, 1, 2 and so on."""
    print_commands: bool = False
    """Print a command for each member, to run alone, and train nothing."""


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nAlgorithms: {', '.join(algorithms.NAMES)}")
        return
    command, *args = args
    if command == "resume":
        if not args or not args[0]:
            raise UserError("resume needs the folder of a sweep: make sweep RESUME=runs/...")
        resumed = cli.run_folder(args[0], sweep=True)
        sweep(*load(resumed, args[1:]), resumed, resume=True)
        return
    if cli.wants_help(args):
        about = "Trains for every combination of values and seeds, as one compiled program."
        algorithms.config_of(command, ["--help"], command="sweep", about=about, also=Words())
    printing = "--print-commands" in args
    args = [word for word in args if word != "--print-commands"]
    folder, args = cli.take(args, "--run-dir")
    found = members(command, args)
    if not printing:
        sweep(command, found, folder or "")
        return
    folder = folder or f"runs/{command}-{time.strftime('%Y%m%d-%H%M%S')}"  # all may start at once
    for i, member in enumerate(found):
        words = [command, *member.words, "--run-dir", f"{folder}/{i}"]
        print(shlex.join([".venv/bin/python", "-m", "rlsys.train", *words]))


def load(folder: str, args: list[str]) -> tuple[str, list[Member]]:
    """Algorithm and members of the sweep in a folder.

    Args:
      folder: of the sweep.
      args: fields to change, of all members.

    Raises:
      UserError: there is none, it is damaged, or members differ in a field to change.
    """
    content = config_file.load(folder)
    if "config" in content:
        raise UserError(f"{folder} is a single run, not a sweep")
    algorithm = content["algorithm"]
    found = [of_json(algorithm, member) for member in content["members"]]
    for word in args:
        if word.partition("=")[0].replace("_", "-") in found[0].values:
            raise UserError(f"{word} is what sets the members apart, and cannot be changed")
    about = "Goes on with a sweep; fields may be changed."
    changed = []
    for member in found:
        config = cli.parse(member.config, args, about)
        changes.check_folder(member.config, config)
        changed.append(member._replace(words=member.words + args, config=config))
    return algorithm, changed


if __name__ == "__main__":
    process.prepare()
    output.make_lasting()
    sys.exit(cli.exit_code(lambda: main(sys.argv[1:])))
