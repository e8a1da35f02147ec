"""The command line.

python -m rlsys.train ALGORITHM [--env TASK] [--preset NAME] [--field value ...]
python -m rlsys.train resume RUN [--field value ...]
python -m rlsys.train eval RUN [--episodes N]

Several processes train together if each is started by the same words and, after ALGORITHM or RUN,
--coordinator HOST:PORT --num-processes N --process-id I (HOST is that of process 0), or by
--coordinator auto where SLURM, Kubernetes, MPI or a TPU pod says the rest.
"""

import dataclasses
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro

from rlsys import envs
from rlsys.config import from_dict
from rlsys.learning import hosts
from rlsys.results import evaluate
from rlsys.running import run
from rlsys.running.checkpoint import Checkpoints
from rlsys.types import UserError

ALGORITHMS = ("r2d2", "impala", "ppo")
TYRO = (tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes)


def algorithm(name: str):
    """The modules of an algorithm and of its Config.

    Raises:
      UserError: there is none of that name.
    """
    if name not in ALGORITHMS:
        raise UserError(unknown("algorithm", name, ALGORITHMS))
    module = f"rlsys.algorithms.{name}"
    return importlib.import_module(module), importlib.import_module(f"{module}_config")


def unknown(what: str, name: str, known) -> str:
    """A sentence that names what comes nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:5]
    return f"there is no {what} {name!r}; the nearest: {', '.join(near)}"


def field_names(config: Any) -> list[str]:
    """Of a Config and the dataclasses in it, as on the command line."""
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


def config_of(name: str, args: list[str], *, on_cpu: bool | None = None) -> Any:
    """The Config of an algorithm that the words after its name give.

    on_cpu: whether it is for a machine without accelerator, where some tasks have presets of their
      own; this machine's, if None.
    """
    configs = algorithm(name)[1]
    preset, args = take(args, "--preset")
    env, args = take(args, "--env")
    if preset is None and env in configs.ON_CPU:
        on_cpu = jax.default_backend() == "cpu" if on_cpu is None else on_cpu
        preset = configs.ON_CPU[env] if on_cpu else None
    return parse(configs.preset(preset, env), args, f"Presets: {', '.join(configs.PRESETS)}.")


def sentence(error: Exception) -> str:
    text = str(error)
    return f"rlsys: {text}" if text.endswith((".", "?")) else f"rlsys: {text}."


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0, or 2 after a sentence on what the user asked for, or 1 after a failure."""
    try:
        command()
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


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Plays episodes with a run's newest checkpoint."""

    episodes: int = 100
    """Episodes of each kind: greedy, and with actions drawn as in training."""
    seed: int = evaluate.SEED
    """Of the environments."""
    gif: bool = True
    """Record an episode, of the kind that is the algorithm's score."""


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nAlgorithms: {', '.join(ALGORITHMS)}")
        return
    command, *args = args
    where = None
    if command != "eval":
        words = {}
        for flag in ("--coordinator", "--num-processes", "--process-id"):
            words[flag], args = take(args, flag)
        where = hosts.address(*words.values())

    def train(module, config, **options):
        if where is not None:
            hosts.start(where)
        module.train(config, **options)

    if command not in ("resume", "eval"):
        # Which devices there are cannot be asked before the processes have met.
        on_cpu = False if where is not None else None
        train(algorithm(command)[0], config_of(command, args, on_cpu=on_cpu))
        return
    if not args or not args[0]:
        raise UserError(f"{command} needs the folder of a run: make {command} RUN=runs/...")
    folder, *args = args
    saved = run.load(folder)
    if "members" in saved:
        raise UserError(
            f"{folder} is a sweep: its runs are {folder}/members/0 and so on, and "
            f"make sweep RESUME={folder} goes on with it"
        )
    module, configs = algorithm(saved["algorithm"])
    config = from_dict(configs.Config, {**saved["config"], "run_dir": folder})
    if command == "resume":
        train(
            module, parse(config, args, "Goes on with a run; fields may be changed."), resume=True
        )
    else:
        evaluate_run(module, config, parse(EvalConfig(), args, str(EvalConfig.__doc__)))


def evaluate_run(module, config, options: EvalConfig) -> None:
    """Plays each kind of episode, prints and saves the returns, and records a picture."""
    tasks = envs.tasks(config.env, config.task)
    pools = [envs.make(task, 1, options.seed) for task in tasks]
    network = module.make_network(config, pools)
    state = module.make_state(network, config)
    checkpoints = Checkpoints(Path(config.run_dir) / "checkpoints")
    params = checkpoints.restore({"learner": state})[1]["learner"].params
    episodes = evaluate.play_tasks(
        module.make_player,
        config,
        network,
        params,
        module.EVAL_MODES,
        options.episodes,
        options.seed,
    )
    print(f"saved {evaluate.report(Path(config.run_dir), module.SCORE, episodes)}")
    if options.gif:
        for i, task in enumerate(tasks):
            path = Path(config.run_dir) / (f"episode-{i}.gif" if i else "episode.gif")
            player = module.make_player(
                config, network, task, 1, options.seed, module.SCORE, render=True
            )
            evaluate.record(path, player, params)
            print(f"saved {path}")


if __name__ == "__main__":
    run.prepare_process()
    hosts.leave(exit_code(lambda: main(sys.argv[1:])))
