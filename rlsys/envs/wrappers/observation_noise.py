"""Changes observations: noise, sensors that are lost for a while, steps that show nothing new."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlsys.envs.interface import Envs
from rlsys.envs.randomise import observations, places
from rlsys.envs.randomise.draws import Draws, normal, uniform
from rlsys.envs.wrappers.wrapper import Wrapper
from rlsys.types import Timestep, UserError


class ObservationNoise(Wrapper):
    """Adds noise that is drawn anew at each step to floats of the observation.

    A word that names an array of integers, such as an image, is refused.

    Attributes:
      keys: the names of the arrays that get noise.
    """

    FIELD = "observation_noise"

    def __init__(self, envs: Envs, words: str, seed: int | Sequence[int]):
        """Wraps environments.

        Args:
          words: say which entries get how much noise; see places.py.

        Raises:
          UserError: the observation has no such entries, or they are not floats.
        """
        super().__init__(envs)
        amounts = places.read(self.FIELD, words)
        self._layout = places.locate(self.FIELD, amounts, self.name, envs.observation_space)
        self.keys = {x.key for x in self._layout.slices}
        self._draws = Draws(self.FIELD, self.num_envs, seed)

    def normal(self, timestep: Timestep) -> np.ndarray:
        """Draws the normal numbers of this step's noise: [B, N]."""
        return self._draws.each_step(normal, len(self._layout.size))

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._draws.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        drawn = self.normal(timestep)
        return timestep._replace(obs=observations.add_noise(self._layout, timestep.obs, drawn))


class ObservationOffset(ObservationNoise):
    """Adds noise that is drawn at an episode's first step and stays the same until its end.

    Attributes:
      episode_draws: [B, N] the running episodes' normal numbers of deviation 1.
    """

    FIELD = "observation_offset"

    def __init__(self, envs: Envs, words: str, seed: int | Sequence[int]):
        super().__init__(envs, words, seed)
        self.episode_draws = np.zeros((self.num_envs, len(self._layout.size)), np.float32)

    def normal(self, timestep: Timestep) -> np.ndarray:
        self.episode_draws = self._draws.each_episode(normal, self.episode_draws, timestep.first)
        return self.episode_draws


class SensorLoss(Wrapper):
    """Loses sensors for a while; a lost sensor shows its last value.

    Attributes:
      keys: the names of the arrays that hold the sensors.
    """

    def __init__(self, envs: Envs, words: str, seconds: float, seed: int | Sequence[int]):
        """Wraps environments.

        Args:
          words: say which entries are a sensor, and how many times a second it is lost; see
            places.sensors.
          seconds: the time for which a sensor stays lost.

        Raises:
          UserError: the observation has no such entries, they are not floats, or the task does not
            tell how many steps a second has.
        """
        super().__init__(envs)
        amounts = places.read("sensor_loss", words)
        found = places.sensors("sensor_loss", amounts, self.name, envs.observation_space)
        if not envs.steps_per_second:
            raise UserError(
                f"sensor_loss counts seconds, and {self.name!r} does not tell how many steps it "
                "takes in one"
            )
        self._probability = 1 - np.exp(-found.rate / envs.steps_per_second)
        self._steps = max(1, round(seconds * envs.steps_per_second))
        self._index, self._draws = found.of_entries, Draws("sensor_loss", self.num_envs, seed)
        self.keys = set(self._index)
        self._left = np.zeros((self.num_envs, len(found.rate)), int)
        self._shown: dict[str, np.ndarray] = {}

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._draws.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        drawn = self._draws.each_step(uniform, len(self._probability))
        self._left = observations.lose(
            self._left, timestep.first, drawn, self._probability, self._steps
        )
        none = np.zeros((self.num_envs, 1), bool)
        lost = np.concatenate([self._left > 0, none], axis=1)  # -1 is a sensor that is never lost
        alone = not isinstance(timestep.obs, dict)
        arrays: dict[str, Any] = {places.ALONE: timestep.obs} if alone else dict(timestep.obs)
        for key, index in self._index.items():
            x = arrays[key]
            where = lost[:, index].reshape(x.shape)
            arrays[key] = np.where(where, self._shown.get(key, x), x)
        self._shown = {key: arrays[key] for key in self._index}
        return timestep._replace(obs=arrays[places.ALONE] if alone else arrays)


class ObservationDrop(Wrapper):
    """Shows the last observation again at some steps, whatever the observation is made of. An
    episode's first observation and masks of legal actions are always the new ones."""

    def __init__(self, envs: Envs, probability: float, seed: int | Sequence[int]):
        """Wraps environments. probability: that a step shows the last observation again."""
        super().__init__(envs)
        self._probability = probability
        self._draws = Draws("observation_drop", self.num_envs, seed)
        self._shown: Any = None

    def restart(self, seed: int | Sequence[int], timestep: Timestep) -> Timestep:
        self._draws.begin(seed)
        return super().restart(seed, timestep)

    def change(self, timestep: Timestep) -> Timestep:
        drawn = self._draws.each_step(uniform, 1)[:, 0]
        dropped = (drawn < self._probability) & ~timestep.first
        before = timestep.obs if self._shown is None else self._shown
        self._shown = observations.keep(timestep.obs, before, dropped)
        return timestep._replace(obs=self._shown)
