"""Groups of environments with physics of their own: rows, seeds, redraws, and draws set aside."""

import jax
import numpy as np
import pytest
import randomise_fakes
from environments import assert_aligned, assert_same

from rlsys import envs
from rlsys.envs.randomise import Randomise
from rlsys.envs.randomise.model import Refused
from rlsys.envs.randomise.physics import XmlPhysics
from rlsys.types import UserError

WORDS = ("mass=scale:0.5:1.5", "gear=logscale:0.4:2")
TASK = "InvertedDoublePendulum-v5"
FAKE = "gymnasium/randomise_fakes:make"


def make(task=TASK, num_envs=8, seed=1, words=WORDS, variants=4, redraw_steps=0, **more):
    given = Randomise(physics=words, variants=variants, redraw_steps=redraw_steps)
    found = envs.Task(task, task, envs.Options(), task == TASK, given)
    return envs.make(found, num_envs, seed, **more)


def actions(env, steps, seed=0):
    rng = np.random.default_rng(seed)
    shape = (steps, env.num_envs, *env.action_space.shape)
    if env.action_space.dtype == np.int64:
        return rng.integers(0, 2, shape)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def play(env, steps, seed=0):
    timesteps, drawn = [env.reset()], [env.drawn]
    for action in actions(env, steps, seed):
        timesteps.append(env.step(action))
        drawn.append(env.drawn)
    return timesteps, drawn


def test_same_seed_same_rollouts_and_other_seeds_others():
    a, b, other = make(), make(), make(seed=2)
    first, second = play(a, 40), play(b, 40)
    assert_same(first, second)
    assert a.pop_draws() == b.pop_draws()
    assert a.pop_episodes() == b.pop_episodes() != []
    assert not np.array_equal(first[0][5].obs, play(other, 5)[0][5].obs)
    assert not np.array_equal(a.drawn, other.drawn)


def test_rows_of_a_group_share_a_draw_and_groups_differ():
    env = make()
    timesteps, _ = play(env, 60)
    assert_aligned(timesteps)
    assert env.drawn.shape == (8, len(env.drawn_names)) and env.drawn.dtype == np.float32
    assert env.drawn_names == ("mass@cart", "mass@pole", "mass@pole2", "gear@slide")
    assert (abs(env.drawn) <= 1).all()
    assert len(np.unique(env.drawn[:, 0])) == 4
    np.testing.assert_array_equal(env.drawn[::2], env.drawn[1::2])
    ended = [(int(i), t) for t, x in enumerate(timesteps) for i in np.flatnonzero(x.discount == 0)]
    episodes = env.pop_episodes()
    assert sorted(i for i, _ in ended) == sorted(x.env for x in episodes)
    assert {x.env for x in episodes} == set(range(8))
    for row in range(8):
        episode = next(x for x in episodes if x.env == row)  # the row's first
        mine = [t for i, t in ended if i == episode.env]
        rewards = [float(timesteps[t].reward[episode.env]) for t in range(1, mine[0] + 1)]
        assert episode.length == mine[0] and episode.episode_return == pytest.approx(sum(rewards))


def test_drawn_is_what_the_draw_says():
    env = make(words=("gear=scale:1:3",))
    env.reset()
    values = [x.values["gear@slide"] for x in env.pop_draws()]
    assert [x.values["gear@slide"] for x in env.pop_draws()] == []
    np.testing.assert_allclose(env.drawn[::2, 0], np.array(values) - 2, rtol=1e-6)


def test_each_of_several_seeds_plays_as_alone():
    both = play(make(seed=[3, 4]), 30)[0]
    alone = play_rows(make(num_envs=4, seed=4), 30, slice(4, 8))
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_array_equal(a.obs[4:], b.obs)


def play_rows(env, steps, rows):
    wide = np.random.default_rng(0).uniform(-1, 1, (steps, 8, 1)).astype(np.float32)
    return [env.reset(), *(env.step(action[rows]) for action in wide)]


