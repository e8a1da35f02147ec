"""Gymnasium environments for tests: ENV=gymnasium/gymnasium_fakes:Clock-v0 and others."""

import gymnasium
import numpy as np
from gymnasium import spaces

from rlsys import envs
from rlsys.envs import Options

FAKES = "gymnasium/gymnasium_fakes:"
ACTIONS = {
    "Discrete": spaces.Discrete(3),
    "DiscreteFrom5": spaces.Discrete(3, start=5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 3]),
    "Unequal": spaces.MultiDiscrete([2, 5, 3]),
    "MultiDiscreteFrom1": spaces.MultiDiscrete([2, 4], start=[1, -1]),
    "Grid": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "MultiBinary": spaces.MultiBinary(3),
    "BinaryGrid": spaces.MultiBinary((2, 2)),
    "Box": spaces.Box(np.float32([-1, 0]), np.float32([1, 4])),
    "Scalar": spaces.Box(-2.0, 2.0, (), np.float64),
    "Matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
}
OBSERVATIONS = {
    "Box": spaces.Box(-1.0, 1.0, (4,), np.float64),
    "Half": spaces.Box(-1.0, 1.0, (4,), np.float16),
    "Scalar": spaces.Box(0.0, 1.0, (), np.float32),
    "Channels": spaces.Box(0, 255, (3, 8, 8), np.uint8),
    "Image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "Counts": spaces.Box(-5, 2**40, (2,), np.int64),
    "Narrow": spaces.Box(-5, 70_000, (2,), np.int64),
    "Discrete": spaces.Discrete(4, start=-2),
    "MultiDiscrete": spaces.MultiDiscrete([3, 7], start=[1, 2]),
    "MultiBinary": spaces.MultiBinary((2, 3)),
    "Dict": spaces.Dict(speed=spaces.Box(0.0, 9.0, (2,), np.float32), gear=spaces.Discrete(5)),
    "Tuple": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
    "Nested": spaces.Dict(
        goal=spaces.Dict(position=spaces.Box(-1.0, 1.0, (3,), np.float64)),
        hands=spaces.Tuple([spaces.Discrete(2), spaces.Dict(grip=spaces.MultiBinary(2))]),
    ),
}


class Random(gymnasium.Env):
    """Shows random members of its observation space and keeps what it was told and has shown."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.shown, self.played = [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self._show(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        self.played.append(action)
        return self._show(), self.np_random.normal(), self.np_random.random() < 0.1, False, {}

    def _show(self):
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]


class Clock(gymnasium.Env):
    """Shows the number of its episode, and how many of its steps are over, which is the reward too.

    Args:
      end: the episode comes to its own end at this step.
      cut: it is truncated at this step.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)

    def __init__(self, end=1000, cut=1000, render_mode=None):
        self.end, self.cut, self.render_mode, self.episode = end, cut, render_mode, -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return np.float32([self.episode, 0]), {}

    def step(self, action):
        self.time += 1
        obs = np.float32([self.episode, self.time])
        return obs, float(self.time), self.time >= self.end, self.time >= self.cut, {}

    def render(self):
        return np.full((2, 3, 3), self.time, np.uint8)


class Masked(Random):
    """Says which actions are legal: at times none, as some environments do at an episode's end."""

    def __init__(self, action_space, axes, kind=np.int8):
        mask = spaces.Box(0, 1, axes, kind)
        space = spaces.Dict(action_mask=mask, x=spaces.Box(-1.0, 1.0, (2,), np.float32))
        super().__init__(space, action_space)


class Failing(Clock):
    """Raises where it is told to."""

    def __init__(self, where, **clock):
        super().__init__(**clock)
        self.where = where
        if where == "init":
            raise OSError("no such\n  simulator.")

    def reset(self, *, seed=None, options=None):
        if self.where == "reset":
            raise ValueError("nothing to reset")
        return super().reset(seed=seed)

    def step(self, action):
        if self.where == "step" and self.time == 2:
            raise ZeroDivisionError("the wheel came off")
        return super().step(action)


class Unseeded(Clock):
    """Its rewards come from no seed."""

    def step(self, action):
        obs, _, *ends = super().step(action)
        return obs, np.random.default_rng().normal(), *ends


def register(name, entry_point, **more):
    gymnasium.register(f"{name}-v0", entry_point=f"gymnasium_fakes:{entry_point}", **more)


for name, space in ACTIONS.items():
    kwargs = dict(observation_space=OBSERVATIONS["Box"], action_space=space)
    register(f"Act{name}", "Random", kwargs=kwargs)
for name, space in OBSERVATIONS.items():
    register(
        f"See{name}", "Random", kwargs=dict(observation_space=space, action_space=ACTIONS["Box"])
    )
REFUSED = {
    "Text": dict(observation_space=spaces.Text(3), action_space=spaces.Discrete(2)),
    "Complex": dict(
        observation_space=spaces.Dict(x=spaces.Sequence(spaces.Discrete(2))),
        action_space=spaces.Discrete(2),
    ),
    "Twice": dict(
        observation_space=spaces.Dict(
            {"a/b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))}
        ),
        action_space=spaces.Discrete(2),
    ),
    "ActDict": dict(
        observation_space=spaces.Discrete(2), action_space=spaces.Dict(a=spaces.Discrete(2))
    ),
    "ActInts": dict(
        observation_space=spaces.Discrete(2), action_space=spaces.Box(0, 3, (2,), np.int32)
    ),
    "Unbounded": dict(
        observation_space=spaces.Discrete(2), action_space=spaces.Box(-np.inf, np.inf, (2,))
    ),
}
for name, kwargs in REFUSED.items():
    register(f"Refused{name}", "Random", kwargs=kwargs)

register("Clock", "Clock")
register("ClockEnds", "Clock", kwargs=dict(end=3))
register("ClockEnds10", "Clock", kwargs=dict(end=10))
register("ClockIsCut", "Clock", kwargs=dict(cut=3))
register("ClockLimit", "Clock", max_episode_steps=3)
register("ClockEndsAndIsCut", "Clock", kwargs=dict(end=3, cut=3))
register("ClockEndsAtLimit", "Clock", kwargs=dict(end=3), max_episode_steps=3)
for where in ("init", "reset", "step"):
    register(f"Failing_{where}", "Failing", kwargs=dict(where=where))

register("Unseeded", "Unseeded")

register("Masked", "Masked", kwargs=dict(action_space=spaces.Discrete(3), axes=(3,)))
register("MaskedUnequal", "Masked", kwargs=dict(action_space=ACTIONS["Unequal"], axes=(3, 5)))
register("MaskedWrong", "Masked", kwargs=dict(action_space=spaces.Discrete(3), axes=(4,)))
register("MaskedBox", "Masked", kwargs=dict(action_space=ACTIONS["Box"], axes=(2,)))


def fake(name, num_envs=2, seed=0, options=Options(), *, continuous=False, **more):
    """Makes the environments of one of the names above."""
    task = envs.Task(name, f"{FAKES}{name}-v0", options, continuous)
    return envs.make(task, num_envs, seed, **more)
