"""Envs: episode ends, restarts, seeds, options, and what is refused."""

import subprocess
import sys
import warnings

import envpool
import jax
import numpy as np
import pytest
from environments import assert_aligned, assert_episodes, assert_same, make, play

from rlsys import envs
from rlsys.envs.backend import environment_seeds, join, successes
from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.types import UserError


def test_time_limit_truncates_and_keeps_the_discount():
    env = make("CartPole-v1", 4, 0, envs.Options(max_episode_steps=5))
    timesteps, _ = play(env, 24)
    for i, t in enumerate(timesteps):
        assert (t.truncated == (i % 6 == 5)).all()
        assert (t.first == (i % 6 == 0)).all()
        assert (t.discount == 1).all()
    assert [e.length for e in env.pop_episodes()] == [5] * 16


def test_alignment_on_a_step_counter():
    """Jumanji's maze shows its own step count."""
    env = make("Maze-v0", 2, 0)
    timesteps, _ = play(env, 230)
    assert any(t.first.any() for t in timesteps[1:])
    age = np.zeros(2, int)
    for t in timesteps:
        age = np.where(t.first, 0, age + 1)
        np.testing.assert_array_equal(t.obs["step_count"], age)


def test_rewards_of_resets_are_dropped():
    """DM Control's resets have a reward of their own."""
    env = make("CartpoleBalance-v1", 2, 0, envs.Options(max_episode_steps=4))
    timesteps, _ = play(env, 20)
    assert_aligned(timesteps)
    assert all((t.reward > 0.1).all() for t in timesteps if not t.first.any())


@pytest.mark.parametrize("task", ["CartPole-v1", "MiniGrid-MemoryS7-v0", "BinPack-v2", "Pong-v5"])
def test_same_seed_same_timesteps_whatever_the_threads(task):
    options = envs.Options(flicker=0.3)
    plays = [play(make(task, 3, 7, options, num_threads=n), 60)[0] for n in (1, 3)]
    assert_same(*plays)
    other = play(make(task, 3, 8, options), 60)[0]
    with pytest.raises(AssertionError):
        assert_same(plays[0], other)


def test_neighbouring_seeds_share_no_environment():
    a, b = (make("CartPole-v1", 8, seed).reset().obs for seed in (0, 1))
    assert len(np.unique(np.concatenate([a, b]), axis=0)) == 16
    alone = make("CartPole-v1", 2, 0).reset().obs
    np.testing.assert_array_equal(alone, a[:2])  # environment i is the same in any number of them
    make("CartPole-v1", 1, 2**70).reset()


@pytest.mark.parametrize("task", ["CartPole-v1", "MiniGrid-MemoryS7-v0", "Pong-v5"])
def test_restart_equals_a_fresh_start(task):
    options = envs.Options(flicker=0.3)
    env = make(task, 3, 0, options)
    timesteps, _ = play(env, 30)
    env.pop_episodes()
    last = timesteps[-1]
    cut = env.restart(5, last)
    running = (last.discount == 1) & ~last.first
    np.testing.assert_array_equal(cut.truncated, last.truncated | running)
    assert_same(cut._replace(truncated=None), last._replace(truncated=None))

    fresh = make(task, 3, 5, options)
    expected, actions = play(fresh, 40)
    ignored = np.full_like(actions[0], 1)
    assert_same([env.step(a) for a in [ignored, *actions]], expected)
    assert env.pop_episodes() == fresh.pop_episodes()


def test_restart_leaves_firsts_and_ends_alone():
    env = make("CartPole-v1", 16, 0)
    timesteps, _ = play(env, 25)
    t = next(t for t in timesteps[1:] if t.first.any() and (t.discount == 0).any())
    cut = env.restart(0, t)
    np.testing.assert_array_equal(cut.truncated, ~t.first & (t.discount == 1))
    assert cut.truncated.any()


def test_reset_drops_running_episodes():
    env = make("CartPole-v1", 2, 0, envs.Options(max_episode_steps=5))
    env.reset()
    for _ in range(3):
        env.step(np.zeros(2, int))
    timesteps, _ = play(env, 5)
    assert_episodes(timesteps, env.pop_episodes())


def test_running_episodes_are_told_so_far():
    env = make("CartPole-v1", 2, 0, envs.Options(max_episode_steps=5))
    env.reset()
    for length in (1, 2, 3, 4, 0, 0, 1):  # an end, and a reset
        env.step(np.zeros(2, int))
        running = [envs.Episode(length, length, i, "CartPole-v1", ended=False) for i in (0, 1)]
        assert env.running_episodes() == running
    assert [e.ended for e in env.pop_episodes()] == [True, True]