def test_a_redraw_replaces_one_group_and_leaves_the_others_to_the_bit():
    fixed, drawn_of_fixed = play(make(), 60)
    timesteps, drawn = play(make(redraw_steps=40), 60)
    # Groups are due after 10, 20, 30 and 40 steps, and after 40 more: only group 0 within 60 twice.
    due = {0: [10, 50], 1: [20, 60], 2: [30], 3: [40]}
    for group, steps in due.items():
        rows, first = slice(2 * group, 2 * group + 2), steps[0]
        for t in range(first):
            np.testing.assert_array_equal(timesteps[t].obs[rows], fixed[t].obs[rows])
            np.testing.assert_array_equal(timesteps[t].truncated[rows], fixed[t].truncated[rows])
        for t in steps:
            if t == 60:
                continue
            now, after = timesteps[t], timesteps[t + 1]
            ended = (now.discount[rows] == 0) | now.first[rows]
            np.testing.assert_array_equal(now.truncated[rows], ~ended)
            assert after.first[rows].all() and (after.reward[rows] == 0).all()
            np.testing.assert_array_equal(drawn[t][rows], drawn[t - 1][rows])
            assert (drawn[t + 1][rows] != drawn[t][rows]).all()
        np.testing.assert_array_equal(drawn[first][rows], drawn_of_fixed[first][rows])


def test_cut_episodes_are_counted_nowhere():
    env = make(FAKE, words=("mass=uniform:1:2", "length=uniform:30:30"), redraw_steps=40)
    timesteps, _ = play(env, 200)
    ended = sum(int((t.discount == 0).sum()) for t in timesteps)
    episodes = env.pop_episodes()
    assert 0 < len(episodes) == ended
    assert {x.length for x in episodes} == {30}
    cut = sum(int(t.truncated.sum()) for t in timesteps)
    assert cut > 0


@pytest.mark.parametrize("task", [TASK, "FetchReachDense-v4", "CartpoleBalance-v1"])
def test_a_second_has_as_many_steps_as_without_drawn_physics(task):
    """Also once the files are gone that EnvPool made the environments from."""
    drawn = make(task, words=("mass=scale:0.9:1.1",))
    assert drawn.steps_per_second == make(task, words=()).steps_per_second > 1


def test_successes_are_told_across_redraws():
    words = ("mass=scale:0.9:1.1",)
    env = make("FetchReachDense-v4", 2, words=words, variants=2, redraw_steps=40)
    rng = np.random.default_rng(0)
    env.reset()
    for _ in range(50):
        env.step(rng.integers(0, 11, (2, 4)))
    assert len(env.pop_draws()) == 4
    assert all(e.successes is not None for e in env.running_episodes())


def test_a_restart_draws_what_new_environments_draw():
    """A checkpoint restarts environments; a resumed run makes new ones and restarts them, too."""
    went_on = make(redraw_steps=20)
    timesteps, _ = play(went_on, 33)
    cut = went_on.restart(9, timesteps[-1])
    running = (timesteps[-1].discount == 1) & ~timesteps[-1].first
    np.testing.assert_array_equal(cut.truncated, timesteps[-1].truncated | running)
    went_on.pop_draws()
    resumed = make(redraw_steps=20)
    resumed.reset()
    resumed.restart(9, timesteps[-1])
    for action in actions(went_on, 50):
        a, b = went_on.step(action), resumed.step(action)
        assert_same(a, b)
        np.testing.assert_array_equal(went_on.drawn, resumed.drawn)
    draws = resumed.pop_draws()
    assert went_on.pop_draws() == draws
    assert [(x.group, x.number) for x in draws[:4]] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert len(draws) > 8


def test_a_variant_that_mujoco_refuses_is_drawn_anew(monkeypatch):
    calls = []
    variant = XmlPhysics.variant

    def refusing(self, numbers):
        calls.append(numbers)
        if len(calls) in (3, 4):
            raise Refused("MuJoCo: no")
        return variant(self, numbers)

    make()  # checks the effect once
    monkeypatch.setattr(XmlPhysics, "variant", refusing)
    env = make()
    play(env, 20)
    assert len(calls) == 6
    assert len(set(map(tuple, calls))) == 6, "a draw came twice"
    assert [(x.group, x.number, x.refused) for x in env.pop_draws()] == [
        (2, 0, "MuJoCo: no"),
        (2, 1, "MuJoCo: no"),
        (0, 0, ""),
        (1, 0, ""),
        (2, 2, ""),
        (3, 0, ""),
    ]


def test_if_all_draws_are_refused_it_says_so(monkeypatch):
    make()

    def refusing(self, numbers):
        raise Refused("MuJoCo: no")

    monkeypatch.setattr(XmlPhysics, "variant", refusing)
    with pytest.raises(UserError, match=r"20 draws .* in a row cannot be played: MuJoCo: no"):
        make()


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


