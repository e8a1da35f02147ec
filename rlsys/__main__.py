"""rlsys: large-scale deep-RL systems. Each command explains itself with --help.

rlsys train ALGORITHM [--env TASK] [--field value ...]    train an agent
rlsys resume RUN [--field value ...]                      go on with a run
rlsys eval RUN [--episodes N]                             play episodes with a run's agent
rlsys export RUN [--out FILE]                             write a run's policy to one file
rlsys match RUN RUN [--episodes N]                        play two runs against each other
rlsys ratings RUN [--games N]                             rate a run's past selves and its policy
rlsys play RUN                                            play a game against a run's policy
rlsys exploit RUN [--env-steps N]                         train a best response to a run's policy
rlsys sweep ALGORITHM [--field value value ...]           train many agents as one program
rlsys plan ALGORITHM [--machine NAME]                     predict a run's speed and memory
rlsys report RUN [RUN ...]                                draw a table and learning curves
rlsys randomise TASK [--field value ...]                  show what is drawn of a task's physics
rlsys transfer RUN [RUN ...] [--episodes N]               play runs in domains they never saw
rlsys tasks [FAMILY]                                      list the names of tasks
rlsys metrics                                             explain the metrics of a run's log

python -m rlsys takes the same words.
"""

import importlib
import sys

from rlsys.running.signals import end_at_once

MODULES = {
    "train": "rlsys.train",
    "sweep": "rlsys.sweep.__main__",
    "plan": "rlsys.plan.__main__",
    "report": "rlsys.results.report",
}
OF_TRAIN = (
    "resume",
    "eval",
    "export",
    "match",
    "ratings",
    "play",
    "exploit",
    "transfer",
    "randomise",
)


def main(args: list[str]) -> None:
    """Does what the words ask for.

    Raises:
      UserError: there is no such command, or one of its words is wrong.
    """
    from rlsys import algorithms, cli
    from rlsys.envs.tasks import list_tasks
    from rlsys.running.metrics import describe
    from rlsys.types import UserError

    if not args or args[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return
    command, *words = args
    if command in OF_TRAIN:
        importlib.import_module("rlsys.train").main(args)
    elif command in MODULES:
        importlib.import_module(MODULES[command]).main(words)
    elif command == "tasks":
        if cli.wants_help(words) or len(words) > 1:
            print("rlsys tasks [FAMILY]    Lists the families of tasks, or the tasks of a family.")
            return
        print("\n".join(list_tasks(words[0] if words else "")))
    elif command == "metrics":
        print("rlsys metrics    Explains every metric." if cli.wants_help(words) else describe())
    elif command in algorithms.NAMES:
        raise UserError(f"{command} is an algorithm: rlsys train {command}")
    else:
        raise UserError(cli.unknown("command", command, [*MODULES, *OF_TRAIN, "tasks", "metrics"]))


def start() -> None:
    """Runs the command that the process was started with, and ends the process."""
    end_at_once()  # before these imports, which take seconds
    from rlsys import cli
    from rlsys.learning import hosts
    from rlsys.running import output, process

    process.prepare()
    output.make_lasting()
    hosts.leave(cli.exit_code(lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    start()