def test_observations_are_not_overwritten():
    env = make("CartPole-v1", 2, 0)
    timesteps, _ = play(env, 1)
    kept, copy = timesteps[1].obs, timesteps[1].obs.copy()
    play(env, 20)
    np.testing.assert_array_equal(kept, copy)


def test_atari_starts_with_no_ops_and_sticks():
    def start(**options):
        return play(make("Breakout-v5", 2, 0, envs.Options(**options)), 20)[0]

    one, sticky = start(noop_max=1), start(noop_max=1, sticky_actions=0.9)
    np.testing.assert_array_equal(one[0].obs[0], one[0].obs[1])
    assert_same(one[0], sticky[0])
    with pytest.raises(AssertionError):
        assert_same(one, sticky)
    many = make("Freeway-v5", 2, 0).reset().obs  # seed 0 draws two numbers of no-ops
    assert (many[0] != many[1]).any()


REFUSED_OPTIONS = [
    (dict(sticky_actions=1.0), r"sticky_actions must lie in \[0, 1\), not 1.0"),
    (dict(flicker=-0.1), "flicker must lie"),
    (dict(noop_max=0), "noop_max must be 1 or more"),
    (dict(action_bins=1), "action_bins must be 2 or more"),
    (dict(max_episode_steps=0), "max_episode_steps must be 1 or more"),
    (dict(observe=(0, 0)), "observe must name entries"),
    (dict(observe=(-1,)), "observe must name entries"),
]


@pytest.mark.parametrize("options, message", REFUSED_OPTIONS)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        envs.Options(**options)


REFUSED = [
    ("Breakot-v5", {}, "unknown task 'Breakot-v5'; did you mean 'Breakout-v5'"),
    ("breakout", {}, "did you mean 'Breakout-v5'"),
    ("IntersectionMultiAgent-v1", {}, "'IntersectionMultiAgent-v1' has 2 players"),
    ("IntersectionMultiAgent-v0", {}, "has 2 players"),
    ("LqrLqr21-v1", {}, "range over -1e[+]10 to 1e[+]10"),
    ("CartPole-v1", dict(sticky_actions=0.25), "sticky_actions is for Atari, and 'CartPole-v1'"),
    ("CartPole-v1", dict(noop_max=1), "noop_max is for Atari"),
    ("CartPole-v1", dict(life_loss_ends=True), "life_loss_ends is for Atari"),
    ("CartPole-v1", dict(action_bins=7), "action_bins is for continuous actions"),
    ("CartPole-v1", dict(observe=(0, 4)), "has 4 entries, counted from 0"),
    ("Pong-v5", dict(observe=(0,)), "observe needs one flat vector"),
    ("MiniGrid-MemoryS7-v0", dict(observe=(0,)), "observe needs one flat vector"),
    ("FrozenLake-v1", dict(flicker=0.5), "flicker and only_first need an array to blank"),
    ("Catch-v0", dict(max_episode_steps=3), "does not heed max_episode_steps in 'Catch-v0'"),
    ("Highway-v0", dict(max_episode_steps=3), "does not heed max_episode_steps"),
]


@pytest.mark.parametrize("task, options, message", REFUSED)
def test_refused(task, options, message):
    with pytest.raises(UserError, match=message) as info:
        make(task, 1, 0, envs.Options(**options))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("function", ["make", "make_spec"])
def test_what_envpool_cannot_make(monkeypatch, function):
    """EnvPool's own reason, whatever it raises, comes as one sentence."""

    def failing(*_, **__):
        raise RuntimeError("failed to open\n  the database")

    import envpool  # loaded here alone, as in rlsys.envs.tasks

    monkeypatch.setattr(envpool, function, failing)
    message = "EnvPool cannot make 'CartPole-v1' here: failed to open the database$"
    with pytest.raises(UserError, match=message):
        envs.make(envs.read_tasks("CartPole-v1", envs.Options())[0], 1, 0)


def test_check_task():
    envs.check_task("Pong-v5")
    for task in ("Breakot-v5", "SparrowMahjong-v1"):
        with pytest.raises(UserError, match=task):
            envs.check_task(task)


def test_sizes_and_seeds_out_of_range():
    for arguments in ((0, 0), (1, -1)):
        with pytest.raises(UserError, match="must be"):
            make("CartPole-v1", *arguments)


@pytest.mark.parametrize(
    "task, action, message",
    [
        ("CartPole-v1", np.zeros(2, int), r"is int \[3\], not int64 \[2\]"),
        ("CartPole-v1", np.zeros((3, 1), int), r"is int \[3\]"),
        ("CartPole-v1", np.zeros(3), "not float64"),
        ("CartPole-v1", np.array([0, 2, 1]), "lies in 0 to 1, not 2"),
        ("CartPole-v1", np.array([0, -1, 1]), "lies in 0 to 1, not -1"),
        ("Pendulum-v1", np.zeros(3, int), r"is int \[3, 1\]"),
        ("Pendulum-v1", np.full((3, 1), 11), "lies in 0 to 10, not 11"),
    ],
)
def test_wrong_actions_never_reach_envpool(task, action, message):
    env = make(task, 3, 0)
    env.reset()
    with pytest.raises(UserError, match=message):
        env.step(action)


