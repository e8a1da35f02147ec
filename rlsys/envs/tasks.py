"""EnvPool's tasks: which there are, what can be set of them, how they are made."""

import dataclasses
import difflib
import functools
import math
import re
import warnings
from typing import Any, NamedTuple

import numpy as np

from rlsys.types import UserError

NO_LIMIT = 2**31 - 1  # EnvPool's max_episode_steps of tasks without a time limit

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


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a task. One that the task cannot honour is refused, not ignored.

    Raises:
      UserError: a value is out of its range.
    """

    sticky_actions: float = 0.0
    """Atari: probability that the previous action is repeated (Machado et al. 2018: 0.25)."""
    noop_max: int = 30
    """Atari: a game begins with 1 to this many no-ops, drawn at random."""
    life_loss_ends: bool = False
    """Atari: a lost life ends the learner's episode; reported returns are still whole games."""
    minimal_actions: bool = False
    """Atari: only the actions that the game uses, in place of all 18."""
    max_episode_steps: int | None = None
    """Agent steps after which an episode is cut off; the task's own limit if None."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1] for the learner; reported returns are not clipped."""
    reward_scale: float = 1.0
    """Multiply the learner's rewards, after clipping; reported returns are not scaled."""
    action_bins: int = 11
    """Values, evenly spaced from lowest to highest, for each dimension of a continuous action; 11
    as OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", have them."""
    observe: tuple[int, ...] = ()
    """Keep only these entries of a flat observation; (0, 2) hides CartPole's velocities."""
    permute: int = 0
    """Show an array's entries in one random order, drawn from this seed; as they are if 0."""
    flicker: float = 0.0
    """Probability that an observation is blanked to zeros (Hausknecht and Stone 2015: 0.5)."""
    only_first: bool = False
    """Blank every observation but an episode's first: a test of memory alone."""

    def __post_init__(self):
        for name in ("sticky_actions", "flicker"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0.0 < self.reward_scale < math.inf:
            raise UserError(f"reward_scale must be positive, not {self.reward_scale}")
        # noop_max=0 crashes EnvPool, and with it the process.
        least_values = {"noop_max": 1, "action_bins": 2, "max_episode_steps": 1, "permute": 0}
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and not least <= value < NO_LIMIT:
                raise UserError(f"{name} must be {least} or more, and below 2^31, not {value}")
        if len(set(self.observe)) < len(self.observe) or any(i < 0 for i in self.observe):
            raise UserError(f"observe must name entries from 0 up, once each, not {self.observe}")


DEFAULTS = Options()


class Task(NamedTuple):
    """One of the tasks of a run."""

    name: str  # the words it was given by: "Catch-v0:reward_scale=0.01"
    env: str  # EnvPool id
    options: Options


def tasks(env: str, options: Options) -> list[Task]:
    """The tasks that a run's `env` names: EnvPool ids with commas between them.

    Each may be followed by words of its own, `:option=value`, in place of fields of `options`:
    "Catch-v0,Catch-v0:permute=1:reward_scale=0.01". A comma before a number belongs to the value.

    Raises:
      UserError: there is no such task or option, the value is wrong, or a task is named twice.
    """
    found: list[Task] = []
    for words in re.split(r",(?!\s*-?\d)", env):
        name = words.strip()
        task, *settings = name.split(":")
        check_task(task)
        try:
            own = dataclasses.replace(options, **dict(map(_setting, settings)))
        except UserError as error:
            raise UserError(f"task {name!r}: {error}") from None
        if name in [t.name for t in found]:
            raise UserError(f"task {name!r} is named twice")
        found.append(Task(name, task, own))
    return found


def _setting(word: str) -> tuple[str, Any]:
    """ "reward-scale=0.01" -> ("reward_scale", 0.01)."""
    given, _, text = word.partition("=")
    name = given.strip().replace("-", "_")
    kinds = {f.name: f.type for f in dataclasses.fields(Options)}
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.0)[0]
        raise UserError(f"there is no option {given!r}; the nearest: {near}")
    return name, _value(name, kinds[name], text.strip())


