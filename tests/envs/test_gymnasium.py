"""Gymnasium's environments: ends, seeds, errors, processes and pictures."""

import jax
import numpy as np
import pytest
from environments import assert_aligned, assert_episodes, assert_refused, assert_same, make, play
from gymnasium_fakes import FAKES, fake

from rlsys.envs import Options
from rlsys.types import UserError

ENDS = [  # name, options, whether it is cut off
    ("ClockEnds", {}, False),
    ("ClockIsCut", {}, True),
    ("ClockLimit", {}, True),
    ("Clock", dict(max_episode_steps=3), True),
    ("ClockLimit", dict(max_episode_steps=2), True),
    ("ClockEndsAndIsCut", {}, False),
    ("ClockEndsAtLimit", {}, False),
]


@pytest.mark.parametrize("name, options, truncated", ENDS)
def test_ends_and_time_limits(name, options, truncated):
    """Each end shows its own last observation; a reset takes a step and earns nothing."""
    length = options.get("max_episode_steps", 3)
    env = fake(name, options=Options(**options))
    timesteps, _ = play(env, 22)
    assert_aligned(timesteps)
    for i, t in enumerate(timesteps):
        episode, time = divmod(i, length + 1)
        np.testing.assert_array_equal(t.obs, [[episode, time]] * 2)
        assert (t.reward == time).all() and (t.first == (time == 0)).all()
        assert (t.truncated == (truncated and time == length)).all()
        assert (t.discount == (truncated or time < length)).all()
    episodes = env.pop_episodes()
    assert_episodes(timesteps, episodes)
    assert len(episodes) > 8 and {e.task for e in episodes} == {name}


def test_the_environments_end_on_their_own():
    env = fake("ActDiscrete", 8)
    timesteps, _ = play(env, 200)
    assert_aligned(timesteps)
    assert_episodes(timesteps, env.pop_episodes())
    assert any(0 < t.first.sum() < 8 for t in timesteps)


def test_seeds():
    """The same seed plays the same, and several seeds play what each does by itself."""
    actions = play(fake("ActDiscrete", 6), 30)[1]

    def steps(num_envs, seed, columns=slice(None)):
        env = fake("ActDiscrete", num_envs, seed)
        return jax.tree.map(
            lambda *xs: np.stack(xs, 1), env.reset(), *[env.step(a[columns]) for a in actions]
        )

    one, other, both = steps(6, 3), steps(6, 4), steps(6, (3, 4))
    assert_same(one, steps(6, 3))
    assert len(np.unique(np.concatenate([one.obs[:, 0], other.obs[:, 0]]), axis=0)) == 12
    assert_same(jax.tree.map(lambda x: x[:3], both), steps(3, 3, slice(0, 3)))
    assert_same(jax.tree.map(lambda x: x[3:], both), steps(3, 4, slice(3, 6)))


def test_a_later_reset_goes_on_with_other_episodes():
    env = fake("ActDiscrete", 3)
    a, b = env.reset().obs, env.reset().obs
    assert (a != b).any(-1).all()


@pytest.mark.parametrize("name", ["ActDiscrete", "SeeNested", "ClockLimit"])
def test_restart_equals_a_fresh_start(name):
    env = fake(name, 4)
    last = play(env, 30)[0][-1]
    env.pop_episodes()
    cut = env.restart(5, last)
    np.testing.assert_array_equal(
        cut.truncated, last.truncated | (last.discount == 1) & ~last.first
    )
    assert_same(cut._replace(truncated=last.truncated), last)
    fresh = fake(name, 4, 5)
    timesteps, actions = play(fresh, 30)
    assert_same([env.step(a) for a in [actions[-1], *actions]], timesteps)
    assert env.pop_episodes() == fresh.pop_episodes()


