"""Effects: noise, delays and losses of a task's observations and actions, and Dactyl's table.

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177,
section 3.3 and appendix B.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlsys.envs.randomise import places
from rlsys.envs.spaces import MASK, has_range
from rlsys.types import UserError

FINGERS = ((2, 5), (6, 9), (10, 13), (14, 18), (19, 23))  # joints of the Shadow Hand; 0, 1: wrist
HAND_STEPS_PER_SECOND = 25.0


class Effects(NamedTuple):
    """Holds the fields of Randomise (ranges.py) that concern observations and actions, under the
    same names. None of them is None any more: an effect that is off is "" or 0."""

    observation_offset: str = ""
    observation_noise: str = ""
    observation_drop: float = 0.0
    sensor_loss: str = ""
    sensor_loss_seconds: float = 1.0
    action_noise: float = 0.0
    action_offset: float = 0.0
    action_gain: float = 0.0
    action_delay: float = 0.0
    action_hold: float = 0.0
    action_smoothing: float = 0.0
    action_backlash: float = 0.0


OFF = Effects()
WORDS = ("observation_offset", "observation_noise", "sensor_loss")
# Fields for continuous actions alone: a task with discrete actions cannot have them.
OF_NUMBERS = (
    "action_noise", "action_offset", "action_gain", "action_smoothing", "action_backlash",
)  # fmt: skip


def check_effects(randomise: Any) -> None:
    """Refuses values that no task can have.

    Raises:
      UserError: a word is malformed, or a number is out of its range.
    """
    for field in WORDS:
        for amount in places.read(field, getattr(randomise, field) or ""):
            if field == "sensor_loss" and amount.rotation:
                raise UserError("sensor_loss is in times a second, and never in rad")
    for field in ("action_delay", "action_backlash"):
        value = getattr(randomise, field)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"{field} must lie within [0, 1], not {value}")
    for field in ("observation_drop", "action_hold", "action_smoothing"):
        value = getattr(randomise, field)
        if value is not None and not 0 <= value < 1:
            raise UserError(f"{field} must lie in [0, 1), not {value}")
    for field in ("action_noise", "action_offset", "action_gain"):
        value = getattr(randomise, field)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{field} must be 0 or more, and finite, not {value}")
    seconds = randomise.sensor_loss_seconds
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"sensor_loss_seconds must be positive, and finite, not {seconds}")


def is_on(field: str, value: str | float | None) -> bool:
    """Returns whether the value of a field of Effects, or of Randomise, changes anything. Words
    whose amounts are all 0, and None, do not."""
    return bool(places.read(field, str(value or "")) if field in WORDS else value)


def effects_of(
    randomise: Any,
    env_id: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    steps_per_second: float | None,
) -> Effects:
    """Returns the effects of a Randomise on one task. Fields that are None come from its preset.

    Args:
      randomise: a Randomise.
      env_id: the id of the task.
      observation_space, action_space: the task's own, before its actions are cut into bins.
      steps_per_second: the number of steps in a second of the task's own time; None if unknown.
    """
    preset = OFF
    if randomise.preset == "dactyl":
        preset = dactyl(env_id, observation_space, action_space, steps_per_second)
    given = {name: getattr(randomise, name) for name in Effects._fields}
    return preset._replace(**{name: x for name, x in given.items() if x is not None})


def dactyl(
    env_id: str, observation_space: Any, action_space: Any, steps_per_second: float | None
) -> Effects:
    """Returns Dactyl's effects for a task, as far as the task can have them.

    Actions get normal noise of 5 % of their range, drawn at each step, and of 1.5 %, drawn for an
    episode, and are multiplied by 1 plus noise of 1.5 %. Each actuator has a delay of one step in
    half of the episodes. In the paper a step lasted 8 ms + Exp(lambda) with lambda from
    U[1250, 10000] 1/s, which is 1.25 % to 10 % longer in the mean. Here a batch of environments
    steps together, so an action is held for one more step with that probability instead. The
    paper's gaps of backlash were measured on its hand; here they are up to 5 % of the range.

    Observations of the Shadow Hand with an object are in m and rad. The object's position gets
    noise of 5 mm for an episode and of 1 mm at each step, its orientation 0.1 rad of both kinds.
    The paper's policy saw fingertips, with noise of 1 and 2 mm. These tasks show joints instead,
    which get 0.01 and 0.02 rad: as much, at 0.1 m from the fingertip. The paper's policy saw no
    velocities. Here they get the noise that the difference of two noisy positions, a step apart,
    would have. Each finger and the object are lost 0.2 times a second for 1 s. The goal and the
    sensors of touch stay exact.

    Observations of other tasks have units that are not known here. So each float gets noise of 0.02
    for an episode and of 0.01 at each step, between those of positions and of angles, and each
    entry of a vector is lost 0.2 times a second if the task says how many steps a second has.
    "desired_goal", arrays that are called "privileged...", and integers, such as those of images,
    stay exact. Set the fields yourself if that does not suit your task.
    """
    effects = Effects()
    if MASK not in _keys(observation_space):
        effects = effects._replace(action_delay=0.5, action_hold=0.1)
        if isinstance(action_space, spaces.Box) and has_range(action_space):
            effects = effects._replace(
                action_noise=0.05, action_offset=0.015, action_gain=0.015, action_backlash=0.05
            )
    if env_id.startswith("HandManipulate") and isinstance(observation_space, spaces.Dict):
        size = int(np.prod(observation_space["observation"].shape or ()))
        return effects._replace(**_hand(size, steps_per_second or HAND_STEPS_PER_SECOND))
    shown = [
        key
        for key, x in places.named(observation_space).items()
        if places.is_float(x) and key != "desired_goal" and not key.startswith(places.PRIVILEGED)
    ]
    if not shown:
        return effects
    offset, noise = (",".join(f"{key}={size}" for key in shown) for size in (0.02, 0.01))
    effects = effects._replace(observation_offset=offset, observation_noise=noise)
    if steps_per_second is None:
        return effects
    widths = {key: places.named(observation_space)[key].shape or () for key in shown}
    vectors = [(key, shape[0]) for key, shape in widths.items() if len(shape) == 1]
    entries = [f"{key}.{i}=0.2" for key, width in vectors for i in range(width)]
    return effects._replace(sensor_loss=",".join(entries))


def _hand(size: int, steps_per_second: float) -> dict[str, Any]:
    """Returns fields of Effects for a Shadow Hand with an object.

    Its "observation" has 24 joints, their velocities, the object's 3 + 3 velocities, in some tasks
    touch, and last the object's position and orientation, which "achieved_goal" shows too.

    Args:
      size: the number of entries of "observation".
      steps_per_second: the number of steps in a second of the task's own time.
    """
    pose, turn = size - 7, size - 4
    position = f"observation.{pose}-{pose + 2}+achieved_goal.0-2"
    orientation = f"observation.{turn}-{turn + 3}+achieved_goal.3-6"
    difference = math.sqrt(2) * steps_per_second
    velocities = (("24-47", 0.02), ("48-50", 0.001), ("51-53", 0.1))
    noise = [f"observation.{x}={deviation * difference:.6g}" for x, deviation in velocities]
    fingers = [
        f"observation.{low}-{high}+observation.{low + 24}-{high + 24}=0.2" for low, high in FINGERS
    ]
    of_object = f"observation.48-53+observation.{pose}-{pose + 6}+achieved_goal.0-6=0.2"
    return {
        "observation_offset": f"observation.0-23=0.01,{position}=0.005,{orientation}=0.1rad",
        "observation_noise": ",".join(
            [f"observation.0-23=0.02,{position}=0.001,{orientation}=0.1rad", *noise]
        ),
        "sensor_loss": ",".join([*fingers, of_object]),
    }


def _keys(space: spaces.Space) -> list[str]:
    """Returns the names of a Dict's parts. (`key in space` would ask if key is an observation.)"""
    return list(space.keys()) if isinstance(space, spaces.Dict) else []
