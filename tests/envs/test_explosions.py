"""Draws of physics with which a simulation explodes: set aside, never shown, and evaluated."""

import numpy as np
import pytest
from environments import assert_aligned
from test_physics_groups import make, play

from rlsys.acting.playing import EvalPolicy
from rlsys.acting.playing import play as play_episodes
from rlsys.types import UserError


def test_what_explodes_is_set_aside_and_never_shown():
    task = "gymnasium/randomise_fakes:explodes"
    env = make(task, 16, words=("mass=uniform:0:1",), variants=16, redraw_steps=24)
    timesteps, _ = play(env, 150)
    for t in timesteps:
        assert np.isfinite(t.obs).all() and np.isfinite(t.reward).all()
    draws = env.pop_draws()
    bad = [x for x in draws if x.refused]
    assert all("finite" in x.refused for x in bad) and all(x.values["mass"] > 0.9 for x in bad)
    late = [x for x in bad if x.values["mass"] <= 0.95]
    assert late and len(late) < len(bad), "the seed has none of one kind"
    assert_aligned(timesteps)
    # A row that exploded shows again what it showed before, truncated, and is then reset.
    shown = 0
    for before, now, after in zip(timesteps, timesteps[1:], timesteps[2:], strict=False):
        for i in np.flatnonzero(now.truncated & (now.obs[:, 0] > 0.9) & ~before.first):
            np.testing.assert_array_equal(before.obs[i], now.obs[i])
            assert now.reward[i] == 0 and after.first[i]
            shown += 1
    assert shown
    assert env.running_episodes()[0].length >= 0


@pytest.mark.filterwarnings("error")
def test_mujoco_does_not_hide_an_explosion():
    """MuJoCo would put the robot back at rest in mid-episode."""
    env = make("HalfCheetah-v5", words=("gear=scale:30:30",), variants=2)
    rng = np.random.default_rng(0)
    timesteps = [env.reset(), *(env.step(rng.integers(0, 11, (8, 6))) for _ in range(120))]
    assert any(x.refused for x in env.pop_draws())
    assert all(np.isfinite(t.obs).all() for t in timesteps)
    assert_aligned(timesteps)


def test_an_evaluation_counts_an_episode_that_explodes_and_no_other_in_its_place():
    """Where mass is above 0.9, what it shows is NaN after 2 steps; else an episode has 100."""
    task, words = "gymnasium/randomise_fakes:explodes", ("mass=uniform:0.85:0.95",)
    env, action = make(task, 16, words=words, variants=16), np.zeros(16, int)
    player = EvalPolicy(env, lambda params, t, state, key: (action, (), state, key), (), 0)
    episodes = play_episodes(player, None, 16)
    assert sorted(e.env for e in episodes) == list(range(16))
    assert {(e.length, e.ended) for e in episodes} == {(100, True), (2, False)}
    mass = {x.group: x.values["mass"] for x in env.pop_draws() if x.number == 0}
    assert all(e.ended == (mass[e.env] <= 0.9) for e in episodes)
    assert all(e.episode_return > 0 for e in episodes)


def test_if_all_explode_it_says_so():
    env = make("gymnasium/randomise_fakes:explodes_on_its_own", words=("mass=uniform:0:1",))
    with pytest.raises(UserError, match=r"20 draws .* in a row explode at once"):
        env.reset()
