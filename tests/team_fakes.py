"""Games of two teams in pure JAX, made up for tests."""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces


class Duel:
    """Two players a team, of 1 to 3 lives. An action aims at an enemy, who loses a life for each
    that aims at it; 0 aims at nobody and is all that the dead may do. 8 steps without a winner are
    a draw. A player's event is the lives that it took, less those that it lost, divided by 10.

    It sees [the game's number, its own number, the step, its lives]."""

    team_size = 2
    observation_space = spaces.Dict(
        {
            "obs": spaces.Box(-np.inf, np.inf, (4,), np.float32),
            "action_mask": spaces.MultiBinary(3),
        }
    )
    action_space = spaces.Discrete(3)

    def reset(self, key):
        lives = jax.random.randint(key, (4,), 1, 4)
        state = (jax.random.uniform(key), lives, jnp.zeros((), jnp.int32))
        return self._show(state), state

    def _show(self, state):
        game, lives, time = state
        who = jnp.arange(4)
        seen = jnp.stack([game + 0.0 * who, who, time + 0 * who, lives], axis=-1)
        legal = (lives > 0)[:, None] | (jnp.arange(3) == 0)[None]
        return {"obs": seen.astype(jnp.float32), "action_mask": legal}

    def step(self, key, state, action):
        del key
        game, lives, time = state
        enemy = jnp.array([2, 2, 0, 0]) + action - 1  # whom each aims at
        aims = (enemy[:, None] == jnp.arange(4)[None]) & ((action > 0) & (lives > 0))[:, None]
        hits = jnp.minimum(aims.sum(0), lives)
        taken = (aims / jnp.maximum(aims.sum(0), 1)[None]) @ hits.astype(jnp.float32)
        lives, time = lives - hits, time + 1
        alive = lives.reshape(2, 2).any(-1)
        done = ~alive.all() | (time >= 8)
        result = (alive[0].astype(jnp.float32) - alive[1]) * jnp.array([1.0, 1.0, -1.0, -1.0])
        state = (game, lives, time)
        return self._show(state), state, done * result, done, {"events": 0.1 * (taken - hits)}


class NoMask(Duel):
    """A game whose players are not told their legal actions."""

    observation_space = spaces.Dict({"obs": Duel.observation_space["obs"]})


class NoSize:
    """A game that does not say how large its teams are."""
