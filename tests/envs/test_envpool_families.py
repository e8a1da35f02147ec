"""Every family of tasks gives what its spaces promise, and Timesteps that obey the rules."""

import numpy as np
import pytest
from environments import assert_aligned, assert_episodes, assert_in_space, make, play
from gymnasium import spaces

from rlsys import envs
from rlsys.envs.rules import random_action
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


@pytest.mark.parametrize("family, task", PAIRS)
def test_family(family, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ViZDoom leaves files where it runs
    assert envs.family(task) == family
    try:
        env = make(task, 3, seed=1, num_threads=1)
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
    env = make(task, 1, seed=0)
    space = env.observation_space if key is None else env.observation_space[key]
    assert space.shape == shape
    assert env.action_space == action_space


def test_nested_names_and_bounds():
    space = make("Maze-v0", 1, seed=0).observation_space
    assert "agent_position/row" in space.keys()
    lander = make("LunarLander-v3", 1, seed=0).observation_space
    assert np.isneginf(lander.low).all() and np.isposinf(lander.high).all()
    assert make("TSP-v1", 1, seed=0).observation_space["position"] == spaces.Discrete(21)


def test_joint_actions_are_unravelled_as_their_mask_is():
    """An illegal action ends Tetris at once; a legal first one never does."""
    env = make("Tetris-v0", 64, seed=0)
    rng = np.random.default_rng(0)
    t = env.reset()
    assert (env.step(random_action(env, t.obs, rng)).discount == 1).all()
    t = env.reset()
    illegal = ~t.obs["action_mask"]
    some = illegal.any(-1)
    assert some.sum() > 10
    after = env.step(illegal.argmax(-1).astype(np.int32))
    assert (after.discount[some] == 0).all()
