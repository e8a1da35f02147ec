"""Many runs that differ in numbers and seeds, as one compiled program.

python -m rlsys.sweep ALGORITHM [--env TASK] [--field value value ...] [--seeds N]
python -m rlsys.sweep ALGORITHM ... --print-commands     a command for each member, to run alone
python -m rlsys.sweep resume SWEEP
"""

import shlex
import sys

from rlsys import run, train
from rlsys.sweep.members import Member, members
from rlsys.sweep.sweep import of_json, sweep
from rlsys.types import UserError


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nAlgorithms: {', '.join(train.ALGORITHMS)}")
        return
    command, *args = args
    if command == "resume":
        if not args or not args[0]:
            raise UserError("resume needs the folder of a sweep: make sweep RESUME=runs/...")
        algorithm, found = load(args[0])
        sweep(algorithm, found, args[0], resume=True)
        return
    printing = "--print-commands" in args
    args = [word for word in args if word != "--print-commands"]
    folder, args = train.take(args, "--run-dir")
    found = members(command, args)
    if not printing:
        sweep(command, found, folder or "")
        return
    for i, member in enumerate(found):
        own = ["--run-dir", f"{folder}/{i}"] if folder else []
        print(shlex.join([".venv/bin/python", "-m", "rlsys.train", command, *member.words, *own]))


def load(folder: str) -> tuple[str, list[Member]]:
    """Algorithm and members of the sweep in a folder.

    Raises:
      UserError: there is none, or it is damaged.
    """
    content = run.load(folder)
    if "config" in content:
        raise UserError(f"{folder} is a single run: make resume RUN={folder}")
    algorithm = content["algorithm"]
    return algorithm, [of_json(algorithm, member) for member in content["members"]]


if __name__ == "__main__":
    run.prepare_process()
    sys.exit(train.exit_code(lambda: main(sys.argv[1:])))
