"""Randomise: the fields that choose what is drawn at random in a task, and their presets.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
section 3.3 and appendix B: a policy that was trained on many simulations, each a little different,
can also play in a world that it never saw.
"""

import dataclasses
import math

from rlsys.envs.randomise.adapt import bounded
from rlsys.envs.randomise.effects import Effects, check_effects, is_on
from rlsys.envs.randomise.words import NONE, PHYSICS_OF, read
from rlsys.types import UserError

PRESETS = ("dactyl",)
MOST_VARIANTS, LEAST_OF_VARIANT = 8, 4
OF_ADAPT = ("adapt_threshold_high", "adapt_threshold_low", "adapt_episodes", "adapt_step",
            "boundary_share")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Randomise:
    """Chooses what is drawn at random in a task."""

    preset: str = ""
    """The name of a table that fills all fields that are not given: "dactyl" (OpenAI et al. 2018).
    If empty, fields that are not given draw nothing."""

    # Observations and actions, see effects.py. None stands for the preset's value; without a preset
    # it turns the effect off.
    observation_offset: str | None = None
    """Add normal noise to observations that stays the same for an episode. This is its standard
    deviation, in the observation's own units: one number for all entries, or words that name
    entries, such as observation.0-2=0.01,achieved_goal.3-6=0.1rad. An observation that is one
    array is called obs, as in obs.0-2=0.01. "rad" marks the four entries of a quaternion, which is
    turned; a + joins places that show the same quantity."""
    observation_noise: str | None = None
    """Add normal noise to observations that is drawn anew at each step. This is its standard
    deviation, written as that of observation_offset is."""
    observation_drop: float | None = None
    """The probability that a step shows the observation of the step before again."""
    sensor_loss: str | None = None
    """How many times a second a sensor is lost; while it is lost, it shows its last value. One
    number makes each entry a sensor of its own. A word such as observation.0-5=0.2 makes all the
    entries that it names one sensor."""
    sensor_loss_seconds: float | None = None
    """The number of seconds for which a sensor stays lost; if None, 1."""
    action_noise: float | None = None
    """Add normal noise to actions that is drawn anew at each step. This is its standard deviation,
    as a share of an action's range."""
    action_offset: float | None = None
    """Add normal noise to actions that stays the same for an episode. This is its standard
    deviation, as a share of an action's range."""
    action_gain: float | None = None
    """Multiply all actions of an episode by 1 plus normal noise of this standard deviation."""
    action_delay: float | None = None
    """The probability that an actuator acts one step late for a whole episode."""
    action_hold: float | None = None
    """The largest probability that a step plays the last action again. Each episode has a
    probability of its own: this one divided by a number from U[1, 8]. With 0.1 actions are as late
    in the mean as Dactyl's, whose steps lasted 8 ms + Exp(lambda)."""
    action_smoothing: float | None = None
    """Play an exponential moving average of the actions: this share of the last average, and the
    rest of the new action."""
    action_backlash: float | None = None
    """The widest gap that an actuator must cross before it moves back (backlash), as a share of an
    action's range; each episode draws its gaps between 0 and this."""
    show_value: bool = False
    """Show the value function, and not the policy, the observation without noise, the numbers that
    were drawn, and arrays whose names begin with "privileged". The policy's LSTM sees no rewards,
    which tell of them. It needs separate_networks."""

    # Physics, see words.py.
    physics: tuple[str, ...] | None = None
    """The parts of a task's physics that are drawn, and the ranges, in words such as
    mass=scale:0.5:1.5 and gear@slide=logscale:0.4:2; `none` draws nothing. If None, the preset's
    words are taken."""
    variants: int | None = None
    """The number of draws of the physics that are played side by side, each by an equal share of an
    actor's environments; if None, one for every 4 environments, but 8 at most."""
    redraw_steps: int = 5_000
    """Each share's physics are drawn anew after this many steps of each of its environments, and at
    each checkpoint; with 0 only at checkpoints. A draw lasts longer than an episode, because
    EnvPool reads a task's XML only when it makes the environments."""

    # Ranges that widen as the policy learns, see adapt.py.
    adapt: bool = False
    """Begin each range of the physics as a point, the task as it is, and widen it up to its word's
    range where the policy succeeds at its ends (automatic domain randomisation, OpenAI et al.
    2019). Evaluations play the words' whole ranges."""
    adapt_threshold_high: float | None = None
    """Move an end of a range outward if the mean return there is at least this. It depends on the
    task, so there is no default, and --randomise.adapt needs it."""
    adapt_threshold_low: float | None = None
    """Move an end of a range inward if the mean return there is at most this; needed as well."""
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
        if self.variants is not None and self.variants < 1:
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

    def check_used(self, before: "Randomise | None" = None) -> None:
        """Refuses fields that are given and would do nothing. A field counts as given if it has
        neither its default nor its value in `before`, from which a run goes on.

        Raises:
          UserError: there is such a field.
        """
        of_preset = self.preset and self.sensor_loss is None
        lost = of_preset or is_on("sensor_loss", self.sensor_loss)
        for names, used, need in (
            (OF_ADAPT, self.adapt, "--randomise.adapt True"),
            (("variants", "redraw_steps"), self.physics_words, "drawn physics"),
            (("sensor_loss_seconds",), lost, "--randomise.sensor-loss"),
        ):
            for name in names if not used else ():
                value = getattr(self, name)
                if value not in (getattr(NOTHING, name), getattr(before or NOTHING, name)):
                    raise UserError(f"randomise.{name} {value} would do nothing without {need}")

    @property
    def draws(self) -> bool:
        """Whether anything is drawn: physics, or effects on observations or actions."""
        effects = (x for x in Effects._fields if x != "sensor_loss_seconds")
        on = any(is_on(x, getattr(self, x)) for x in effects)
        return bool(self.preset or self.physics_words or on)

    @property
    def physics_words(self) -> tuple[str, ...]:
        """The words that say how physics are drawn: those of `physics`, or else the preset's."""
        if self.physics is None:
            return PHYSICS_OF.get(self.preset, ())
        return () if self.physics == (NONE,) else self.physics

    def num_variants(self, num_envs: int) -> int:
        """Returns the number of draws that num_envs environments play side by side. By default not
        fewer than 4 environments share one: a group of 2 takes as long to wake as to simulate."""
        wanted = self.variants or min(MOST_VARIANTS, num_envs // LEAST_OF_VARIANT)
        return min(max(wanted, 1), num_envs)

    def check_shares(self, num_envs: int) -> None:
        """Raises UserError unless the variants of the physics, where their number is given, can
        share an actor's environments evenly; num_envs: the number of these environments."""
        if self.physics_words and self.variants and num_envs % self.variants:
            raise UserError(
                f"the {num_envs} environments of an actor cannot be shared evenly by "
                f"{self.variants} variants of the physics (--randomise.variants)"
            )


NOTHING = Randomise()