def test_if_all_explode_it_says_so():
    env = make("gymnasium/randomise_fakes:explodes_on_its_own", words=("mass=uniform:0:1",))
    with pytest.raises(UserError, match=r"20 draws .* in a row explode at once"):
        env.reset()


def test_words_that_are_the_task_as_it_is_are_played():
    assert (make(words=("gravity@y=add:0:0", "mass=scale:1:1")).drawn_names)[0] == "gravity@y"
    task = "gymnasium/randomise_fakes:make"
    env = make(task, words=("mass=uniform:3:3",), variants=1)
    assert (env.reset().obs[:, 0] == 3).all()


def test_physics_that_do_nothing_are_an_error():
    with pytest.raises(UserError, match="physics gravity@y=normal:1 does nothing to"):
        make(words=("gravity@y=normal:1",))
    with pytest.raises(UserError, match="does nothing to"):
        make("gymnasium/randomise_fakes:deaf", words=("mass=uniform:0:1",))


@pytest.mark.parametrize("word", ["gymnasium", "jax"])
def test_a_function_makes_the_environments_of_drawn_values(word):
    task = {"gymnasium": FAKE, "jax": "jax/randomise_fakes:pure"}[word]
    env = make(task, words=("mass=uniform:2:3",), redraw_steps=8)
    timesteps, drawn = play(env, 30)
    assert_aligned(timesteps)
    masses = np.stack([t.obs[:, 0] for t in timesteps])
    assert ((masses >= 2) & (masses <= 3)).all() and len(np.unique(masses[0])) == 4
    for t in range(1, 30):
        np.testing.assert_allclose(drawn[t][:, 0], 2 * (masses[t] - 2) - 1, atol=1e-6)
        shown = np.where(timesteps[t].first, 0, masses[t])
        np.testing.assert_allclose(timesteps[t].reward, shown, rtol=1e-6)
    values = {np.float32(x.values["mass"]) for x in env.pop_draws()}
    assert values == set(np.unique(masses).tolist()) and len(values) > 8


def test_jax_compiles_once_for_all_draws():
    make("jax/randomise_fakes:pure", words=("mass=uniform:2:3",)).reset()
    randomise_fakes.TIMES.clear()
    env = make("jax/randomise_fakes:pure", words=("mass=uniform:2:3",), redraw_steps=4)
    play(env, 40)
    assert len(env.pop_draws()) > 20
    assert len(randomise_fakes.TIMES) <= 4  # traced for the shape of a group, not for a draw


def test_a_gymnasium_id_takes_its_arguments():
    env = make("gymnasium/Pendulum-v1", words=("g=uniform:5:15",))
    assert env.drawn_names == ("g",)
    with pytest.raises(UserError, match="has no argument 'gg'; the nearest: g"):
        make("gymnasium/Pendulum-v1", words=("gg=uniform:5:15",))
    with pytest.raises(UserError, match="an argument of a function is drawn by"):
        make("gymnasium/Pendulum-v1", words=("g=scale:5:15",))


def test_a_function_without_drawn_values_and_with_a_time_limit():
    task = envs.Task(FAKE, FAKE, envs.Options(max_episode_steps=3))
    env = envs.make(task, 2, 0)
    timesteps = [env.reset(), *(env.step(np.zeros(2, int)) for _ in range(4))]
    assert [bool(t.truncated[0]) for t in timesteps] == [False, False, False, True, False]
    assert (timesteps[1].obs[:, 0] == 1).all()


def test_a_preset_on_a_task_without_physics_says_how_to_go_on():
    given = Randomise(preset="dactyl")
    for task in ("Pong-v5", FAKE):
        with pytest.raises(UserError, match=r"cannot be changed.*--randomise.physics none"):
            envs.make(envs.Task(task, task, envs.Options(), randomise=given), 8, 0)
    none = Randomise(preset="dactyl", physics=("none",))
    assert envs.make(envs.Task(FAKE, FAKE, envs.Options(), randomise=none), 8, 0).drawn == ()


def test_wrappers_pass_on_what_is_drawn():
    env = make()
    bins = envs.make(
        envs.Task(TASK, TASK, envs.Options(), False, Randomise(physics=WORDS, variants=4)), 8, 1
    )
    np.testing.assert_array_equal(env.drawn, bins.drawn)
    assert env.drawn_names == bins.drawn_names
    env.reset(), bins.reset()
    assert env.pop_draws() == bins.pop_draws() != []
    assert jax.tree.leaves(bins.drawn)
