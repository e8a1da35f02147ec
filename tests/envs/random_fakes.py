"""A made-up batch of environments for tests of what is drawn at random."""

import numpy as np
from gymnasium import spaces

from rlsys.envs.randomise.draws import STREAMS
from rlsys.types import Timestep

PUSH = spaces.Box(np.float32([-1, -4]), np.float32([1, 2]), dtype=np.float32)
VECTOR = spaces.Box(-np.inf, np.inf, (7,), np.float32)


class Script:
    """B environments whose observations depend on the step alone and whose episodes are of 2 + i
    steps in environment i; it keeps the actions that reach it. Even episodes end, odd ones are cut.

    Attributes:
      seen: Timesteps as they were before any wrapper.
      acted: the actions of each step().
    """

    to_move = ()
    name = "Script"
    team_size = 1
    drawn = ()
    drawn_names = ()

    def __init__(self, num_envs=4, space=VECTOR, action_space=PUSH, steps_per_second=10.0):
        self.num_envs, self.steps_per_second = num_envs, steps_per_second
        self.observation_space = self.raw_observation_space = space
        self.action_space = self.raw_action_space = action_space
        self.seen, self.acted = [], []
        self._rng = np.random.default_rng(0)
        self._time = self._episode = None

    def _obs(self, space):
        if isinstance(space, spaces.Dict):
            return {key: self._obs(part) for key, part in space.items()}
        shape = (self.num_envs, *space.shape)
        if isinstance(space, spaces.MultiBinary):
            return self._rng.random(shape) < 0.5
        if space.dtype.kind != "f":
            return self._rng.integers(0, 9, shape).astype(space.dtype)
        return self._rng.normal(size=shape).astype(np.float32)

    def reset(self):
        self._time = np.zeros(self.num_envs, int)
        self._episode = np.zeros(self.num_envs, int)
        return self._timestep()

    def step(self, action):
        if self._time is None:
            return self.reset()
        self.acted.append(np.array(action))
        over = self._time == 2 + np.arange(self.num_envs)
        self._time = np.where(over, 0, self._time + 1)
        self._episode += over
        return self._timestep()

    def _timestep(self):
        over, odd = self._time == 2 + np.arange(self.num_envs), self._episode % 2 == 1
        discount = np.where(over & ~odd, 0, 1).astype(np.float32)
        reward = np.ones(self.num_envs, np.float32)
        obs = self._obs(self.observation_space)
        self.seen.append(Timestep(obs, self._time == 0, reward, discount, over & odd))
        return self.seen[-1]

    def restart(self, seed, timestep):
        self._rng = np.random.default_rng(0)
        self._time = None
        return timestep

    def pop_episodes(self):
        return []

    def close(self):
        pass


def play(envs, steps, seed=0, begun=False):
    """Timesteps x_0 .. x_steps under random actions in the space, and the actions."""
    rng, space = np.random.default_rng(seed), envs.action_space

    def action():
        if isinstance(space, spaces.Box):
            u = rng.random((envs.num_envs, *space.shape))
            return (space.low + u * (space.high - space.low)).astype(np.float32)
        sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
        return rng.integers(0, sizes, (envs.num_envs, *space.shape))

    timesteps = [envs.step(action()) if begun else envs.reset()]
    actions = [action() for _ in range(steps)]
    return timesteps + [envs.step(a) for a in actions], actions


def rng_of(stream, seed):
    """The numbers of one stream of a seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=(2, STREAMS.index(stream)))
    return np.random.default_rng(sequence)


def normals(rng, *shape):
    return rng.standard_normal(shape, np.float32).astype(float)


def uniforms(rng, *shape):
    return rng.random(shape, np.float32)
