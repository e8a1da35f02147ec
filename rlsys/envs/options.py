"""A task and its options, whichever back-end plays it."""

import dataclasses
import math
from typing import NamedTuple

from rlsys.envs.randomise import NOTHING, Randomise
from rlsys.types import UserError

NO_LIMIT = 2**31 - 1  # EnvPool's max_episode_steps of tasks without a time limit
OF_SOME_FAMILIES = {  # options that only some families of tasks can honour
    "sticky_actions": (("atari",), "Atari"),
    "noop_max": (("atari",), "Atari"),
    "life_loss_ends": (("atari",), "Atari"),
    "minimal_actions": (("atari",), "Atari"),
    "processes": (("gymnasium",), "Gymnasium"),
    "opponent": (("pgx", "smax", "teams"), "PGX and games of two teams"),
    "event_rewards": (("smax", "teams"), "games of two teams"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Says how a task is played. An option that the task cannot honour is refused, not ignored.

    Raises:
      UserError: a value is out of its range.
    """

    sticky_actions: float = 0.0
    """Atari: the probability that the previous action is repeated (Machado et al. 2018: 0.25)."""
    noop_max: int = 30
    """Atari: a game begins with 1 to this many no-ops, drawn at random."""
    life_loss_ends: bool = False
    """Atari: a lost life ends the learner's episode; reported returns are still whole games."""
    minimal_actions: bool = False
    """Atari: offer only the actions that the game uses, in place of all 18."""
    max_episode_steps: int | None = None
    """An episode is cut off after this many agent steps; if None, at the task's own limit."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1] for the learner; reported returns are not clipped."""
    reward_scale: float = 1.0
    """Multiply the learner's rewards, after clipping; reported returns are not scaled."""
    action_bins: int = 11
    """Each dimension of a continuous action takes one of this many values, evenly spaced from
    lowest to highest; 11 in OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation"."""
    observe: tuple[int, ...] = ()
    """Keep only these entries of a flat observation; 0 2 hides CartPole's velocities."""
    permute: int = 0
    """Show an array's entries in one random order, drawn from this seed; 0 leaves their order."""
    flicker: float = 0.0
    """Blank each observation to zeros with this probability (Hausknecht and Stone 2015: 0.5)."""
    only_first: bool = False
    """Blank every observation but an episode's first: a test of memory alone."""
    opponent: str = ""
    """Games of two players: a player that does not learn plays one side: "random", "blocker", which
    wins or keeps the other from winning if one move can (TicTacToe, ConnectFour), or "perfect"
    (TicTacToe). Games of two teams: "random" or, of SMAX, "heuristic", JaxMARL's scripted enemies.
    Without one the agent plays both sides."""
    event_rewards: float = 1.0
    """Games of two teams: multiply what a player is rewarded for its own events, such as damage
    dealt and taken, beside the game's result; reported returns are the results alone."""
    processes: bool = False
    """Gymnasium: play each environment in a process of its own; worth it where a step takes longer
    than 0.2 ms, as each hand-over costs about that."""

    def __post_init__(self):
        for name in ("sticky_actions", "flicker"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0.0 <= self.event_rewards < math.inf:
            raise UserError(f"event_rewards must be 0 or more, not {self.event_rewards}")
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


def check_family(env_id: str, family: str, options: Options) -> None:
    """Refuses options that only another family's tasks can honour.

    Raises:
      UserError: one of them is set.
    """
    for name, (able, word) in OF_SOME_FAMILIES.items():
        if family not in able and getattr(options, name) != getattr(DEFAULTS, name):
            raise UserError(f"{name} is for {word}, and {env_id!r} is of the family {family!r}")


class Task(NamedTuple):
    """Names one of the tasks of a run, and says how it is played."""

    name: str  # env_id and the options that set it apart: "CartPole-v1:observe=0,2"
    env_id: str  # "Catch-v0", "gymnasium/CartPole-v1"; without options
    options: Options
    continuous: bool = False  # play continuous actions as numbers, in place of action_bins
    randomise: Randomise = NOTHING  # what is drawn at random
