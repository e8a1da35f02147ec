"""Trains, goes on with a run, plays one, or exports its policy.

python -m rlsys.train ALGORITHM [--env TASK] [--preset NAME] [--field value ...]
python -m rlsys.train resume RUN [--field value ...]
python -m rlsys.train eval RUN [--episodes N]
python -m rlsys.train export RUN [--out FILE]

RUN is a run's folder, "latest", or a pattern such as "runs/ppo-*", of which the newest is taken.

ALGORITHM is one of those below, or a module of your own that holds the record ALGORITHM.

Several processes train together if each is started by the same words and, after ALGORITHM or RUN,
--coordinator HOST:PORT --num-processes N --process-id I (HOST is that of process 0), or by
--coordinator auto where SLURM, Kubernetes, MPI or a TPU pod says the rest.

Exit codes: 0 when all is done; 1 after a failure; 2 if what was asked for cannot work; 3 if Ctrl-C,
SIGTERM or SIGHUP stopped the run, which has saved a checkpoint and can be resumed.
"""

from rlsys.running.signals import end_at_once

if __name__ == "__main__":
    end_at_once()  # before the other imports, which take seconds

import dataclasses
import sys
from typing import Any

from rlsys import algorithms, cli
from rlsys.config import RunConfig, check_at_least, from_dict
from rlsys.learning import hosts
from rlsys.results.evaluate import EvalConfig, evaluate_run
from rlsys.results.export import ExportConfig, export
from rlsys.running import config_file, output, process
from rlsys.types import UserError


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes train together if each is started with the same words and these."""

    coordinator: cli.Word = ""
    """HOST:PORT of process 0, or auto where SLURM, Kubernetes, MPI or a TPU pod says the rest."""
    num_processes: cli.Word = ""
    """The number of processes."""
    process_id: cli.Word = ""
    """The number of this process, from 0."""


@dataclasses.dataclass(frozen=True)
class Launch(Processes):
    """Words that are no fields of the Config; with --coordinator several processes train together,
    each started with the same words but for its --process-id."""

    preset: cli.Word = ""
    """The preset that the fields start from; without it the task decides."""


def main(args: list[str]) -> None:
    """Does what the words ask for."""
    if not args or args[0] in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nAlgorithms: {', '.join(algorithms.NAMES)}")
        return
    command, *args = args
    where = None
    if command not in ("eval", "export"):
        words = {}
        for flag in ("--coordinator", "--num-processes", "--process-id"):
            words[flag], args = cli.take(args, flag)
        where = hosts.address(*words.values())
    if command in ("resume", "eval", "export"):
        use(command, args, where)
        return
    # Which devices there are cannot be asked before the processes have met.
    on_cpu = False if where else None
    config = algorithms.config_of(command, args, on_cpu=on_cpu, also=Launch())
    hosts.start(where)
    algorithms.find(command).train(config)


def use(command: str, args: list[str], where: hosts.Address | None) -> None:
    """Goes on with a run, plays it, or exports its policy.

    Args:
      command: "resume", "eval" or "export".
      args: the run's folder, and fields.
      where: the processes meet here; None for one process.

    Raises:
      UserError: there is no such run, or a word is wrong.
    """
    folder = args.pop(0) if args and not args[0].startswith("-") else ""
    default: Any = {"eval": EvalConfig(), "export": ExportConfig()}.get(command, RunConfig())
    about, also = str(default.__doc__), None
    if command == "resume":
        about = "Goes on with a run from its newest checkpoint; fields may be changed."
        also = Processes()
    usage = f"rlsys {command} {folder or 'RUN'}"
    if not folder:
        if cli.wants_help(args):
            cli.parse(default, args, about, usage=usage, also=also)
        raise UserError(f"{command} needs the folder of a run: make {command} RUN=runs/...")
    folder = cli.run_folder(folder, sweep=False)
    saved = config_file.load(folder)
    if "members" in saved:
        raise UserError(
            f"{folder} is a sweep: its runs are {folder}/members/0 and so on, and "
            f"make sweep RESUME={folder} goes on with it"
        )
    algorithm = algorithms.find(saved["algorithm"])
    config = from_dict(algorithm.Config, {**saved["config"], "run_dir": folder})
    default = config if command == "resume" else default
    options = cli.parse(default, args, about, usage=usage, also=also)
    if command == "eval":
        check_at_least(options, 1, "episodes")
        check_at_least(options, 0, "seed")
        evaluate_run(algorithm, config, options)
    elif command == "export":
        export(algorithm, config, options)
    else:
        hosts.start(where)
        algorithm.train(options, resume=True)


if __name__ == "__main__":
    process.prepare()
    output.make_lasting()
    hosts.leave(cli.exit_code(lambda: main(sys.argv[1:])))
