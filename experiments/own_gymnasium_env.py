"""An environment of one's own in Gymnasium: walk along nine cells to the one with the goal.

make train ALGO=ppo ENV=gymnasium/experiments.own_gymnasium_env:Corridor-v0
"""

import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env):
    observation_space = spaces.Box(0.0, 8.0, (2,), np.float32)  # where one is, and the goal
    action_space = spaces.Discrete(2)  # left, right
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.goal = self.np_random.choice(9, size=2, replace=False)
        return np.float32([self.cell, self.goal]), {}

    def step(self, action):
        self.cell = np.clip(self.cell + 2 * action - 1, 0, 8)
        found = bool(self.cell == self.goal)
        return np.float32([self.cell, self.goal]), 1.0 if found else -0.1, found, False, {}

    def render(self):  # only for the gif that `make eval` records
        picture = np.zeros((1, 9, 3), np.uint8)
        picture[0, self.goal, 1] = picture[0, self.cell, 0] = 255
        return picture.repeat(32, 0).repeat(32, 1)


gymnasium.register(
    "Corridor-v0", entry_point="experiments.own_gymnasium_env:Corridor", max_episode_steps=30
)
