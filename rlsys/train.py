"""Trains, goes on with a run, evaluates or plays it, or exports its policy.

python -m rlsys.train ALGORITHM [--env TASK] [--preset NAME] [--field value ...]
python -m rlsys.train resume RUN [--field value ...]
python -m rlsys.train eval RUN [--episodes N]
python -m rlsys.train export RUN [--out FILE]
python -m rlsys.train transfer RUN [RUN ...] [--episodes N]

Games of two players, by self-play:
python -m rlsys.train match RUN RUN [--episodes N]    of which one may be random, blocker, perfect
python -m rlsys.train ratings RUN [--games N]
python -m rlsys.train play RUN
python -m rlsys.train exploit RUN [--env-steps N]     trains a best response to a run's policy

What would be drawn of a task's physics:
python -m rlsys.train randomise TASK [--randomise.preset dactyl] [--field value ...]

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
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlsys import algorithms, cli
from rlsys.config import RunConfig, from_dict
from rlsys.learning import hosts
from rlsys.running import changes, config_file, output, process
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError


class OfRun(Protocol):
    """Does something with a run that was trained; options: the command's dataclass."""

    def __call__(self, algorithm: Algorithm, config: Any, options: Any, /) -> Any: ...


class Command(NamedTuple):
    """A command that takes a run's folder."""

    default: Any  # a dataclass of its flags, whose docstring says what the command does
    function: OfRun


COMMANDS = ("eval", "export", "ratings", "play")  # those that command_of knows
DEFAULTS = """Here stand the fields that all algorithms have, and their common defaults. Those of a
run, with its own values, stand in the help that follows its folder: --help after RUN."""


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
    if command == "match":
        play_match(args)
        return
    if command == "exploit":
        train_against(args)
        return
    if command == "randomise":
        show_physics(args)
        return
    if command == "transfer":
        play_transfer(args)
        return
    if command in COMMANDS:
        use(command, args)
        return
    words = {}
    for flag in ("--coordinator", "--num-processes", "--process-id"):
        words[flag], args = cli.take(args, flag)
    where = hosts.address(*words.values())
    if command == "resume":
        resume(args, where)
        return
    # Which devices there are cannot be asked before the processes have met.
    on_cpu = False if where else None
    config = algorithms.config_of(command, args, on_cpu=on_cpu, also=Launch())
    hosts.start(where)
    train(algorithms.find(command), config)


def load(folder: str) -> tuple[Algorithm, Any]:
    """Returns the algorithm and the Config of a run.

    Args:
      folder: the run's, or a word for it; see cli.run_folder.

    Raises:
      UserError: there is no such run.
    """
    folder = cli.run_folder(folder, sweep=False)
    saved = config_file.load(folder)
    if "members" in saved:
        raise UserError(
            f"{folder} is a sweep: make sweep RESUME={folder} goes on with it, and its runs are "
            f"{folder}/members/0 and so on, to evaluate and to export"
        )
    algorithm = algorithms.find(saved["algorithm"])
    return algorithm, from_dict(algorithm.Config, {**saved["config"], "run_dir": folder})


def command_of(name: str) -> Command:
    """Returns one of COMMANDS.

    What only one command needs is imported when it is asked for, here and below: a run would start
    two seconds later if it imported everything.
    """
    if name == "eval":
        from rlsys.results.evaluate import EvalConfig, evaluate_run

        return Command(EvalConfig(), evaluate_run)
    if name == "export":
        from rlsys.results.export import ExportConfig, export

        return Command(ExportConfig(), export)
    if name == "ratings":
        from rlsys.results.league import RatingsConfig, rate_run

        return Command(RatingsConfig(), rate_run)
    from rlsys.results.person import PlayConfig, play_run

    return Command(PlayConfig(), play_run)


def take_folder(command: str, args: list[str], default: Any, about: str, also: Any = None) -> str:
    """Takes the folder of a run from a command's words; without one it shows the help, if asked.

    Raises:
      UserError: there is none.
    """
    folder = args.pop(0) if args and not args[0].startswith("-") else ""
    if folder:
        return folder
    if cli.wants_help(args):
        cli.parse(default, args, about, usage=f"rlsys {command} RUN", also=also)
    raise UserError(f"{command} needs the folder of a run: make {command} RUN=runs/...")


def use(command: str, args: list[str]) -> None:
    """Does what one of COMMANDS does with a run.

    Args:
      command: its name.
      args: the run's folder, and fields.

    Raises:
      UserError: there is no such run, or a word is wrong.
    """
    default, function = command_of(command)
    about = str(default.__doc__)
    folder = take_folder(command, args, default, about)
    algorithm, config = load(folder)
    options = cli.parse(default, args, about, usage=f"rlsys {command} {folder}")
    function(algorithm, config, options)


