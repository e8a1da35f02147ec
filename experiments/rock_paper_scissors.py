"""Rock, paper, scissors with unequal stakes: a game of one's own, whose best policy is known.

make train ALGO=ppo ENV=teams/experiments.rock_paper_scissors:RockPaperScissors

A game is one step, in which both players choose. The only policy that cannot be beaten plays rock
in 1 of 16 games, paper in 10, and scissors in 5.
"""

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

# What the player of a row wins against the player of a column: rock, paper, scissors.
PAYOFF = np.array([[0.0, -0.25, 0.5], [0.25, 0.0, -0.05], [-0.5, 0.05, 0.0]])


class RockPaperScissors:
    team_size = 1
    observation_space = spaces.Dict(
        {
            "obs": spaces.Box(0.0, 1.0, (1,), np.float32),  # there is nothing to see
            "action_mask": spaces.MultiBinary(3),
        }
    )
    action_space = spaces.Discrete(3)

    def reset(self, key):
        return {"obs": jnp.ones((2, 1)), "action_mask": jnp.ones((2, 3), bool)}, ()

    def step(self, key, state, action):
        obs, state = self.reset(key)
        wins = jnp.asarray(PAYOFF, jnp.float32)[action[0], action[1]]
        return obs, state, jnp.stack([wins, -wins]), jnp.array(True), {}


def exploitability(policy: np.ndarray) -> float:
    """What the best response wins against a policy, a game; policy: [3] probabilities."""
    return float((PAYOFF @ policy).max())
