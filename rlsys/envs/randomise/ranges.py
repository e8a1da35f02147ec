"""Randomise: the fields that say what of a task is drawn at random, and their presets.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
section 3.3 and appendix B: a policy that has played many simulations, each a little different, can
play one more that it never saw.
"""

import dataclasses

from rlsys.envs.randomise.words import NONE, PHYSICS_OF, read
from rlsys.types import UserError


@dataclasses.dataclass(frozen=True)
class Randomise:
    """Says what of a task is drawn at random. Nothing is, by default."""

    preset: str = ""
    """A table of ranges for all fields that are not given: "dactyl" (OpenAI et al. 2018)."""

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

    def __post_init__(self):
        for text in self.physics_words:
            read(text)
        if self.variants < 1:
            raise UserError(f"randomise.variants must be 1 or more, not {self.variants}")
        if self.redraw_steps < 0:
            raise UserError(f"randomise.redraw_steps must be 0 or more, not {self.redraw_steps}")

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
