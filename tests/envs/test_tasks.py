"""Several tasks in one run: how they are named, and what they must have in common."""

import inspect

import numpy as np
import pytest
from environments import assert_aligned, assert_in_space, make, play
from gymnasium import spaces

from rlsys import envs
from rlsys.envs import Options
from rlsys.envs.tasks import list_tasks
from rlsys.types import UserError


def test_a_plain_id_is_one_task():
    options = Options(clip_rewards=True)
    assert envs.read_tasks("Catch-v0", options) == [envs.Task("Catch-v0", "Catch-v0", options)]


def test_a_name_tells_the_options_that_make_another_task():
    def names(env, **options):
        return [task.name for task in envs.read_tasks(env, Options(**options))]

    assert names("CartPole-v1", observe=(0, 2)) == ["CartPole-v1:observe=0,2"]
    assert names("CartPole-v1:observe=0, 2") == ["CartPole-v1:observe=0,2"]
    assert names("CartPole-v1:observe=", observe=(0, 2)) == ["CartPole-v1"]
    assert names("Pong-v5", sticky_actions=0.25, life_loss_ends=True, reward_scale=2.0) == [
        "Pong-v5:sticky_actions=0.25"
    ]
    assert names("Catch-v0,Catch-v0:reward-scale=1e-2", only_first=True) == [
        "Catch-v0:only_first=true",
        "Catch-v0:reward_scale=0.01:only_first=true",
    ]
    with pytest.raises(UserError, match="task 'Catch-v0:permute=1' is named twice"):
        names("Catch-v0,Catch-v0:permute=1", permute=1)


def test_a_name_reads_as_the_task_that_it_names():
    options = Options(observe=(2, 0), max_episode_steps=20, flicker=0.125, only_first=True)
    (task,) = envs.read_tasks("CartPole-v1:permute=3:reward_scale=0.5", options)
    assert envs.read_tasks(task.name, Options()) == [task]


def test_words_replace_options():
    options = Options(clip_rewards=True, noop_max=7)
    env = (
        "Pong-v5, Pong-v5:clip-rewards=False:noop_max=1,"
        "CartPole-v1:observe=0,2:reward-scale=1e-2:max_episode_steps=none,"
        "CartPole-v1:observe=0, 1:permute=3:max_episode_steps=20"
    )
    found = envs.read_tasks(env, options)
    assert [t.name for t in found] == [
        "Pong-v5:noop_max=7",
        "Pong-v5:noop_max=1:clip_rewards=false",
        "CartPole-v1:noop_max=7:reward_scale=0.01:observe=0,2",
        "CartPole-v1:noop_max=7:max_episode_steps=20:observe=0,1:permute=3",
    ]
    assert [t.env_id for t in found] == ["Pong-v5"] * 2 + ["CartPole-v1"] * 2
    assert [t.options for t in found] == [
        options,
        Options(noop_max=1),
        Options(clip_rewards=True, noop_max=7, observe=(0, 2), reward_scale=0.01),
        Options(clip_rewards=True, noop_max=7, observe=(0, 1), permute=3, max_episode_steps=20),
    ]


@pytest.mark.parametrize(
    "env, message",
    [
        ("Catch-v0,Catsh-v0", "unknown task 'Catsh-v0'; did you mean 'Catch-v0'"),
        ("PongNoFrameskip-v4", "did you mean 'Pong-v5'[?]"),
        ("Pong-ramDeterministic-v4", "did you mean 'Pong-v5'[?]"),
        ("ALE/MsPacman-v5", "did you mean 'MsPacman-v5'[?]"),
        ("CartPole", "did you mean 'CartPole-v1', 'CartPole-v0'"),
        ("LunarLander-v9", "did you mean 'LunarLander-v3'"),
        ("cheetah_run", "did you mean 'CheetahRun-v1'"),
        ("Catch-v0,", "unknown task ''"),
        ("", "unknown task ''"),
        ("Catch-v0,SparrowMahjong-v1:permute=1", "'SparrowMahjong-v1' has 3 players"),
        ("Catch-v0,Catch-v0", "task 'Catch-v0' is named twice"),
        ("Catch-v0:permut=1", "task 'Catch-v0:permut=1': there is no option 'permut'; .*: permute"),
        ("Catch-v0:x", "there is no option 'x'"),
        ("Catch-v0:", "there is no option ''"),
        ("Catch-v0:permute", "permute must be a whole number, not ''"),
        ("Catch-v0:permute=1.5", "permute must be a whole number, not '1.5'"),
        ("Catch-v0:permute=-1", "permute must be 0 or more, and below 2.31, not -1"),
        ("Catch-v0:reward_scale=big", "reward_scale must be a number, not 'big'"),
        ("Catch-v0:reward_scale=nan", "reward_scale must be positive, not nan"),
        ("Catch-v0:reward_scale=0", "reward_scale must be positive, not 0"),
        ("Catch-v0:clip-rewards=yes", "clip_rewards must be true or false, not 'yes'"),
        ("Catch-v0:observe=0,x", "unknown task 'x'"),
        ("CartPole-v1:observe=x", "observe must be numbers such as 0,2, not 'x'"),
    ],
)
def test_refused(env, message):
    with pytest.raises(UserError, match=message) as info:
        envs.read_tasks(env, Options())
    assert "\n" not in str(info.value)