def resume(args: list[str], where: hosts.Address | None) -> None:
    """Goes on with a run.

    Args:
      args: the run's folder, and fields.
      where: the processes meet here; None for one process.

    Raises:
      UserError: there is no such run, or a word is wrong.
    """
    about = "Goes on with a run from its newest checkpoint; fields may be changed."
    folder = take_folder("resume", args, RunConfig(), f"{about} {DEFAULTS}", Processes())
    algorithm, config = load(folder)
    usage = f"rlsys resume {folder}"
    options = cli.parse(config, args, about, usage=usage, also=Processes())
    changes.check_folder(config, options)
    sweep = Path(config.run_dir).parent.parent
    if Path(config.run_dir).parent.name == "members" and (sweep / "config.json").exists():
        raise UserError(
            f"{folder} is a member of a sweep and cannot go on alone: make sweep RESUME={sweep} "
            f"goes on with all members, and --init-from {folder} begins a run with what it learned"
        )
    options.randomise.check_used(config.randomise)
    hosts.start(where)
    train(algorithm, options, resume=True)


def train_against(args: list[str]) -> None:
    """Trains a best response to a run's policy.

    Args:
      args: the run's folder, and fields.

    Raises:
      UserError: there is no such run, it plays no game of two, or a word is wrong.
    """
    from rlsys.results import exploit

    folder = take_folder("exploit", args, RunConfig(), f"{exploit.ABOUT} {DEFAULTS}")
    algorithm, config = load(folder)
    default = exploit.config_against(algorithm, config)
    options = cli.parse(default, args, exploit.ABOUT, usage=f"rlsys exploit {folder}")
    if not options.self_play.frozen:
        raise UserError("exploit plays against a run, which an empty frozen does not name")
    train(algorithm, dataclasses.replace(options, run_dir=exploit.folder_of(options)))


def train(algorithm: Algorithm, config: Any, *, resume: bool = False) -> None:
    """Trains a run to its end, and measures what it wins if it plays against a run's policy.

    Args:
      resume: go on with the run in config.run_dir.
    """
    primary = hosts.is_primary()
    folder = algorithm.train(config, resume=resume)
    if primary and config.has_past_selves and config.self_play.frozen:
        from rlsys.results import exploit

        exploit.conclude(algorithm, dataclasses.replace(config, run_dir=str(folder)))


def show_physics(args: list[str]) -> None:
    """Shows what would be drawn of a task's physics.

    Args:
      args: the task, and fields.

    Raises:
      UserError: there is no task, its physics cannot be changed, or a word is wrong.
    """
    from rlsys.results.randomise import RandomiseConfig, show

    env = args.pop(0) if args and not args[0].startswith("-") else ""
    about = str(RandomiseConfig.__doc__)
    options = cli.parse(RandomiseConfig(), args, about, usage=f"rlsys randomise {env or 'TASK'}")
    if not env:
        raise UserError("randomise needs a task: make randomise ENV=Hopper-v5")
    print("\n".join(show(env, options)))


def play_transfer(args: list[str]) -> None:
    """Tests runs in domains that they were not trained in.

    Args:
      args: the runs' folders, and fields.

    Raises:
      UserError: there is no such run, or a word is wrong.
    """
    from rlsys.results.transfer import TransferConfig, transfer

    about = str(TransferConfig.__doc__)
    folders = [take_folder("transfer", args, TransferConfig(), about)]
    while args and not args[0].startswith("-"):
        folders.append(args.pop(0))
    usage = f"rlsys transfer {' '.join(folders)}"
    options = cli.parse(TransferConfig(), args, about, usage=usage)
    transfer([load(folder) for folder in folders], options)


def play_match(args: list[str]) -> None:
    """Plays a match.

    Args:
      args: two runs' folders, or one and the name of a player; and fields.

    Raises:
      UserError: they are not two, one is no run and no player, or a word is wrong.
    """
    from rlsys.envs.players import players_of
    from rlsys.results.match import MatchConfig, game_of, match

    sides: list[str] = []
    while args and not args[0].startswith("-"):
        sides.append(args.pop(0))
    usage = f"rlsys match {' '.join(sides) or 'RUN RUN'}"
    about = str(MatchConfig.__doc__)
    if cli.wants_help(args) or len(sides) == 2:
        options = cli.parse(MatchConfig(), args, about, usage=usage)
    if len(sides) != 2:
        raise UserError(
            f"match needs two runs, or one and a player's name, not {len(sides)}: make match "
            f'RUN="runs/<name> runs/<name>"'
        )
    # A plain word that is no folder may be a player, once a run says of which game.
    plain = [x != "latest" and not Path(x).exists() and x.isidentifier() for x in sides]
    if all(plain):
        raise UserError(f"{sides[0]} and {sides[1]} are no runs, and one of the two must be")
    found = [None if is_plain else load(x) for x, is_plain in zip(sides, plain, strict=True)]
    games = [game_of(x[1]) for x in found if x]
    known = players_of(games[0].env_id)
    for word, is_plain in zip(sides, plain, strict=True):
        if is_plain and word not in known:
            raise UserError(
                f"{word} is neither a run nor a player of {games[0].name}: {', '.join(known)}"
            )
    match([x or word for x, word in zip(found, sides, strict=True)], options)


if __name__ == "__main__":
    process.prepare()
    output.make_lasting()
    hosts.leave(cli.exit_code(lambda: main(sys.argv[1:])))
