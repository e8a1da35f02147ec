"""Environments whose makers take arguments, for tests of drawn physics."""

import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.envs.randomise.variants import SHARES

TIMES: list[float] = []  # arguments with which make() was called


class Shows(gymnasium.Env):
    """Shows its argument and the number of steps; ends after `length` steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mass, length):
        self.mass, self.length, self.steps = mass, length, 0

    def show(self):
        return np.array([self.mass, self.steps], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.show(), {}

    def step(self, action):
        self.steps += 1
        return self.show(), self.mass, self.steps >= self.length, False, {}


def make(mass=1.0, length=4.0):
    TIMES.append(mass)
    return Shows(mass, length)


def explodes(mass=1.0):
    """Shows NaN after two steps where mass is above 0.9, from the start where it is above 0.95."""
    env = Shows(mass, 100)
    show = env.show

    def bad():
        late = mass > 0.9 and env.steps >= 2
        return show() * (np.nan if mass > 0.95 or late else 1)

    env.show = bad
    return env


def costs_and_explodes(mass=1.0):
    """The same where each step costs 1."""
    env = explodes(mass)
    step = env.step

    def costly(action):
        obs, _, *rest = step(action)
        return obs, -1.0, *rest

    env.step = costly
    return env


def explodes_on_its_own(mass=1.0):
    """Shows NaN from the start, except with the masses at which it is checked that draws do
    something."""
    return Shows(mass if mass in (0.5, *SHARES) else np.nan, 100)


def deaf(mass=1.0):
    return Shows(1.0, 4)


class Pure:
    """The same in JAX."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mass):
        self.mass = mass

    def reset(self, key):
        return jnp.stack([jnp.float32(self.mass), jnp.float32(0)]), jnp.int32(0)

    def step(self, key, state, action):
        obs = jnp.stack([jnp.float32(self.mass), jnp.float32(state + 1)])
        return obs, state + 1, self.mass, state + 1 >= 4, {}


def pure(mass=1.0):
    TIMES.append(mass)
    return Pure(mass)
