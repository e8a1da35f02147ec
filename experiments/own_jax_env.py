"""An environment of one's own in JAX: push a point to its goal with a force.

make train ALGO=ppo ENV=jax/experiments.own_jax_env:Reach
"""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces


class Reach:
    observation_space = spaces.Box(-4.0, 4.0, (2,), np.float32)  # where it is, and the goal
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, key):
        obs = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return obs, (obs, jnp.zeros((), jnp.int32))

    def step(self, key, state, action):
        obs, time = state
        obs, time = obs.at[0].add(0.2 * action[0]).clip(-4.0, 4.0), time + 1
        late = time >= 20  # a time limit: the value of the last observation still counts
        return obs, (obs, time), -jnp.abs(obs[0] - obs[1]), late, {"truncated": late}

    def render(self, state):  # only for the gif that `make eval` records
        picture = np.zeros((1, 41, 3), np.uint8)
        point, goal = (5 * (np.asarray(state[0]) + 4)).astype(int)
        picture[0, goal, 1] = picture[0, point, 0] = 255
        return picture.repeat(32, 0).repeat(8, 1)
