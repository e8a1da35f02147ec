"""Environments: batches of one task as Timesteps, whichever back-end plays it."""

from rlsys.envs.interface import Envs, Episode
from rlsys.envs.joint_space import shared_spaces
from rlsys.envs.make import make
from rlsys.envs.options import Options, Task
from rlsys.envs.randomise import NOTHING, Randomise
from rlsys.envs.tasks import (
    against_players,
    both_sides,
    check_task,
    family,
    is_game,
    layout,
    plain_game,
    read_tasks,
)
from rlsys.envs.teams import is_team_game

__all__ = [
    "NOTHING",
    "Envs",
    "Episode",
    "Options",
    "Randomise",
    "Task",
    "against_players",
    "both_sides",
    "check_task",
    "family",
    "is_game",
    "is_team_game",
    "layout",
    "make",
    "plain_game",
    "read_tasks",
    "shared_spaces",
]
