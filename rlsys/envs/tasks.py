"""EnvPool's tasks: which there are, what can be set of them, how they are made."""

import dataclasses
import difflib
import warnings
from typing import Any

import envpool
import numpy as np
from envpool.registration import registry

from rlsys.types import UserError

NO_LIMIT = 2**31 - 1  # EnvPool's max_episode_steps of tasks without a time limit

# R2D2's Atari. The agent's own actions start the game (Mnih et al. 2015), so no forced FIRE. Stacks
# of frames, lost lives and clipping are ours, so that replay holds single frames and the log raw
# scores; EnvPool's episodic_life would also draw new no-ops and lose their rewards at each life.
ATARI = {
    "stack_num": 1,
    "frame_skip": 4,
    "gray_scale": True,
    "img_height": 84,
    "img_width": 84,
    "full_action_space": True,
    "use_fire_reset": False,
    "episodic_life": False,
    "reward_clip": False,
    "max_episode_steps": 27_000,  # 108,000 frames, half an hour
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be set of a task. One that the task cannot honour is refused, not ignored.

    Raises:
      UserError: a value is out of its range.
    """

    sticky_actions: float = 0.0
    """Atari: probability that the previous action is repeated (Machado et al. 2018: 0.25)."""
    noop_max: int = 30
    """Atari: a game begins with 1 to this many no-ops, drawn at random."""
    life_loss_ends: bool = False
    """Atari: a lost life ends the learner's episode; reported returns are still whole games."""
    max_episode_steps: int | None = None
    """Agent steps after which an episode is cut off; the task's own limit if None."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1] for the learner; reported returns are not clipped."""
    action_bins: int = 5
    """Values, evenly spaced from lowest to highest, for each dimension of a continuous action."""
    observe: tuple[int, ...] = ()
    """Keep only these entries of a flat observation; (0, 2) hides CartPole's velocities."""
    flicker: float = 0.0
    """Probability that an observation is blanked to zeros (Hausknecht and Stone 2015: 0.5)."""
    only_first: bool = False
    """Blank every observation but an episode's first: a test of memory alone."""

    def __post_init__(self):
        for name in ("sticky_actions", "flicker"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        # noop_max=0 crashes EnvPool, and with it the process.
        for name, least in (("noop_max", 1), ("action_bins", 2), ("max_episode_steps", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < NO_LIMIT:
                raise UserError(f"{name} must be {least} or more, and below 2^31, not {value}")
        if len(set(self.observe)) < len(self.observe) or any(i < 0 for i in self.observe):
            raise UserError(f"observe must name entries from 0 up, once each, not {self.observe}")


DEFAULTS = Options()


def family(task: str) -> str:
    """The family a task belongs to: "atari", "minigrid", "classic_control", "mujoco" ...

    Raises:
      UserError: there is no such task.
    """
    if task not in registry.specs:
        ids = {name.lower(): name for name in registry.specs}
        nearest = [repr(ids[n]) for n in difflib.get_close_matches(task.lower(), ids, cutoff=0.7)]
        hint = f"did you mean {', '.join(nearest)}?" if nearest else "none has a name like it"
        raise UserError(f"unknown task {task!r}; {hint}")
    return registry.specs[task][0].split(".")[1]


def check_task(task: str) -> None:
    """Checks that a task can be played, without making an environment.

    Raises:
      UserError: there is no such task, it has several players, or it cannot be made here.
    """
    family(task)
    _spec(task, {})


def make_pool(
    task: str, num_envs: int, seed: int, options: Options, num_threads: int, render: bool
) -> Any:
    """Makes an EnvPool of num_envs synchronous environments.

    Environment i's seed is the i-th word of numpy's SeedSequence(seed), any integer from 0 up, less
    its lowest bit. EnvPool's own rule, seed + i, would play the same episodes for seeds 0 and 1.

    Raises:
      UserError: the task cannot honour the options, or cannot be made here.
    """
    settings = _settings(task, options)
    seeds = np.random.SeedSequence(seed).generate_state(num_envs) >> 1  # int32 for EnvPool
    if render:
        settings["render_mode"] = "rgb_array"
    try:
        pool = envpool.make(
            task,
            env_type="gymnasium",
            num_envs=num_envs,
            num_threads=num_threads,
            seed=seeds.tolist(),
            **settings,
        )
    except Exception as error:  # whatever a family raises: RuntimeError, ImportError ...
        raise _cannot_make(task, error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's, of float64 bounds
        _ = pool.observation_space  # made now and kept: step() would make it
    return pool


def _settings(task: str, options: Options) -> dict[str, Any]:
    """What EnvPool is told of the task, once it is clear that it will heed the options."""
    kind = family(task)
    for name in ("sticky_actions", "noop_max", "life_loss_ends"):
        if kind != "atari" and getattr(options, name) != getattr(DEFAULTS, name):
            raise UserError(f"{name} is for Atari, and {task!r} is of the family {kind!r}")
    settings: dict[str, Any] = {}
    if kind == "atari":
        settings = ATARI | {
            "noop_max": options.noop_max,
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
        spec = envpool.make_spec(task, **settings)
    except Exception as error:
        raise _cannot_make(task, error) from error
    players = spec.config.max_num_players
    if players > 1:
        raise UserError(f"{task!r} has {players} players; only single-player tasks can be played")
    return spec


def _cannot_make(task: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"EnvPool cannot make {task!r} here: {reason}")