REFUSED = [
    ("gymnasium/CartPol-v1", "Gymnasium cannot make 'gymnasium/CartPol-v1' here: .*Did you mean"),
    ("gymnasium/CartPole-v9", "cannot make 'gymnasium/CartPole-v9' here: "),
    ("gymnasium/", "cannot make 'gymnasium/' here: "),
    (
        "gymnasium/no_module_here:A-v0",
        "here: ModuleNotFoundError: No module named 'no_module_here'$",
    ),
    ("gymnasium/gymnasium_fakes:Clok-v0", "here: .*Clok"),
    (f"{FAKES}Failing_init-v0", r"OSError: no such simulator \(gymnasium_fakes.py, line \d+\)$"),
    (f"{FAKES}RefusedText-v0", "an observation of '.*' is a Text, and not an array of numbers"),
    (f"{FAKES}RefusedComplex-v0", "an observation of '.*' is a Sequence"),
    (f"{FAKES}RefusedTwice-v0", "two observations of '.*' are called 'a/b'"),
    (f"{FAKES}RefusedActDict-v0", "actions of '.*' are a Dict; Discrete, MultiDiscrete, "),
    (f"{FAKES}RefusedActInts-v0", "actions of '.*' are a Box of int32; Discrete"),
    (f"{FAKES}RefusedUnbounded-v0", "actions of '.*' range over -inf to inf"),
    (f"{FAKES}MaskedWrong-v0", r"'action_mask' of '.*' is \[4\], which does not fit its actions"),
    (f"{FAKES}MaskedBox-v0", r"'action_mask' of '.*' is \[2\], which does not fit its actions"),
    (
        "gymnasium/CartPole-v1:noop_max=3",
        "noop_max is for Atari, and 'gymnasium/CartPole-v1' is of",
    ),
    ("gymnasium/CartPole-v1:life_loss_ends=true", "life_loss_ends is for Atari"),
    ("gymnasium/CartPole-v1:action_bins=3", "action_bins is for continuous actions"),
    ("gymnasium/CartPole-v1:observe=0,4", "has 4 entries, counted from 0"),
    ("CartPole-v1:processes=true", "processes is for Gymnasium, and 'CartPole-v1' is of"),
]


@pytest.mark.parametrize("words, message", REFUSED)
def test_refused(words, message):
    assert_refused(words, message)


def test_seeds_must_share_the_environments_evenly():
    with pytest.raises(UserError, match="2 seeds cannot share 3 environments evenly"):
        fake("Clock", 3, (0, 1))


@pytest.mark.filterwarnings("ignore::UserWarning")  # what a process raised is printed in whole
@pytest.mark.parametrize(
    "where, processes, message",
    [
        ("reset", False, r"ValueError: nothing to reset \(gymnasium_fakes.py, line \d+\)$"),
        ("step", False, r"ZeroDivisionError: the wheel came off \(gymnasium_fakes.py, line \d+\)$"),
        ("step", True, "ZeroDivisionError: the wheel came off$"),
    ],
)
def test_an_environment_that_raises(where, processes, message):
    env = fake(f"Failing_{where}", 2, 0, Options(processes=processes))
    with pytest.raises(UserError, match=f"'Failing_{where}' failed in {where}: {message}"):
        play(env, 5)
    env.close()


def test_processes_play_the_same():
    """Ends and seeds too; what is drawn stays in this process."""
    options = Options(processes=True, max_episode_steps=7)
    one = fake("SeeNested", 2, 3, options, continuous=True)
    assert [p.is_alive() for p in one._vector.processes] == [True, True]
    same = fake("SeeNested", 2, 3, Options(max_episode_steps=7), continuous=True)
    a, b = play(one, 60)[0], play(same, 60)[0]
    assert_same(a, b)
    assert any(t.truncated.any() for t in a)
    assert one.pop_episodes() == same.pop_episodes() != []
    processes = one._vector.processes
    one.close()
    assert not any(p.is_alive() for p in processes)
    with pytest.raises(UserError, match="would start 257 processes at once"):
        fake("Clock", 257, 0, options)


def test_render():
    env = fake("Clock", 2, 0, render=True)
    with pytest.raises(UserError, match=r"a reset\(\) before it"):
        env.render()
    play(env, 5)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == (2, 3, 3) and (picture == 5).all()
    assert make("gymnasium/CartPole-v1", 1, 0, render=False).reset().obs.shape == (1, 4)
    plain = fake("Clock")
    plain.reset()
    with pytest.raises(UserError, match="render=True"):
        plain.render()


def test_render_falls_back_on_the_observation():
    env = fake("SeeImage", 2, 0, render=True)
    obs = env.reset().obs
    np.testing.assert_array_equal(env.render()[::42, ::42], obs[0])
    vector = fake("SeeBox", 2, 0, render=True)
    vector.reset()
    with pytest.raises(UserError, match="'SeeBox' cannot be drawn here, and its observation is no"):
        vector.render()
