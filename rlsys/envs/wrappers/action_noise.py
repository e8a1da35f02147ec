"""Changes continuous actions on their way to the environment: noise, smoothing, backlash."""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from rlsys.envs.interface import Envs
from rlsys.envs.randomise import actions
from rlsys.envs.randomise.draws import Draws, normal, uniform
from rlsys.envs.spaces import check_action, has_range
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class ContinuousActions(Wrapper):
    """Refuses tasks whose actions are not continuous or not bounded; the base of three wrappers.

    A changed action is clipped to its bounds, as an actuator would do.
    """

    def __init__(self, envs: Envs, field: str):
        """Wraps environments. field: the name of the field of Randomise, for errors.

        Raises:
          UserError: the actions are not continuous, or not bounded.
        """
        super().__init__(envs)
        space = envs.action_space
        if not isinstance(space, spaces.Box):
            raise UserError(
                f"{field} is for continuous actions, and those of {self.name!r} are not"
            )
        if not has_range(space):
            raise UserError(
                f"{field} is a share of an action's range, and actions of {self.name!r} range over "
                f"{space.low.min():g} to {space.high.max():g}"
            )
        self._low, self._high = space.low, space.high
        self._first = np.ones(self.num_envs, bool)  # whether the next action is an episode's first
        self._before = np.zeros((self.num_envs, *space.shape), space.dtype)  # what was played last

    def act(self, action: np.ndarray) -> np.ndarray:
        """Returns the changed action [B, D], which may lie outside its bounds."""
        raise NotImplementedError

    def change(self, timestep: Timestep) -> Timestep:
        self._first = timestep.first
        return timestep

    def step(self, action: np.ndarray) -> Timestep:
        action = check_action(self.name, self.action_space, self.num_envs, action)
        acts = np.clip(self.act(action), self._low, self._high)
        self._before = acts.astype(action.dtype, copy=False)
        return super().step(self._before)


class ActionNoise(ContinuousActions):
    """Adds noise to actions: drawn at each step or for an episode, and in proportion to actions.

    Attributes:
      episode_draws: [B, n] the running episodes' normal numbers of deviation 1: D for the gain, if
        there is one, then D for the offset, if there is one.
    """

    def __init__(
        self,
        envs: Envs,
        seed: int | Sequence[int],
        *,
        noise: float = 0.0,
        offset: float = 0.0,
        gain: float = 0.0,
    ):
        """Wraps environments.

        Args:
          noise, offset: standard deviations, as shares of an action's range.
          gain: standard deviation, as a share of the action.
        """
        super().__init__(envs, "action_noise")
        self._noise, self._offset, self._gain = noise, offset, gain
        self._size = self._before.shape[1]
        self._episode = Draws("action_bias", self.num_envs, seed)
        self._step = Draws("action_noise", self.num_envs, seed)
        width = self._size * (bool(offset) + bool(gain))
        self.episode_draws = np.zeros((self.num_envs, width), np.float32)

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._episode.begin(seed)
        self._step.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        if self.episode_draws.size:
            self.episode_draws = self._episode.each_episode(
                normal, self.episode_draws, timestep.first
            )
        return super().change(timestep)

    def act(self, action: np.ndarray) -> np.ndarray:
        gain = self._gain * self.episode_draws[:, : self._size] if self._gain else 0.0
        offset = self._offset * self.episode_draws[:, -self._size :] if self._offset else 0.0
        noise = self._noise * self._step.each_step(normal, self._size) if self._noise else 0.0
        span = self._high - self._low
        return actions.add_noise(action, span, gain=gain, offset=offset, noise=noise)


class ActionSmoothing(ContinuousActions):
    """Plays an exponential moving average of an episode's actions."""

    def __init__(self, envs: Envs, share: float):
        """Wraps environments. share: the weight of the last average, in [0, 1)."""
        super().__init__(envs, "action_smoothing")
        self._share = share

    def act(self, action: np.ndarray) -> np.ndarray:
        return actions.smooth(action, self._before, self._first, self._share)


class ActionBacklash(ContinuousActions):
    """Lets actuators stand still until they have crossed a gap, which is drawn for an episode.

    Attributes:
      episode_draws: [B, D] the running episodes' gaps, as shares of the widest one.
    """

    def __init__(self, envs: Envs, widest: float, seed: int | Sequence[int]):
        """Wraps environments. widest: the widest gap, as a share of an action's range."""
        super().__init__(envs, "action_backlash")
        self._widest = widest * (self._high - self._low)  # [D]
        self._draws = Draws("action_backlash", self.num_envs, seed)
        self.episode_draws = np.zeros(self._before.shape, np.float32)

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._draws.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        self.episode_draws = self._draws.each_episode(uniform, self.episode_draws, timestep.first)
        return super().change(timestep)

    def act(self, action: np.ndarray) -> np.ndarray:
        return actions.backlash(
            action, self._before, self._first, self._widest * self.episode_draws
        )
