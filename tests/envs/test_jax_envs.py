"""Environments in JAX: their three interfaces, ends, seeds, one compiled call, errors."""

import jax
import numpy as np
import pytest
from environments import assert_aligned, assert_episodes, assert_refused, assert_same, make, play
from gymnasium import spaces
from jax_fakes import CALLS, ECHOES, LIMIT

from rlsys import envs
from rlsys.envs import Options
from rlsys.types import UserError

EXAMPLE = "jax/experiments.own_jax_env:Reach"
LIBRARIES = ("brax", "gymnax", "gymnax_1", "gymnax_pair", "jaxmarl")
INTERFACES = ("own", "five_values", *LIBRARIES)


def fake(name, num_envs=4, seed=0, options=Options(), *, continuous=False, **more):
    module = "jax_library_fakes" if name in LIBRARIES else "jax_fakes"
    task = envs.Task(name, f"jax/{module}:{name}", options, continuous)
    return envs.make(task, num_envs, seed, **more)


@pytest.mark.parametrize("name", INTERFACES)
def test_interfaces(name):
    """Ends come when the environment's random number says, and are cut off at its time limit."""
    limit, unit = (4, 0.5) if name == "gymnax_pair" else (LIMIT, 1)
    env = fake(name, 8)
    continuous = name == "brax"
    assert env.action_space == (
        spaces.MultiDiscrete([11, 11]) if continuous else spaces.Discrete(3)
    )
    timesteps, _ = play(env, 60)
    assert_aligned(timesteps)
    assert_episodes(timesteps, env.pop_episodes())
    age, length, numbers = np.zeros(8, int), np.zeros(8, int), set()
    ends = cuts = 0
    for t in timesteps:
        age = np.where(t.first, 0, age + 1)
        length = np.where(t.first, 3 + np.floor(8 * t.obs[:, 1]), length)
        np.testing.assert_array_equal(t.obs[:, 0], age)  # of a last observation too
        np.testing.assert_array_equal(t.reward, unit * age)
        np.testing.assert_array_equal(t.discount == 0, age == length)
        np.testing.assert_array_equal(t.truncated, (age == limit) & (age < length))
        ends, cuts = ends + (t.discount == 0).sum(), cuts + t.truncated.sum()
        numbers |= set(t.obs[:, 1].tolist())
    assert ends > 5 and cuts > 20 and len(numbers) > 60  # each episode has its own number


def test_the_options_time_limit():
    env = fake("endless", 4, 0, Options(max_episode_steps=2))
    timesteps, _ = play(env, 20)
    for i, t in enumerate(timesteps):
        assert (t.truncated == (i % 3 == 2)).all() and (t.discount == 1).all()
    env = fake("endless", 16, 0, Options(max_episode_steps=5))
    timesteps, _ = play(env, 30)
    for t in timesteps:  # on the very step of its own end it is an end
        last = t.obs[:, 0] == 3 + np.floor(8 * t.obs[:, 1])
        np.testing.assert_array_equal(t.discount == 0, last)
        np.testing.assert_array_equal(t.truncated, (t.obs[:, 0] == 5) & ~last)
    assert any(((t.discount == 0) & (t.obs[:, 0] == 5)).any() for t in timesteps)


def test_without_a_sign_of_a_time_limit_every_end_is_an_end():
    timesteps, _ = play(fake("silent"), 40)
    assert not any(t.truncated.any() for t in timesteps)
    assert any(((t.discount == 0) & (t.obs[:, 0] == LIMIT)).any() for t in timesteps)


def test_the_worked_example():
    env = make(EXAMPLE, 4, 0)
    timesteps, actions = play(env, 50)
    assert_aligned(timesteps)
    for before, action, t in zip(timesteps, actions, timesteps[1:], strict=False):
        force = env.values(action)
        moved = np.where(t.first[:, None], t.obs[:, :1], before.obs[:, :1] + 0.2 * force)
        np.testing.assert_allclose(t.obs[:, :1], moved, atol=1e-6)
        error = np.abs(t.obs[:, 0] - t.obs[:, 1])
        np.testing.assert_allclose(t.reward, np.where(t.first, 0, -error), atol=1e-6)
    assert {e.length for e in env.pop_episodes()} == {20}


