"""The base of all wrappers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlsys.envs.interface import Envs, Episode
from rlsys.types import Timestep


class Wrapper:
    """Passes everything on to the environments that it holds; each wrapper overrides one thing.

    Episodes come from the environments within, so their returns are sums of raw rewards, whatever
    the learner sees.
    """

    def __init__(self, envs: Envs):
        self.envs = envs
        self.num_envs, self.name, self.team_size = envs.num_envs, envs.name, envs.team_size
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        self.raw_observation_space = envs.raw_observation_space
        self.raw_action_space = envs.raw_action_space

    @property
    def to_move(self) -> Any:
        return self.envs.to_move

    @property
    def drawn(self) -> Any:
        return self.envs.drawn

    @property
    def drawn_names(self) -> tuple[str, ...]:
        return self.envs.drawn_names

    @property
    def steps_per_second(self) -> float | None:
        return self.envs.steps_per_second

    def change(self, timestep: Timestep) -> Timestep:
        """Returns the learner's Timestep for one of the environments within."""
        return timestep

    def reset(self) -> Timestep:
        return self.change(self.envs.reset())

    def step(self, action: np.ndarray) -> Timestep:
        return self.change(self.envs.step(action))

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        return self.envs.restart(seed, timestep)

    def pop_episodes(self) -> list[Episode]:
        return self.envs.pop_episodes()

    def pop_draws(self) -> list[Any]:
        return self.envs.pop_draws()

    def set_ranges(self, ranges: Any) -> None:
        self.envs.set_ranges(ranges)

    def pop_trials(self) -> list[Any]:
        return self.envs.pop_trials()

    def running_episodes(self) -> list[Episode]:
        return self.envs.running_episodes()

    def render(self) -> np.ndarray:
        return self.envs.render()

    def close(self) -> None:
        self.envs.close()
