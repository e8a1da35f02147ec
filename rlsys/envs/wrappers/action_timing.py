"""Plays actions late: some actuators have a delay, and some steps hold the last action."""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.randomise import actions
from rlsys.envs.randomise.draws import Draws, uniform
from rlsys.envs.spaces import MASK, check_action
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class LateActions(Wrapper):
    """Refuses tasks that name their legal actions, as an earlier action may no longer be legal; the
    base of the two wrappers. An episode's first action is played at once, as none came before it.
    """

    def __init__(self, envs: Envs, field: str):
        """Wraps environments. field: the name of the field of Randomise, for errors.

        Raises:
          UserError: the task names its legal actions.
        """
        super().__init__(envs)
        shown = envs.observation_space
        if isinstance(shown, spaces.Dict) and MASK in shown.keys():
            raise UserError(f"{field} cannot keep to the legal actions of {self.name!r}")
        shape = (self.num_envs, *(envs.action_space.shape or ()))
        self._first = np.ones(self.num_envs, bool)  # whether the next action is an episode's first
        self._before = np.zeros(shape, envs.action_space.dtype)
        self._width = self._before.reshape(self.num_envs, -1).shape[1]  # D, or 1

    def change(self, timestep: Timestep) -> Timestep:
        self._first = timestep.first
        return timestep

    def late(self, action: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Returns the action, replaced by the one before where `where` [B, D] or [B, 1] is True and
        the action is not an episode's first."""
        rows = (self.num_envs, -1)
        where = where & ~self._first[:, None]
        acts = actions.hold(action.reshape(rows), self._before.reshape(rows), where)
        return acts.reshape(action.shape)


class ActionDelay(LateActions):
    """Has some actuators act one step late for a whole episode.

    Attributes:
      episode_draws: [B, D] 1 where a running episode's actuator is late, else 0.
    """

    def __init__(self, envs: Envs, probability: float, seed: int | Sequence[int]):
        """Wraps environments. probability: that an actuator acts late in an episode."""
        super().__init__(envs, "action_delay")
        self._probability = probability
        self._draws = Draws("action_delay", self.num_envs, seed)
        self.episode_draws = np.zeros((self.num_envs, self._width), np.float32)

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._draws.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        self.episode_draws = self._draws.each_episode(
            lambda rng, shape: uniform(rng, shape) < self._probability,
            self.episode_draws,
            timestep.first,
        )
        return super().change(timestep)

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        acts = self.late(action, self.episode_draws > 0)
        self._before = action
        return super().step(acts)


class ActionHold(LateActions):
    """Plays the last action once more at some steps. It stands in for steps whose duration varies,
    which a batch of environments that step together cannot have.

    Attributes:
      episode_draws: [B, 1] the probability of it in the running episode, as a share of the largest.
    """

    def __init__(self, envs: Envs, largest: float, seed: int | Sequence[int]):
        """Wraps environments. largest: the largest probability that a step plays the last action
        again; an episode's own is this divided by a number from U[1, 8]."""
        super().__init__(envs, "action_hold")
        self._largest = largest
        self._step = Draws("action_hold", self.num_envs, seed)
        self._episode = Draws("hold_probability", self.num_envs, seed)
        self.episode_draws = np.zeros((self.num_envs, 1), np.float32)

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._step.begin(seed)
        self._episode.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        self.episode_draws = self._episode.each_episode(
            lambda rng, shape: 1 / (1 + 7 * uniform(rng, shape)), self.episode_draws, timestep.first
        )
        return super().change(timestep)

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        held = self._step.each_step(uniform, 1) < self._largest * self.episode_draws
        self._before = self.late(action, held)
        return super().step(self._before)