@pytest.mark.parametrize("name", ECHOES)
def test_actions_and_nested_observations(name):
    env = fake(f"echo_{name}", 2)
    env.reset()
    space = ECHOES[name]
    n = {"discrete": 2, "unequal": [1, 4, 0], "binary": [0, 1, 1], "box": [0, 10]}.get(
        name, [10] * 4
    )
    told = {"discrete": 7, "unequal": [1, 4, 0], "binary": [0, 1, 1], "box": [-1, 4]}
    t = env.step(np.array([n, np.zeros_like(n)]))
    assert set(t.obs) == set(env.observation_space) == {"hand/0", "hand/1"}
    np.testing.assert_array_equal(t.obs["hand/0"][0], told.get(name, np.ones((2, 2))))
    np.testing.assert_array_equal(t.obs["hand/1"], [1, 1])
    assert t.obs["hand/1"].dtype == np.int32
    if isinstance(space, spaces.Box):
        env = fake(f"echo_{name}", 2, continuous=True)
        env.reset()
        t = env.step(np.full((2, *env.action_space.shape), 100.0))
        np.testing.assert_array_equal(t.obs["hand/0"][0], space.high)


def test_masks_of_legal_actions():
    env = fake("masked", 3)
    assert env.observation_space["action_mask"].shape == (3,)
    for t in play(env, 20)[0]:
        time = t.obs["hand/1"][:, None]
        np.testing.assert_array_equal(t.obs["action_mask"], np.arange(3) != time % 4)


def test_floats_are_shown_whatever_the_space_says():
    """gymnax's Catch says int32 and shows float32."""
    env = fake("says_integers", 3)
    assert env.observation_space == spaces.Box(0, 255, (2,), np.float32)
    for t, same in zip(play(env, 5)[0], play(fake("own", 3), 5)[0], strict=True):
        np.testing.assert_array_equal(t.obs, same.obs)


def test_a_step_is_one_compiled_call():
    """Once compiled, no Python of the environment runs, whatever ends in a step."""
    env = fake("own", 5)
    play(env, 20)
    calls, program = [], env._program
    env._program = program._replace(step=lambda *x: calls.append(1) or program.step(*x))
    traced, compiled = len(CALLS), program.step._cache_size()
    assert traced > 0 and compiled > 0
    resets = sum(env.step(np.zeros(5, np.int32)).first.sum() for _ in range(30))
    assert len(calls) == 30 and 0 < resets < 150
    assert len(CALLS) == traced and program.step._cache_size() == compiled
    assert fake("own", 5, 3)._program is program  # all actors share it


def test_no_array_goes_to_the_device_but_the_action():
    env = fake("own", 3)
    env.reset()
    env.step(np.zeros(3, np.int32))
    with jax.transfer_guard("disallow"), jax.transfer_guard_device_to_host("allow"):
        t = env.step(np.zeros(3, np.int32))
    assert isinstance(t.obs, np.ndarray)


@pytest.mark.parametrize("name", ["own", "brax"])
def test_seeds(name):
    """The same seed plays the same, and several seeds play what each does by itself."""
    actions = play(fake(name, 6), 30)[1]

    def steps(num_envs, seed, columns=slice(None)):
        env = fake(name, num_envs, seed)
        return jax.tree.map(
            lambda *xs: np.stack(xs, 1), env.reset(), *[env.step(a[columns]) for a in actions]
        )

    one, other, both = steps(6, 3), steps(6, 4), steps(6, (3, 4))
    assert_same(one, steps(6, 3))
    numbers = np.concatenate([one.obs[:, 0, 1], other.obs[:, 0, 1]])
    assert len(np.unique(numbers)) == 12
    assert_same(jax.tree.map(lambda x: x[:3], both), steps(3, 3, slice(0, 3)))
    assert_same(jax.tree.map(lambda x: x[3:], both), steps(3, 4, slice(3, 6)))
    later = fake(name, 3)
    assert (later.reset().obs[:, 1] != later.reset().obs[:, 1]).all()


