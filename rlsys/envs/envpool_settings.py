"""EnvPool's tasks: which there are, what EnvPool is told of them, how its pools are made."""

import difflib
import functools
import re
import warnings
from typing import Any

from rlsys.envs.options import NO_LIMIT, Options, check_family
from rlsys.types import UserError

GAMES = ("pgx",)  # families with games of two players who move in turn
CHEAP = ("classic_control", "toy_text")  # families whose step costs less than a thread's hand-over

# R2D2's Atari. The agent's own actions start the game (Mnih et al. 2015), so no forced FIRE. Stacks
# of frames, lost lives and clipping are ours, so that replay holds single frames and the log raw
# scores; EnvPool's episodic_life would also draw new no-ops and lose their rewards at each life.
ATARI = {
    "stack_num": 1,
    "frame_skip": 4,
    "gray_scale": True,
    "img_height": 84,
    "img_width": 84,
    "use_fire_reset": False,
    "episodic_life": False,
    "reward_clip": False,
    "max_episode_steps": 27_000,  # 108,000 frames, half an hour
}


def _envpool() -> Any:
    """Imports EnvPool when it is first asked for, as it takes 2 s to register its families."""
    import envpool

    return envpool


def family_of(task: str) -> str:
    """Returns the family of an EnvPool id.

    Raises:
      UserError: there is no such task.
    """
    specs = _envpool().registration.registry.specs
    if task not in specs:
        nearest = ", ".join(map(repr, _meant(task, list(specs))))
        hint = f"did you mean {nearest}?" if nearest else "none has a name like it"
        raise UserError(f"unknown task {task!r}; {hint}")
    return specs[task][0].split(".")[1]


def ids_of_families() -> dict[str, list[str]]:
    """Returns EnvPool's ids by family, both in order."""
    found: dict[str, list[str]] = {}
    for task in sorted(_envpool().registration.registry.specs):
        found.setdefault(family_of(task), []).append(task)
    return dict(sorted(found.items()))


def _meant(task: str, ids: list[str]) -> list[str]:
    """Returns the ids that a name may mean, at most three, the likeliest first.

    Others write ids with a namespace, with another version or none, with dashes or underscores, and
    Atari's with what EnvPool takes as options: ALE/Pong-v5, PongNoFrameskip-v4, cheetah-run.
    """
    stem = _stem(task)
    same = [name for name in ids if _stem(name) == stem]
    # A plain id before one with a namespace of EnvPool's own, and the newest version first.
    same = sorted(sorted(same, reverse=True), key=lambda name: "/" in name)
    if same:
        return same[:3]
    names = {name.lower(): name for name in ids}
    return [names[name] for name in difflib.get_close_matches(task.lower(), names, cutoff=0.7)]


def _stem(task: str) -> str:
    """Returns the part of an id that says which game or robot it is, in small letters: "pong"."""
    name = re.sub(r"-v\d+$", "", task.rpartition("/")[2])
    name = re.sub(r"(-?ram)?(NoFrameskip|Deterministic)?$", "", name)
    return re.sub(r"[\W_]", "", name).lower()


@functools.cache
def check(task: str) -> None:
    """Checks that a task can be played, without making an environment. Each task is checked only
    once, as EnvPool takes 10 to 160 ms for it.

    Raises:
      UserError: there is no such task, it has players that rlsys cannot play, or it cannot be made
        here.
    """
    family_of(task)
    _spec(task, {})


@functools.cache
def num_players(task: str) -> int:
    """Returns how many players an EnvPool id has; 1 if there is no such task."""
    specs = _envpool().registration.registry.specs
    if task not in specs or family_of(task) not in GAMES:
        return 1
    return _envpool().make_spec(task).config.max_num_players


@functools.cache
def base_path(task: str) -> str:
    """Returns the folder below which an EnvPool task reads its files.

    Raises:
      UserError: the task cannot be made here.
    """
    return _spec(task, {}).config.base_path


def make_pool(
    task: str,
    num_envs: int,
    seeds: list[int],
    options: Options,
    num_threads: int,
    render: bool,
    base_path: str | None = None,
) -> Any:
    """Makes an EnvPool of num_envs synchronous environments.

    Args:
      task: EnvPool id of a task that check() lets pass.
      seeds: [num_envs], each below 2^31.
      options: the options of the task; those that wrappers carry out are ignored.
      num_threads: the number of threads that step the environments. 0 stands for one a core, or
        for one in all where a step costs less than handing it to a thread.
      render: whether it is to draw pictures.
      base_path: the folder below which it reads its files; None for EnvPool's own.

    Raises:
      UserError: the task cannot honour the options, or cannot be made here.
    """
    settings = _settings(task, options)
    if base_path is not None:
        settings["base_path"] = base_path
    if render:
        settings["render_mode"] = "rgb_array"
    try:
        pool = _envpool().make(
            task,
            env_type="gymnasium",
            num_envs=num_envs,
            num_threads=num_threads or int(family_of(task) in CHEAP),
            seed=seeds,
            **settings,
        )
    except Exception as error:  # whatever a family raises: RuntimeError, ImportError ...
        raise _cannot_make(task, error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's, of float64 bounds
        _ = pool.observation_space  # made now and kept: step() would make it
    return pool


def _settings(task: str, options: Options) -> dict[str, Any]:
    """Returns the settings that EnvPool is given, once it is clear that it heeds the options."""
    kind = family_of(task)
    check_family(task, kind, options)
    settings: dict[str, Any] = {}
    if kind == "atari":
        settings = ATARI | {
            "noop_max": options.noop_max,
            "full_action_space": not options.minimal_actions,
            "repeat_action_probability": options.sticky_actions,
        }
    elif kind == "vizdoom":
        settings = {"stack_num": 1, "use_combined_action": True}
    spec = _spec(task, settings)
    if options.max_episode_steps is not None:
        # Found by running: these pass the limit by, or call every later end a truncation.
        deaf = kind in ("gfootball", "highway", "jumanji", "pgx", "procgen")
        if deaf or spec.config.max_episode_steps == NO_LIMIT:
            raise UserError(f"EnvPool does not heed max_episode_steps in {task!r}")
        settings["max_episode_steps"] = options.max_episode_steps
    return settings


def _spec(task: str, settings: dict[str, Any]) -> Any:
    """Returns EnvPool's specification of a task that rlsys plays, without making an environment."""
    try:
        spec = _envpool().make_spec(task, **settings)
    except Exception as error:
        raise _cannot_make(task, error) from error
    players = spec.config.max_num_players
    if players > 1 and not (players == 2 and family_of(task) in GAMES):
        raise UserError(
            f"{task!r} has {players} players; only tasks of one player can be played, and PGX's "
            f"games of two"
        )
    return spec


def _cannot_make(task: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"EnvPool cannot make {task!r} here: {reason}")
