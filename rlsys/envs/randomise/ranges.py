"""Randomise: the fields that say what of a task is drawn at random, and their presets.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
section 3.3 and appendix B: a policy that has played many simulations, each a little different, can
play one more that it never saw.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Randomise:
    """Says what of a task is drawn at random. Nothing is, by default."""

    preset: str = ""
    """A table of ranges for all fields that are not given: "dactyl" (OpenAI et al. 2018)."""


NOTHING = Randomise()
