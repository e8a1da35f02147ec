"""Randomise: the fields that say what of a task is drawn at random, and their presets.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
section 3.3 and appendix B: a policy that has played many simulations, each a little different, can
play one more that it never saw.
"""

import dataclasses
import math

from rlsys.envs.randomise.adapt import bounded
from rlsys.envs.randomise.effects import check_effects
from rlsys.envs.randomise.words import NONE, PHYSICS_OF, read
from rlsys.types import UserError

PRESETS = ("dactyl",)


@dataclasses.dataclass(frozen=True)
class Randomise:
    """Says what of a task is drawn at random. Nothing is, by default."""

    preset: str = ""
    """A table of ranges for all fields that are not given: "dactyl" (OpenAI et al. 2018)."""

    # Observations and actions, see effects.py. None stands for what the preset says, else for none.
    observation_offset: str | None = None
    """Noise of observations that an episode keeps: its deviation, in the observation's own units.
    One number goes for all; observation.0-2=0.01,achieved_goal.3-6=0.1rad names entries, rad a
    quaternion that is turned, and a + places that show the same quantity."""
    observation_noise: str | None = None
    """Noise of observations that is drawn at each step; written as observation_offset is."""
    observation_drop: float | None = None
    """The probability that a step shows the last observation again."""
    sensor_loss: str | None = None
    """How often a sensor is lost, in times a second; until it is found, its last value is shown.
    One number makes each entry a sensor; of words, each is one, such as observation.0-5=0.2."""
    sensor_loss_seconds: float | None = None
    """For how long a sensor is lost; if None, 1 second."""
    action_noise: float | None = None
    """Noise of actions that is drawn at each step: its deviation as a share of their range."""
    action_offset: float | None = None
    """Noise of actions that an episode keeps: its deviation as a share of their range."""
    action_gain: float | None = None
    """An episode multiplies its actions by 1 plus noise of this deviation."""
    action_delay: float | None = None
    """The probability that an actuator acts one step late in the whole of an episode."""
    action_hold: float | None = None
    """The largest probability that a step plays the last action again. An episode's is this divided
    by U[1, 8], Dactyl's law for its times: 0.1 makes steps as late as 8 ms + Exp(lambda) does."""
    action_smoothing: float | None = None
    """Actions are an exponential moving average, of which this share is the last one."""
    action_backlash: float | None = None
    """The widest gap that an actuator must cross before it moves back, as a share of an action's
    range; an episode draws the gaps from 0 to it."""
    show_value: bool = False
    """Show the value function alone what is hidden from the policy: the observation without noise
    and the numbers drawn. It needs separate_networks."""

    # Physics, see words.py.
    physics: tuple[str, ...] | None = None
    """What is drawn of a task's physics, in words such as mass=scale:0.5:1.5 and
    gear@slide=logscale:0.4:2; `none` for nothing. If None it is what the preset has."""
    variants: int = 8
    """How many draws of the physics are played side by side, each by an equal share of an actor's
    environments."""
    redraw_steps: int = 5_000
    """A share's physics are drawn anew after this many steps of each of its environments, and at
    each checkpoint; with 0 at checkpoints alone. A draw lasts longer than an episode, because
    EnvPool reads a task's XML only when it makes the environments."""

    # Ranges that widen as the policy learns, see adapt.py.
    adapt: bool = False
    """Begin each range of the physics as a point, the task as it is, and widen it up to its word's
    range where the policy succeeds at its ends (automatic domain randomisation, OpenAI et al.
    2019). Evaluations play the words' whole ranges."""
    adapt_threshold_high: float | None = None
    """The mean return at an end of a range from which on it moves outward. It is the task's own, so
    --randomise.adapt needs it."""
    adapt_threshold_low: float | None = None
    """The mean return at an end of a range down from which it moves inward; needed as well."""
    adapt_episodes: int = 240
    """The number of episodes whose mean return decides on an end of a range; the paper's 240."""
    adapt_step: float = 0.02
    """How far an end of a range moves at a time, as a share of its word's range; 0.02 is ours."""
    boundary_share: float = 0.5
    """The share of draws in which one parameter lies on an end of its range, to be tested
    there; the paper's 0.5."""

    def __post_init__(self):
        if self.preset not in ("", *PRESETS):
            raise UserError(f"there is no preset {self.preset!r} of randomise, only dactyl")
        check_effects(self)
        for text in self.physics_words:
            read(text)
        if self.variants < 1:
            raise UserError(f"randomise.variants must be 1 or more, not {self.variants}")
        if self.redraw_steps < 0:
            raise UserError(f"randomise.redraw_steps must be 0 or more, not {self.redraw_steps}")
        if self.adapt:
            self._check_adapt()

    def _check_adapt(self) -> None:
        """Raises UserError if ranges cannot be adapted."""
        low, high = self.adapt_threshold_low, self.adapt_threshold_high
        if not self.physics_words:
            raise UserError("randomise.adapt widens ranges of the physics, and none are drawn")
        if low is None or high is None:
            raise UserError(
                "randomise.adapt needs the mean returns at which ranges widen and narrow, "
                "--randomise.adapt-threshold-high and --randomise.adapt-threshold-low, as no "
                "number would be right for all tasks"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UserError(
                f"randomise.adapt_threshold_low {low:g} must not be above adapt_threshold_high "
                f"{high:g}, and both must be finite"
            )
        if self.adapt_episodes < 1:
            raise UserError(
                f"randomise.adapt_episodes must be 1 or more, not {self.adapt_episodes}"
            )
        if not 0.0 < self.adapt_step <= 1.0:
            raise UserError(f"randomise.adapt_step must lie in (0, 1], not {self.adapt_step:g}")
        if not 0.0 < self.boundary_share <= 1.0:
            raise UserError(
                f"randomise.boundary_share must lie in (0, 1], not {self.boundary_share:g}"
            )
        if not self.redraw_steps:
            raise UserError(
                "randomise.adapt needs physics that are drawn anew between checkpoints, so "
                "redraw_steps must be 1 or more, not 0"
            )
        for word in map(read, self.physics_words):
            low, high = bounded(word).numbers
            if low == high:
                raise UserError(f"physics {word.text!r} has no width that adapt could widen to")

    @property
    def physics_words(self) -> tuple[str, ...]:
        """The words of what is drawn of the physics, from `physics` or else from the preset."""
        if self.physics is None:
            return PHYSICS_OF.get(self.preset, ())
        return () if self.physics == (NONE,) else self.physics

    def check_shares(self, num_envs: int) -> None:
        """Raises UserError if variants of the physics cannot share an actor's environments."""
        if self.physics_words and num_envs % self.variants:
            raise UserError(
                f"the {num_envs} environments of an actor cannot be shared evenly by "
                f"{self.variants} variants of the physics (--randomise.variants)"
            )


NOTHING = Randomise()
