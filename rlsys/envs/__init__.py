"""EnvPool's single-player tasks as Timesteps."""

from rlsys.envs.envs import Envs, Episode
from rlsys.envs.joint_space import shared_spaces
from rlsys.envs.tasks import Options, Task, check_task, family, tasks

__all__ = [
    "Envs",
    "Episode",
    "Options",
    "Task",
    "check_task",
    "family",
    "shared_spaces",
    "tasks",
]
