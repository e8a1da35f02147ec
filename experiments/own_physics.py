"""Environments of one's own whose physics are drawn: functions that take what is drawn.

    make train ALGO=ppo ENV=gymnasium/experiments.own_physics:pendulum:max_episode_steps=200 ARGS=\
      "--randomise.physics length=uniform:0.5:2 gravity=gaussian:10:1"
    make train ALGO=ppo ENV=jax/experiments.own_physics:Cart:max_episode_steps=50 ARGS=\
      "--randomise.physics mass=loguniform:0.5:2"
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces


def pendulum(length: float = 1.0, gravity: float = 10.0) -> gymnasium.Env:
    """Returns Gymnasium's pendulum with another length and another gravity."""
    env = gymnasium.make("Pendulum-v1", g=gravity).unwrapped
    env.l = length  # type: ignore[attr-defined]
    return env


class Cart:
    """A cart that is pushed left or right, and is to stay where it began.

    JAX calls this class with a traced mass, which can be computed with, but not asked in an `if`.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mass: float = 1.0):
        self.mass = mass

    def reset(self, key):
        state = jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)
        return state, state

    def step(self, key, state, action):
        position, speed = state
        speed = speed + 0.1 * (2 * action - 1) / self.mass
        position = position + 0.1 * speed
        state = jnp.stack([position, speed])
        return state, state, -jnp.abs(position), jnp.abs(position) > 1, {}