def test_episodes_bear_the_tasks_name():
    for name in (None, "Catch-v0:permute=1"):
        env = make("Catch-v0", 2, 0, name=name)
        play(env, 12)
        assert {e.task for e in env.pop_episodes()} == {env.name} == {name or "Catch-v0"}


def test_reward_scale_is_the_learners_alone():
    options = dict(clip_rewards=True)
    scaled = make("Taxi-v3", 4, 0, Options(reward_scale=0.5, **options))
    plain = make("Taxi-v3", 4, 0, Options(**options))
    a, b = play(scaled, 210)[0], play(plain, 210)[0]
    assert min(t.reward.min() for t in a) == -0.5  # scaled after clipping
    assert_aligned(a)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.reward, 0.5 * y.reward)
    episodes = scaled.pop_episodes()
    assert episodes == plain.pop_episodes() and min(e.episode_return for e in episodes) < -200


@pytest.mark.parametrize("task", ["Catch-v0", "CartPole-v1", "Pong-v5"])
def test_permute_shows_the_same_in_another_order(task):
    pools = [make(task, 3, 0, Options(permute=p)) for p in (0, 1, 1, 2)]
    plain, one, again, two = (play(pool, 20)[0] for pool in pools)
    shape = pools[0].observation_space.shape
    rng = np.random.default_rng(1)
    order = rng.permutation(np.prod(shape))
    if task == "CartPole-v1":
        assert (order == np.arange(4)).all()  # which would be no other order
        order = rng.permutation(4)
    for p, a, b, c in zip(plain, one, again, two, strict=True):
        assert_in_space(pools[1].observation_space, a.obs, 3)
        np.testing.assert_array_equal(a.obs, p.obs.reshape(3, -1)[:, order].reshape(3, *shape))
        np.testing.assert_array_equal(a.obs, b.obs)
        np.testing.assert_array_equal(a.reward, p.reward)
        for x in (a, c):
            np.testing.assert_array_equal(np.sort(x.obs, axis=None), np.sort(p.obs, axis=None))
    assert any((a.obs != c.obs).any() for a, c in zip(one, two, strict=True))


def test_permute_comes_after_observe():
    part = make("CartPole-v1", 3, 0, Options(observe=(0, 1, 3)))
    mixed = make("CartPole-v1", 3, 0, Options(observe=(0, 1, 3), permute=2))
    order = np.random.default_rng(2).permutation(3)
    np.testing.assert_array_equal(mixed.reset().obs, part.reset().obs[:, order])
    high = part.observation_space.high
    assert len(set(high)) > 1
    np.testing.assert_array_equal(mixed.observation_space.high, high[order])


@pytest.mark.parametrize("task", ["FrozenLake-v1", "MiniGrid-MemoryS7-v0"])
def test_permute_needs_one_array(task):
    with pytest.raises(UserError, match=f"permute needs one array, and '{task}' shows something"):
        make(task, 1, 0, Options(permute=1))


def test_minimal_actions():
    minimal = make("Pong-v5", 2, 0, Options(minimal_actions=True))
    assert minimal.action_space == spaces.Discrete(6)
    minimal.reset()
    minimal.step(np.array([0, 5]))
    with pytest.raises(UserError, match="lies in 0 to 5, not 6"):
        minimal.step(np.array([0, 6]))
    with pytest.raises(UserError, match="minimal_actions is for Atari, and 'CartPole-v1'"):
        make("CartPole-v1", 1, 0, Options(minimal_actions=True))


