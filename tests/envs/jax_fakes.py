"""Environments in JAX for tests: ENV=jax/jax_fakes:own and others.

Each shows how many steps of its episode are over and a random number of the episode, and is told
by its random number when to end: its reward is the number of the step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

LIMIT = 6  # steps, of those that have a time limit
CALLS: list[str] = []  # of the Python functions of Own


class Clock(NamedTuple):
    """A state; its key is of JAX's own key type."""

    time: Any
    number: Any
    key: Any


def start(key):
    number = jax.random.uniform(key)
    return Clock(jnp.int32(0), number, key)


def tick(state):
    """One step: the state, and whether the episode comes to its own end, after 3 to 10 steps."""
    state = state._replace(time=state.time + 1)
    return state, state.time >= 3 + jnp.floor(8 * state.number)


def show(state):
    return jnp.stack([state.time.astype(jnp.float32), state.number])


class Own:
    """An environment of one's own; every call of its Python functions is noted in CALLS."""

    observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, info="truncated", limit=LIMIT):
        self.info, self.limit = info, limit

    def reset(self, key):
        CALLS.append("reset")
        state = start(key)
        return show(state), state

    def step(self, key, state, action):
        CALLS.append("step")
        state, end = tick(state)
        late = ~end & (state.time >= self.limit)
        info = {self.info: late} if self.info else {}
        reward = state.time.astype(jnp.float32)
        return show(state), state, reward, end | late, info


class FiveValues(Own):
    """Says by itself which of the two ends it is, as Gymnasium does."""

    def step(self, key, state, action):
        obs, state, reward, done, info = super().step(key, state, action)
        return obs, state, reward, done & ~info["truncated"], info["truncated"], {}

    def render(self, state):
        return np.full((2, 3, 3), state.time, np.uint8)


class Echo(Own):
    """Shows the action that was played, in a nested observation with a mask of legal actions."""

    def __init__(self, action_space, masked=False):
        super().__init__()
        self.action_space = action_space
        echo = spaces.Box(-10.0, 10.0, action_space.shape, np.float32)
        parts = {"action_mask": spaces.MultiBinary(3)} if masked else {}
        self.observation_space = spaces.Dict(
            hand=spaces.Tuple([echo, spaces.Discrete(20)]), **parts
        )

    def _show(self, state, echo):
        mask = {"action_mask": jnp.arange(3) != state.time % 4}
        parts = mask if "action_mask" in self.observation_space.spaces else {}
        return {"hand": (echo, state.time), **parts}

    def reset(self, key):
        _, state = super().reset(key)
        return self._show(state, jnp.zeros(self.action_space.shape)), state

    def step(self, key, state, action):
        _, state, *rest = super().step(key, state, action)
        return self._show(state, action.astype(jnp.float32)), state, *rest


class Wrong(Own):
    """Its functions do not fit together, in the way that it is told."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        if way == "shape":
            self.observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        if way == "category":
            self.observation_space = spaces.MultiDiscrete([9, 9])

    def step(self, key, state, action):
        obs, state, reward, done, info = super().step(key, state, action)
        match self.way:
            case "raises":
                raise ZeroDivisionError("the wheel came off")
            case "reward":
                reward = reward[None]
            case "done":
                done = jnp.stack([done, done])
            case "state":
                state = (state, state)
        return obs, state, reward, done, info


own = Own
five_values = FiveValues


def endless():
    return Own(limit=1000)


def silent():
    """Its time limit is not told from an end."""
    return Own(info=None)


def says_integers():
    env = Own()
    env.observation_space = spaces.Box(0, 255, (2,), np.uint8)
    return env


def number():
    return 3


def raises():
    raise OSError("no such\n  simulator.")


def masked():
    return Echo(spaces.Discrete(3), masked=True)


ECHOES = {
    "discrete": spaces.Discrete(3, start=5),
    "unequal": spaces.MultiDiscrete([2, 5, 3]),
    "binary": spaces.MultiBinary(3),
    "box": spaces.Box(np.float32([-1, 0]), np.float32([1, 4])),
    "matrix": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
}


def __getattr__(name):
    """echo_box and the others: Echo with the actions of ECHOES; wrong_raises and the others."""
    kind, _, rest = name.partition("_")
    if kind == "echo" and rest in ECHOES:
        return lambda: Echo(ECHOES[rest])
    if kind == "wrong":
        return lambda: Wrong(rest)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