def _value(name: str, kind: Any, text: str) -> Any:
    """Reads what is given for an option of type kind."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind == tuple[int, ...]:
            return tuple(int(i) for i in text.split(",")) if text else ()
        if kind == int | None and text.lower() == "none":
            return None
        return float(text) if kind is float else int(text)
    except (KeyError, ValueError):
        words = {bool: "true or false", tuple[int, ...]: "numbers such as 0,2", float: "a number"}
        expected = words.get(kind, "a whole number")
        raise UserError(f"{name} must be {expected}, not {text!r}") from None


def _envpool() -> Any:
    """EnvPool, imported when it is first asked for: to register its families takes it 2 s."""
    import envpool

    return envpool


def family(task: str) -> str:
    """The family a task belongs to: "atari", "minigrid", "classic_control", "mujoco" ...

    Raises:
      UserError: there is no such task.
    """
    specs = _envpool().registration.registry.specs
    if task not in specs:
        ids = {name.lower(): name for name in specs}
        nearest = [repr(ids[n]) for n in difflib.get_close_matches(task.lower(), ids, cutoff=0.7)]
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "none has a name like it"
        raise UserError(f"unknown task {task!r}; {hint}")
    return specs[task][0].split(".")[1]


@functools.cache
def check_task(task: str) -> None:
    """Checks that a task can be played, without making an environment; of each task only once,
    as EnvPool takes 10 to 160 ms for it.

    Raises:
      UserError: there is no such task, it has several players, or it cannot be made here.
    """
    family(task)
    _spec(task, {})


def make_pool(
    task: str,
    num_envs: int,
    seeds: list[int],
    options: Options,
    num_threads: int,
    render: bool,
) -> Any:
    """Makes an EnvPool of num_envs synchronous environments.

    Each seed, any integer from 0 up, is of an equal share of the environments, whose i-th has the
    i-th word of numpy's SeedSequence(seed), less its lowest bit. EnvPool's own rule, seed + i,
    would play the same episodes for seeds 0 and 1.

    Raises:
      UserError: the task cannot honour the options, or cannot be made here.
    """
    settings = _settings(task, options)
    share = num_envs // len(seeds)
    words = [np.random.SeedSequence(seed).generate_state(share) for seed in seeds]
    if render:
        settings["render_mode"] = "rgb_array"
    try:
        pool = _envpool().make(
            task,
            env_type="gymnasium",
            num_envs=num_envs,
            num_threads=num_threads or int(family(task) in CHEAP),
            seed=(np.concatenate(words) >> 1).tolist(),  # int32 for EnvPool
            **settings,
        )
    except Exception as error:  # whatever a family raises: RuntimeError, ImportError ...
        raise _cannot_make(task, error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's, of float64 bounds
        _ = pool.observation_space  # made now and kept: step() would make it
    return pool


def _settings(task: str, options: Options) -> dict[str, Any]:
    """Give EnvPool's settings of the task, once it is clear that it will heed the options."""
    kind = family(task)
    for name in ("sticky_actions", "noop_max", "life_loss_ends", "minimal_actions"):
        if kind != "atari" and getattr(options, name) != getattr(DEFAULTS, name):
            raise UserError(f"{name} is for Atari, and {task!r} is of the family {kind!r}")
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
    """EnvPool's specification of a single-player task; no environment is made."""
    try:
        spec = _envpool().make_spec(task, **settings)
    except Exception as error:
        raise _cannot_make(task, error) from error
    players = spec.config.max_num_players
    if players > 1:
        raise UserError(f"{task!r} has {players} players; only single-player tasks can be played")
    return spec


def _cannot_make(task: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"EnvPool cannot make {task!r} here: {reason}")
