"""EnvPool's single-player tasks as Timesteps."""

from rlsys.envs.envs import Envs, Episode
from rlsys.envs.tasks import Options, check_task, family

__all__ = ["Envs", "Episode", "Options", "check_task", "family"]
