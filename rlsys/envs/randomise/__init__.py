"""Domain randomisation: tasks whose physics, observations and actions are drawn at random."""

from rlsys.envs.randomise.ranges import NOTHING, Randomise

__all__ = ["NOTHING", "Randomise"]
