"""Every family of tasks gives what its spaces promise, and Timesteps that obey the rules."""

import numpy as np
import pytest
from gymnasium import spaces

from rlsys import envs
from rlsys.types import UserError

FAST = {
    "classic_control": ["CartPole-v1", "Pendulum-v1"],
    "toy_text": ["Catch-v0", "FrozenLake-v1", "Blackjack-v1"],
    "minigrid": ["MiniGrid-MemoryS7-v0", "BabyAI-GoToRedBall-v0"],
    "box2d": ["LunarLander-v3", "BipedalWalker-v3"],
    "highway": ["Highway-v0", "Racetrack-v0", "Parking-v0"],
    "pgx": ["Play2048-v1"],
    "mujoco": ["InvertedPendulum-v5", "CartpoleSwingup-v1", "PointMaze_UMaze-v3"],
    "atari": ["Pong-v5"],
    "jumanji": (
        "BinPack-v2 CVRP-v1 Cleaner-v0 Connector-v2 FlatPack-v0 Game2048-v1 GraphColoring-v1 "
        "JobShop-v0 Knapsack-v1 LevelBasedForaging-v0 MMST-v0 Maze-v0 Minesweeper-v0 MultiCVRP-v0 "
        "PacMan-v1 RobotWarehouse-v0 RubiksCube-v0 SearchAndRescue-v0 SlidingTilePuzzle-v0 "
        "Snake-v1 Sokoban-v0 TSP-v1 Tetris-v0"
    ).split(),
}
SLOW = {
    "box2d": ["CarRacing-v3"],
    "vizdoom": ["D1Basic-v1", "Basic-v1"],
    "gfootball": ["gfootball/academy_empty_goal_close-v1"],
    "mujoco": "HumanoidCMURun-v1 PandaPickCube-v1 MetaWorld/Reach-v3 FrankaKitchen-v1".split(),
    "procgen": ["BigfishEasy-v0"],  # needs Qt
}
PAIRS = [(f, t) for f, tasks in FAST.items() for t in tasks] + [
    # VizDoom's engines of two processes, started at once, may wait for ever.
    pytest.param(f, t, marks=[pytest.mark.slow, pytest.mark.xdist_group(f)])
    for f, tasks in SLOW.items()
    for t in tasks
]


def random_action(env, obs, rng):
    """Uniform over the legal actions."""
    space = env.action_space
    axes = (space.n,) if isinstance(space, spaces.Discrete) else (space.shape[0], space.nvec[0])
    weight = rng.random((env.num_envs, *axes)) + 1
    if isinstance(obs, dict) and "action_mask" in obs:
        assert obs["action_mask"].dtype == bool
        assert obs["action_mask"].any(-1).all()
        weight *= obs["action_mask"]
    return weight.argmax(-1).astype(np.int32)


def play(env, steps, seed=0):
    """Timesteps x_0 .. x_steps under random legal actions, and the actions."""
    rng = np.random.default_rng(seed)
    timesteps, actions = [env.reset()], []
    for _ in range(steps):
        actions.append(random_action(env, timesteps[-1].obs, rng))
        timesteps.append(env.step(actions[-1]))
    return timesteps, actions


def assert_in_space(space, x, batch):
    """Keys, shapes, dtypes, and the ranges of what is counted."""
    if isinstance(space, spaces.Dict):
        assert set(x) == set(space)
        for key in space:
            assert_in_space(space[key], x[key], batch)
        return
    assert x.shape == (batch, *space.shape)
    if isinstance(space, spaces.Discrete):
        assert x.dtype == np.int32
        assert (0 <= x).all() and (x < space.n).all()
    elif isinstance(space, spaces.MultiBinary):
        assert x.dtype == bool
    else:
        assert x.dtype == space.dtype != np.float64
        assert np.isfinite(x).all()
        if x.dtype.kind != "f":  # rounding takes some floats a little past their bounds
            assert (space.low <= x).all() and (x <= space.high).all()


