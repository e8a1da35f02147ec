"""Domain randomisation: draws a task's physics, and noise of its observations and actions."""

from rlsys.envs.randomise.ranges import NOTHING, Randomise

__all__ = ["NOTHING", "Randomise"]
