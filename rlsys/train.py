"""Trains, goes on with a run, plays one, or exports its policy.

python -m rlsys.train ALGORITHM [--env TASK] [--preset NAME] [--field value ...]
python -m rlsys.train resume RUN [--field value ...]
python -m rlsys.train eval RUN [--episodes N]
python -m rlsys.train export RUN [--out FILE]

ALGORITHM is one of those below, or a module of your own that holds the record ALGORITHM.

Several processes train together if each is started by the same words and, after ALGORITHM or RUN,
--coordinator HOST:PORT --num-processes N --process-id I (HOST is that of process 0), or by
--coordinator auto where SLURM, Kubernetes, MPI or a TPU pod says the rest.

Exit codes: 0 when all is done; 1 after a failure; 2 if what was asked for cannot work; 3 if Ctrl-C,
SIGTERM or SIGHUP stopped the run, which has saved a checkpoint and can be resumed.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    # Until a run takes care of it, Ctrl-C ends the process at once. An exception, Python's way, may
    # be lost in what imports and compiles.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys

from rlsys import algorithms, cli
from rlsys.config import from_dict
from rlsys.learning import hosts
from rlsys.results.evaluate import EvalConfig, evaluate_run
from rlsys.results.export import ExportConfig, export
from rlsys.running import config_file, output, run
from rlsys.types import UserError


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
    if command not in ("resume", "eval", "export"):
        # Which devices there are cannot be asked before the processes have met.
        config = algorithms.config_of(command, args, on_cpu=False if where else None)
        hosts.start(where)
        algorithms.find(command).train(config)
        return
    if not args or not args[0]:
        raise UserError(f"{command} needs the folder of a run: make {command} RUN=runs/...")
    folder, *args = args
    saved = config_file.load(folder)
    if "members" in saved:
        raise UserError(
            f"{folder} is a sweep: its runs are {folder}/members/0 and so on, and "
            f"make sweep RESUME={folder} goes on with it"
        )
    algorithm = algorithms.find(saved["algorithm"])
    config = from_dict(algorithm.Config, {**saved["config"], "run_dir": folder})
    if command == "eval":
        evaluate_run(algorithm, config, cli.parse(EvalConfig(), args, str(EvalConfig.__doc__)))
        return
    if command == "export":
        export(algorithm, config, cli.parse(ExportConfig(), args, str(ExportConfig.__doc__)))
        return
    config = cli.parse(config, args, "Goes on with a run; fields may be changed.")
    hosts.start(where)
    algorithm.train(config, resume=True)


if __name__ == "__main__":
    run.prepare_process()
    output.make_lasting()
    hosts.leave(cli.exit_code(lambda: main(sys.argv[1:])))