def assert_aligned(timesteps):
    first, reward, discount, truncated = (
        np.stack([getattr(t, name) for t in timesteps])
        for name in ("first", "reward", "discount", "truncated")
    )
    assert (first.dtype, reward.dtype, discount.dtype, truncated.dtype) == (
        bool,
        np.float32,
        np.float32,
        bool,
    )
    ended = (discount == 0) | truncated
    assert first[0].all()
    np.testing.assert_array_equal(first[1:], ended[:-1])
    assert (reward[first] == 0).all() and not ended[first].any()
    assert (discount[truncated] == 1).all()
    assert set(np.unique(discount)) <= {0.0, 1.0}


def assert_episodes(timesteps, episodes):
    """Returns and lengths are those of the steps between one first and the next."""
    expected = []
    for env in range(len(timesteps[0].first)):
        total, length = 0.0, 0
        for t in timesteps[1:]:
            total, length = total + float(t.reward[env]), length + (not t.first[env])
            if t.discount[env] == 0 or t.truncated[env]:
                expected.append((total, length, env))
                total, length = 0.0, 0
    found = sorted((e.episode_return, e.length, e.env) for e in episodes)
    np.testing.assert_allclose(sorted(expected), found, rtol=1e-5)


@pytest.mark.parametrize("family, task", PAIRS)
def test_family(family, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves files where it runs
    assert envs.family(task) == family
    try:
        env = envs.Envs(task, 3, seed=1, num_threads=1)
    except UserError as error:
        if "Qt 5" in str(error):
            pytest.skip(str(error))
        raise
    timesteps, _ = play(env, 150)
    for t in timesteps:
        assert_in_space(env.observation_space, t.obs, 3)
    assert_aligned(timesteps)
    episodes = env.pop_episodes()
    assert_episodes(timesteps, episodes)
    assert env.pop_episodes() == []
    action_space = env.action_space
    if isinstance(action_space, spaces.MultiDiscrete):
        assert len(set(action_space.nvec)) == 1
    else:
        assert isinstance(action_space, spaces.Discrete) and action_space.start == 0


SHAPES = {  # task -> (a key of obs or None, its shape, the action space)
    "Pong-v5": (None, (84, 84, 1), spaces.Discrete(18)),
    "Racetrack-v0": (None, (12, 12, 2), spaces.MultiDiscrete([11])),
    "MiniGrid-MemoryS7-v0": ("image", (7, 7, 3), spaces.Discrete(7)),
    "BinPack-v2": ("action_mask", (800,), spaces.Discrete(40 * 20)),
    "JobShop-v0": ("action_mask", (10, 21), spaces.MultiDiscrete([21] * 10)),
    "RubiksCube-v0": ("cube", (6, 3, 3), spaces.Discrete(18)),
    "SearchAndRescue-v0": ("positions", (2, 2), spaces.MultiDiscrete([11] * 4)),
    "FrozenLake-v1": (None, (), spaces.Discrete(4)),
    "LunarLander-v3": (None, (8,), spaces.Discrete(4)),
}


@pytest.mark.parametrize("task", SHAPES)
def test_shapes(task):
    key, shape, action_space = SHAPES[task]
    env = envs.Envs(task, 1, seed=0)
    space = env.observation_space if key is None else env.observation_space[key]
    assert space.shape == shape
    assert env.action_space == action_space


def test_nested_names_and_bounds():
    space = envs.Envs("Maze-v0", 1, seed=0).observation_space
    assert "agent_position/row" in space.keys()
    lander = envs.Envs("LunarLander-v3", 1, seed=0).observation_space
    assert np.isneginf(lander.low).all() and np.isposinf(lander.high).all()
    assert envs.Envs("TSP-v1", 1, seed=0).observation_space["position"] == spaces.Discrete(21)


def test_joint_actions_are_unravelled_as_their_mask_is():
    """An illegal action ends Tetris at once; a legal first one never does."""
    env = envs.Envs("Tetris-v0", 64, seed=0)
    rng = np.random.default_rng(0)
    t = env.reset()
    assert (env.step(random_action(env, t.obs, rng)).discount == 1).all()
    t = env.reset()
    illegal = ~t.obs["action_mask"]
    some = illegal.any(-1)
    assert some.sum() > 10
    after = env.step(illegal.argmax(-1).astype(np.int32))
    assert (after.discount[some] == 0).all()