@pytest.mark.parametrize(
    "task, shape", [("CartPole-v1", (400, 600, 3)), ("Pong-v5", (210, 160, 3))]
)
def test_render(task, shape):
    env = make(task, 2, 0, render=True)
    env.reset()
    picture = env.render()
    assert picture.shape == shape and picture.dtype == np.uint8 and picture.std() > 0


def test_render_falls_back_on_the_observation():
    env = make("Catch-v0", 2, 0, render=True)
    obs = env.reset().obs
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == (330, 165, 3)
    np.testing.assert_array_equal(picture[16::33, 16::33, 0], obs[0] * 255)


def test_render_refuses():
    env = make("CartPole-v1", 1, 0)
    env.reset()
    with pytest.raises(UserError, match="render=True"):
        env.render()
    lake = make("FrozenLake-v1", 1, 0, render=True)
    with pytest.raises(UserError, match=r"a reset\(\) before it"):
        lake.render()
    lake.reset()
    with pytest.raises(UserError, match="'FrozenLake-v1' cannot be drawn here"):
        lake.render()


@pytest.mark.slow
def test_mujoco_renders_or_says_that_it_cannot():
    env = make("Hopper-v5", 1, 0, render=True)
    env.reset()
    try:
        assert env.render().shape[-1] == 3
    except UserError as error:
        assert "cannot be drawn here" in str(error)


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(make("Hopper-v5", 1, 0), 3)
        play(make("CartpoleSwingup-v1", 1, 0), 3)


def test_nothing_is_printed():
    task = "envs.read_tasks('Hopper-v5', envs.Options())[0]"
    code = f"from rlsys import envs; envs.make({task}, 1, 0).reset()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_envpool_is_imported_with_the_first_task():
    """To register its families takes it longer than all other imports."""
    code = "import sys, rlsys.train; assert 'envpool' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "told, expected",
    [
        ({"success_count": [0, 3], "success": [0, 1]}, [0, 3]),  # a new goal after each
        ({"is_success": [True, False]}, [1, 0]),
        ({"success": [0.0, 1.0], "grasp_success": [1.0, 1.0]}, [0, 1]),
        ({"steps_since_last_success": [4, 5]}, None),
        ({"success": ["near", None]}, None),
    ],
)
def test_successes_are_read_from_what_a_task_tells(told, expected):
    found = successes({name: np.array(x) for name, x in told.items()})
    assert found is None if expected is None else found.tolist() == expected


@pytest.mark.parametrize("name, told", [("FetchReachDense-v4", "is_success"), ("CartPole-v1", "")])
def test_an_episode_ends_with_the_successes_of_its_last_step(name, told):
    seeds, limit = environment_seeds(48, 5), envs.Options(max_episode_steps=12)
    pool = envpool.make_gymnasium(name, num_envs=48, seed=seeds, max_episode_steps=12)
    env = EnvPoolEnvs(envs.Task(name, name, limit), 48, 5)
    rng, reached, found = np.random.default_rng(0), [], []
    pool.reset()
    env.reset()
    for _ in range(39):
        action = rng.uniform(-1, 1, (48, 4)).astype(np.float32) if told else rng.integers(0, 2, 48)
        *_, terminated, truncated, info = pool.step(action.astype(float) if told else action)
        ended = np.flatnonzero(terminated | truncated)
        reached += [(i, float(info[told][i]) if told else None) for i in ended]
        env.step(action)
        found += [(e.env, e.successes) for e in env.pop_episodes()]
    assert found == reached
    assert {x for _, x in found} == ({0.0, 1.0} if told else {None})


def test_several_are_received_together_as_each_alone():
    """Their arrays are joined before they are named, which EnvPool's own recv() does not do."""
    task = envs.Task("FetchReachDense-v4", "FetchReachDense-v4", envs.Options())
    several, alone = ([EnvPoolEnvs(task, n, n) for n in (2, 3)] for _ in range(2))
    rng = np.random.default_rng(0)
    for one in (*several, *alone):
        one.reset()
    for _ in range(60):
        action = rng.uniform(-1, 1, (5, 4)).astype(np.float32)
        for group in (several, alone):
            group[0].send(action[:2])
            group[1].send(action[2:])
        found = EnvPoolEnvs.receive_together(several)
        expected = join([one.receive() for one in alone])
        jax.tree.map(np.testing.assert_array_equal, found, expected)