@pytest.mark.parametrize("name", ["own", "gymnax", "masked"])
def test_restart_equals_a_fresh_start(name):
    env = fake(name)
    last = play(env, 30)[0][-1]
    env.pop_episodes()
    cut = env.restart(5, last)
    running = (last.discount == 1) & ~last.first
    np.testing.assert_array_equal(cut.truncated, last.truncated | running)
    fresh = fake(name, 4, 5)
    timesteps, actions = play(fresh, 30)
    assert_same([env.step(a) for a in [actions[-1], *actions]], timesteps)
    assert env.pop_episodes() == fresh.pop_episodes()


REFUSED = [
    ("jax/jax_fakes", "a task in JAX is named jax/<module>:<function>, not 'jax/jax_fakes'"),
    ("jax/", "a task in JAX is named"),
    ("jax/no_module_here:make", "there is no module 'no_module_here', which 'jax/no_module_here:"),
    ("jax/no_module_here.part:make", "there is no module 'no_module_here.part'"),
    ("jax/jax_fakes:nothing", "cannot make 'jax/jax_fakes:nothing' here: AttributeError: module"),
    ("jax/jax_fakes:raises", r"OSError: no such simulator \(jax_fakes.py, line \d+\)$"),
    (
        "jax/jax_fakes:number",
        r"'jax/jax_fakes:number': a int is no environment: it has no reset\(\)",
    ),
    (
        "jax/jax_library_fakes:several_agents",
        "the environment has 2 agents, and only one can be played",
    ),
    (
        "jax/jax_library_fakes:auto_resets",
        "starts episodes by itself: make it with auto_reset=False",
    ),
    ("jax/jax_library_fakes:outer_auto_resets", "starts episodes by itself"),
    (
        "jax/jax_fakes:wrong_raises",
        r"ZeroDivisionError: the wheel came off \(jax_fakes.py, line \d+\)$",
    ),
    ("jax/jax_fakes:wrong_state", "cannot make 'jax/jax_fakes:wrong_state' here: "),
    (
        "jax/jax_fakes:wrong_shape",
        r"shows an observation of \[2\], and its observation_space says \[3\]",
    ),
    (
        "jax/jax_fakes:wrong_category",
        "shows float32 where its observation_space says MultiDiscrete",
    ),
    ("jax/jax_fakes:wrong_reward", r"the reward of a step is \[1\], and not one number"),
    ("jax/jax_fakes:wrong_done", r"the end of a step is \[2\], and not one number"),
    ("jax/jax_fakes:own:noop_max=3", "noop_max is for Atari, and 'jax/jax_fakes:own' is of"),
    ("jax/jax_fakes:own:processes=true", "processes is for Gymnasium, and 'jax/jax_fakes:own' is"),
    ("jax/jax_fakes:own:life_loss_ends=true", "life_loss_ends is for Atari"),
    ("jax/jax_fakes:own:action_bins=3", "action_bins is for continuous actions"),
]


@pytest.mark.parametrize("words, message", REFUSED)
def test_refused(words, message):
    assert_refused(words, message)


def test_checking_a_task_imports_no_module(monkeypatch):
    """It may ask JAX for its devices, before several processes have met."""
    import sys

    monkeypatch.delitem(sys.modules, "experiments.own_jax_env", raising=False)
    envs.check_task(EXAMPLE)
    assert "experiments.own_jax_env" not in sys.modules
    assert envs.family(EXAMPLE) == "jax"


def test_render():
    env = fake("five_values", 2, 0, render=True)
    with pytest.raises(UserError, match=r"a reset\(\) before it"):
        env.render()
    play(env, 2)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == (2, 3, 3) and (picture == 2).all()
    plain = fake("own", 2, 0, render=True)
    plain.reset()
    with pytest.raises(UserError, match="'own' cannot be drawn here, and its observation is no"):
        plain.render()
