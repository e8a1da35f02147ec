"""Wraps environments in the effects that Randomise chooses, in the order of a robot's parts."""

from collections.abc import Sequence

from rlsys.envs.interface import Envs
from rlsys.envs.randomise.effects import Effects
from rlsys.envs.randomise.places import PRIVILEGED, named, read
from rlsys.envs.wrappers.action_noise import ActionBacklash, ActionNoise, ActionSmoothing
from rlsys.envs.wrappers.action_timing import ActionDelay, ActionHold
from rlsys.envs.wrappers.observation_noise import (
    ObservationDrop,
    ObservationNoise,
    ObservationOffset,
    SensorLoss,
)
from rlsys.envs.wrappers.show_value import ShowValue, chain


def with_actions(envs: Envs, effects: Effects, seed: int | Sequence[int]) -> Envs:
    """Returns environments that change actions on their way, in the order of a robot's parts.

    An action is held first (the clock), then delayed (the actuator) and smoothed (the controller),
    then it gets noise and backlash (the mechanics).

    Raises:
      UserError: the task's actions cannot have one of the effects.
    """
    if effects.action_backlash:
        envs = ActionBacklash(envs, effects.action_backlash, seed)
    if effects.action_noise or effects.action_offset or effects.action_gain:
        envs = ActionNoise(
            envs,
            seed,
            noise=effects.action_noise,
            offset=effects.action_offset,
            gain=effects.action_gain,
        )
    if effects.action_smoothing:
        envs = ActionSmoothing(envs, effects.action_smoothing)
    if effects.action_delay:
        envs = ActionDelay(envs, effects.action_delay, seed)
    if effects.action_hold:
        envs = ActionHold(envs, effects.action_hold, seed)
    return envs


def with_observations(envs: Envs, effects: Effects, seed: int | Sequence[int]) -> Envs:
    """Returns environments that change observations: noise is added, then sensors are lost, and at
    last whole observations do not arrive.

    Raises:
      UserError: the task's observations cannot have one of the effects.
    """
    if read("observation_offset", effects.observation_offset):
        envs = ObservationOffset(envs, effects.observation_offset, seed)
    if read("observation_noise", effects.observation_noise):
        envs = ObservationNoise(envs, effects.observation_noise, seed)
    if read("sensor_loss", effects.sensor_loss):
        envs = SensorLoss(envs, effects.sensor_loss, effects.sensor_loss_seconds, seed)
    if effects.observation_drop:
        envs = ObservationDrop(envs, effects.observation_drop, seed)
    return envs


def left_exact(envs: Envs) -> list[str]:
    """Returns the names of the arrays of a simulator's state that the noise on other observations
    leaves as they are; none where there is no such noise, or where show_value hides them."""
    wrappers = chain(envs)
    noises = [x for x in wrappers if isinstance(x, ObservationNoise | SensorLoss)]
    if not noises or any(isinstance(x, ShowValue) for x in wrappers):
        return []
    changed = set().union(*(x.keys for x in noises))
    exact = [key for key in named(envs.observation_space) if key not in changed]
    return [key for key in exact if key.startswith(PRIVILEGED)]