def make_all(*names, **options):
    return [envs.make(t, 1, 0) for t in envs.read_tasks(",".join(names), Options(**options))]


def test_shared_spaces_of_one_task():
    (one,) = make_all("MiniGrid-MemoryS7-v0")
    assert envs.shared_spaces([one, one]) == (one.observation_space, one.action_space)


def test_shared_spaces_hold_every_task():
    pools = make_all("CartPole-v1", "CartPole-v1:permute=3", "CartPole-v1:permute=5")
    observation_space, action_space = envs.shared_spaces(pools)
    assert action_space == spaces.Discrete(2)
    assert observation_space.dtype == np.float32
    for pool in pools:
        assert (pool.observation_space.high <= observation_space.high).all()
        assert (pool.observation_space.low >= observation_space.low).all()
    highest = np.max([pool.observation_space.high for pool in pools], axis=0)
    np.testing.assert_array_equal(observation_space.high, highest)
    assert not np.array_equal(highest, pools[0].observation_space.high)

    lakes = make_all("FrozenLake8x8-v1", "FrozenLake-v1")
    for pools in (lakes, lakes[::-1]):
        assert envs.shared_spaces(pools)[0] == spaces.Discrete(64)
    grids = make_all("MiniGrid-Empty-5x5-v0", "MiniGrid-MemoryS7-v0")
    space, _ = envs.shared_spaces(grids)
    assert set(space) == set(grids[0].observation_space)


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ("Pong-v5", "CartPole-v1"),
            r"'Pong-v5' and 'CartPole-v1': observations are uint8 \[84, 84, 1\] against float32",
        ),
        (
            ("Pong-v5:minimal_actions=true", "Breakout-v5:minimal_actions=true"),
            "'Breakout-v5:minimal_actions=true': 6 actions against 4 actions",
        ),
        (
            ("CartPole-v1", "CartPole-v1:observe=0,2"),
            r"'CartPole-v1:observe=0,2': observations are float32 \[4\] against float32 \[2\]",
        ),
        (
            ("FrozenLake-v1", "CliffWalking-v1", "LunarLander-v3"),
            "'FrozenLake-v1' and 'LunarLander-v3': observations are one category against float32",
        ),
        (
            ("Pendulum-v1", "Pendulum-v1:action_bins=3"),
            "actions of 1 dimensions with 11 values each against actions of 1 dimensions with 3",
        ),
        (
            ("Maze-v0", "FrozenLake-v1"),
            "the arrays action_mask, .* against one category",
        ),
    ],
)
def test_what_tasks_must_share(names, message):
    with pytest.raises(UserError, match=f"one agent cannot play both .*{message}") as info:
        envs.shared_spaces(make_all(*names))
    assert "\n" not in str(info.value)


def test_parts_of_observations_must_be_alike():
    a, b = make_all("Maze-v0", "FrozenLake-v1")
    b.action_space = a.action_space
    parts = dict(a.observation_space)
    b.observation_space = spaces.Dict(parts | {"walls": spaces.Box(0, 1, (3, 3), np.float32)})
    with pytest.raises(
        UserError, match=r"observations 'walls' are int8 .* against float32 \[3, 3\]"
    ):
        envs.shared_spaces([a, b])


def test_every_game_of_atari_has_the_18_actions():
    """Skiing knows 9 of them: with the others it does nothing."""
    skiing = make("Skiing-v5", 2, 0)
    assert skiing.action_space == spaces.Discrete(18)
    assert make("Skiing-v5", 1, 0, Options(minimal_actions=True)).action_space.n == 3
    played = []
    for action in (0, 17):
        pool = make("Skiing-v5", 1, 0)
        pool.reset()
        played.append(np.stack([pool.step(np.array([action])).obs for _ in range(20)]))
    np.testing.assert_array_equal(*played)


def test_the_families_and_their_tasks_are_listed():
    lines = list_tasks()
    assert any(line.split()[:2] == ["atari", str(len(list_tasks("atari")))] for line in lines)
    assert {"Pong-v5", "Breakout-v5"} <= set(list_tasks("atari"))
    assert all(envs.family(task) == "toy_text" for task in list_tasks("toy_text"))
    with pytest.raises(UserError, match="there is no family 'Atary'; the nearest: atari"):
        list_tasks("Atary")


def test_the_module_of_tasks_is_not_hidden():
    assert inspect.ismodule(envs.tasks)
