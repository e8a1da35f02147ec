"""Ranges that widen: the algorithm against a literal one, and what groups play at their ends."""

import json
import math

import numpy as np
import pytest
import randomise_fakes  # noqa: F401

from rlsys import envs
from rlsys.acting.adaptation import Adaptation
from rlsys.envs.randomise import Randomise, adapt
from rlsys.envs.randomise.adapt import HIGH, LOW, Boundary, Trial
from rlsys.envs.randomise.groups import STREAM
from rlsys.envs.randomise.physics import Parameter, draw, numbers_at, physics_of
from rlsys.envs.randomise.variants import plain
from rlsys.envs.randomise.words import read
from rlsys.types import UserError

FAKE = "gymnasium/randomise_fakes:make"
RULE = {"threshold_low": 2.0, "threshold_high": 5.0, "episodes": 3, "step": 0.25}


def literal(start, trials, *, threshold_low, threshold_high, episodes, step):
    """Algorithm 1 of the paper, a trial at a time, with a list for each boundary."""
    phi = {(i, side): x for i, x in enumerate(start) for side in (LOW, HIGH)}
    data = {key: [] for key in phi}
    for trial in trials:
        key = tuple(trial.boundary)
        if trial.share != phi[key]:
            continue
        data[key] += list(trial.returns)
        if len(data[key]) >= episodes:
            mean = np.mean(np.array(data[key], np.float64))
            data[key].clear()
            outward = 1 if key[1] == HIGH else -1
            if mean >= threshold_high:
                phi[key] += outward * step
            elif mean <= threshold_low:
                phi[key] -= outward * step
            least, most = (start[key[0]], 1) if key[1] == HIGH else (0, start[key[0]])
            phi[key] = float(np.clip(phi[key], least, most))
    return phi, data


def test_after_is_the_papers_algorithm():
    rng, start = np.random.default_rng(0), (0.5, 0.0, 0.875)
    ranges, trials, moved = adapt.begin(start), [], set()
    for _ in range(600):
        boundary = Boundary(int(rng.integers(3)), int(rng.integers(2)))
        share = ranges.shares[boundary.parameter][boundary.side]
        stale = rng.random() < 0.1
        returns = tuple(rng.uniform(0, 8, rng.integers(1, 4)).tolist())
        trials.append(Trial(boundary, share + stale * 0.01, returns))
        before = ranges
        ranges, decision = adapt.after(ranges, trials[-1], **RULE)
        if stale:
            assert ranges == before and decision is None
        if decision:
            assert (
                decision.episodes >= 3 and ranges.returns[boundary.parameter][boundary.side] == ()
            )
            change = decision.share - before.shares[boundary.parameter][boundary.side]
            moved.add((boundary.side, math.copysign(1, change) if change else 0))
    phi, data = literal(start, trials, **RULE)
    for i in range(3):
        for side in (LOW, HIGH):
            assert ranges.shares[i][side] == phi[i, side]
            assert list(ranges.returns[i][side]) == data[i, side]
    assert moved == {(side, way) for side in (LOW, HIGH) for way in (-1, 0, 1)}
    assert any(low < x < high for (low, high), x in zip(ranges.shares, start, strict=True))


@pytest.mark.parametrize(
    "side, value, share",
    [(HIGH, 5.0, 0.75), (HIGH, 4.9, 0.5), (HIGH, 2.0, 0.5), (LOW, 5.0, 0.25), (LOW, 2.1, 0.5)],
)
def test_thresholds_count_themselves_and_no_boundary_passes_its_start(side, value, share):
    trial = Trial(Boundary(0, side), 0.5, (value,) * 3)
    ranges, decision = adapt.after(adapt.begin([0.5]), trial, **RULE)
    assert decision == (trial.boundary, share, pytest.approx(value), 3)
    assert ranges.shares[0][side] == share and ranges.shares[0][1 - side] == 0.5


def test_steps_meet_the_ends_of_a_range():
    ranges, rule = adapt.begin([0.5]), RULE | {"step": 0.02}
    for _ in range(25):
        share = ranges.shares[0][HIGH]
        assert share < 1
        ranges, _ = adapt.after(ranges, Trial(Boundary(0, HIGH), share, (9.0,) * 3), **rule)
    assert ranges.shares == ((0.5, 1.0),)


def test_draw_lies_within_and_on_boundaries_as_often_as_asked():
    ranges = adapt.begin([0.5, 0.0, 0.25])._replace(shares=((0.25, 0.75), (0.0, 0.5), (0.25, 0.25)))
    rng, counts, inside = np.random.default_rng(0), {}, []
    for _ in range(6000):
        u = rng.random(5)
        shares, boundary = adapt.draw(ranges, u, boundary_share=0.4)
        counts[boundary] = counts.get(boundary, 0) + 1
        low, high = np.array(ranges.shares).T
        assert (low <= shares).all() and (shares <= high).all()
        if boundary is None:
            inside.append(shares)
            np.testing.assert_allclose(shares, low + u[:3] * (high - low), rtol=1e-12)
        else:
            assert shares[boundary.parameter] == ranges.shares[boundary.parameter][boundary.side]
    able = {Boundary(0, LOW), Boundary(0, HIGH), Boundary(1, HIGH), Boundary(2, LOW)}
    able.add(Boundary(2, HIGH))  # all but the low end of the second, which begins at 0
    assert set(counts) == able | {None}
    expected = [3600, *[480] * 5]
    found = [counts[None], *(counts[x] for x in able)]
    chi = sum((a - b) ** 2 / b for a, b in zip(found, expected, strict=True))
    assert chi < 20.5  # 5 degrees of freedom, 0.1 %
    mean = np.mean(inside, 0)
    np.testing.assert_allclose(mean, [0.5, 0.25, 0.25], atol=0.02)


def test_entropy_and_width():
    ranges = adapt.begin([0.5, 0.5])
    assert adapt.entropy(ranges) == -math.inf and adapt.width(ranges) == 0
    ranges = ranges._replace(shares=((0.25, 0.75), (0.4, 0.5)))
    assert adapt.entropy(ranges) == pytest.approx((math.log(0.5) + math.log(0.1)) / 2)
    assert adapt.width(ranges) == pytest.approx(0.3)
    assert adapt.entropy(ranges._replace(shares=((0.0, 1.0),) * 2)) == 0


@pytest.mark.parametrize(
    "text, numbers, nominal, share",
    [
        ("gear=logscale:0.1:10", (0.1, 10), 1, 0.5),
        ("mass=scale:0.5:1.5", (0.5, 1.5), 1, 0.5),
        ("mass=scale:2:3", (2, 3), 1, 0.0),
        ("gravity=normal:0.4", (-0.8, 0.8), 0, 0.5),
        ("length=gaussian:10:1", (8, 12), 11, 0.75),
    ],
)
def test_words_are_bounded_and_the_task_has_its_place_in_them(text, numbers, nominal, share):
    word = adapt.bounded(read(text))
    assert word.numbers == pytest.approx(numbers)
    assert adapt.share_of(word, nominal) == pytest.approx(share)
    ends = [numbers_at([Parameter(word.what, word)], np.array([x]))[0] for x in (0.0, 1.0)]
    assert ends == pytest.approx(numbers)


def make(words=("mass=uniform:0:2",), num_envs=8, seed=1, task=FAKE, **more):
    given = {"variants": 4, "redraw_steps": 12, "adapt": True, "adapt_step": 0.1}
    given |= {"adapt_threshold_high": 3.0, "adapt_threshold_low": 2.0, "adapt_episodes": 6} | more
    found = envs.Task(task, task, envs.Options(), False, Randomise(physics=words, **given))
    return envs.make(found, num_envs, seed), Adaptation(found) if given["adapt"] else None


def play(env, adaptation, steps, unroll=10):
    """Plays as Actors do; returns the decisions."""
    decisions, action = [], np.zeros(env.num_envs, int)
    env.reset()
    for t in range(steps):
        if t % unroll == 0:
            adaptation.add(env.pop_trials())
            decisions += adaptation.update()
            env.set_ranges(adaptation.ranges)
        env.step(action)
    return decisions


def test_a_boundary_moves_out_where_the_policy_succeeds():
    """An episode returns 4 times the mass, which is at least 3 from 0.75 on."""
    env, adaptation = make()
    assert [env.drawn.min(), env.drawn.max()] == [0, 0], "all begin as the task is"
    decisions = play(env, adaptation, 1500)
    ((low, high),) = adaptation.ranges.shares
    assert high == 1.0
    assert low == 0.3  # a mass of 0.6 returns 2.4, between the thresholds
    assert adaptation.numbers(0) == (pytest.approx(0.6), pytest.approx(2.0))
    for decision in decisions:
        assert decision.episodes >= 6
    values = [x.values["mass"] for x in env.pop_draws()]
    assert min(values) == pytest.approx(0.6) and max(values) == pytest.approx(2.0)


def test_a_boundary_moves_in_where_the_policy_fails():
    env, adaptation = make()
    adaptation.ranges = adaptation.ranges._replace(shares=((0.0, 1.0),))
    env.set_ranges(adaptation.ranges)
    env.restart(3, env.reset())
    play(env, adaptation, 1500)
    assert adaptation.ranges.shares == ((0.3, 1.0),)  # 0.2 returns 1.6, and 0.3 returns 2.4


def test_first_episodes_of_a_whole_group_count_and_no_others():
    env, _ = make(boundary_share=1.0, redraw_steps=12)
    action, trials = np.zeros(8, int), []
    env.reset()
    for _ in range(200):
        env.step(action)
        trials += env.pop_trials()
    draws = [x for x in env.pop_draws() if not x.refused]
    assert {len(x.returns) for x in trials} == {2}
    assert {x.share for x in trials} == {0.5} and {x.boundary.side for x in trials} == {LOW, HIGH}
    assert all(returns == pytest.approx(4.0) for x in trials for returns in x.returns)
    # A draw lasts 12 steps and an episode 4, so each draw but the newest is told once; those that
    # began with the environments lasted 3, 6, 9 and 12 steps.
    assert len(draws) - 4 - 1 <= len(trials) <= len(draws)


def test_a_draw_on_a_boundary_lasts_until_its_episodes_end():
    """Else the short ones alone would count, and a policy that lasts would never widen a range."""
    env, _ = make(boundary_share=1.0, redraw_steps=3, variants=1)  # episodes of 4 steps
    timesteps = [env.reset(), *(env.step(np.zeros(8, int)) for _ in range(40))]
    whole = [t for t, x in enumerate(timesteps) if (x.discount == 0).all()]
    assert whole[0] == 4 and len(whole) > 5
    trials = env.pop_trials()
    assert {x.returns for x in trials} == {(4.0,) * 8}
    draws = env.pop_draws()
    assert len(draws) - 1 <= len(trials) <= len(draws) and len(trials) > 5
    env, _ = make(boundary_share=1e-9, redraw_steps=3, variants=1)  # no boundary, so 3 steps
    env.reset()
    for _ in range(40):
        env.step(np.zeros(8, int))
    assert len(env.pop_draws()) == 1 + 40 // 3 and env.pop_episodes() == []


def test_what_explodes_on_a_boundary_counts():
    """Else an end at which most simulations explode would be judged by those that do not."""
    task, words = "gymnasium/randomise_fakes:explodes", ("mass=uniform:0:1",)
    env, adaptation = make(words, task=task, boundary_share=1.0, redraw_steps=12, variants=1)
    adaptation.ranges = adaptation.ranges._replace(shares=((0.5, 0.92),))
    env.set_ranges(adaptation.ranges)
    env.restart(3, env.reset())
    env.pop_trials()
    for _ in range(120):
        env.step(np.zeros(8, int))
    trials = [x for x in env.pop_trials() if x.boundary.side == HIGH]
    assert trials and all(len(x.returns) == 8 for x in trials)
    assert all(x.returns[0] < 3 for x in trials)  # of the two steps before it


@pytest.mark.parametrize("high", [0.92, 0.97])  # which explodes after two steps, and at once
def test_an_explosion_is_no_success_where_rewards_are_negative(high):
    """Two steps of reward -1 would return more than an episode of 100."""
    env, adaptation = make(
        ("mass=uniform:0:1",), task="gymnasium/randomise_fakes:costs_and_explodes", variants=1,
        adapt_threshold_low=-60.0, adapt_threshold_high=-40.0, boundary_share=1.0,
    )  # fmt: skip
    adaptation.ranges = adaptation.ranges._replace(shares=((0.5, high),))
    env.set_ranges(adaptation.ranges)
    env.restart(3, env.reset())
    env.pop_trials()
    decisions = play(env, adaptation, 120)
    assert {x.share < high for x in decisions if x.boundary.side == HIGH} == {True}
    assert adaptation.ranges.shares[0][HIGH] < high


def test_the_same_seed_plays_the_same_and_restart_forgets():
    (a, one), (b, two) = make(), make()
    assert play(a, one, 300) == play(b, two, 300) != []
    assert one.ranges == two.ranges and a.pop_draws() == b.pop_draws()
    other = Adaptation(a._task)
    meta = one.state()
    other.restore(json.loads(json.dumps(meta)))
    assert other.ranges == one.ranges
    third, _ = make(seed=9)
    for env in (a, third):
        env.set_ranges(one.ranges)
        env.restart(5, env.reset())
    assert a.pop_trials() == []
    assert play(a, one, 200) == play(third, other, 200)
    assert a.pop_draws() == third.pop_draws() and one.ranges == other.ranges


def test_off_nothing_changes():
    """Draws are those of numbers_at from the seed, as they were before ranges could widen."""
    env, _ = make(adapt=False, words=("mass=uniform:0:2",))
    env.reset()
    physics = physics_of(plain(env._task), False)
    for k, found in enumerate(env.pop_draws()):
        sequence = np.random.SeedSequence(1, spawn_key=(STREAM, k, 0))
        u = draw(physics.parameters, sequence)
        assert found.values["mass"] == numbers_at(physics.parameters, u)[0]
        assert env.drawn[2 * k, 0] == np.float32(2 * u[0] - 1)
    assert env.pop_trials() == []


def test_normal_words_of_xml_and_shared_numbers_adapt_too():
    words = ("gear=normal:20", "mass=logscale:0.5:4:all")
    env, adaptation = make(words, task="InvertedDoublePendulum-v5", adapt_threshold_high=0.0,
                           adapt_threshold_low=-1.0, redraw_steps=60)  # fmt: skip
    assert env.drawn_names == ("gear@slide", "mass")
    assert adaptation.ranges.start == (0.5, pytest.approx(1 / 3))
    env.reset()
    for _ in range(60):
        for _ in range(20):
            env.step(np.zeros((8, *env.action_space.shape), env.action_space.dtype))
        adaptation.add(env.pop_trials())
        adaptation.update()
        env.set_ranges(adaptation.ranges)
    assert all(low < high for low, high in adaptation.ranges.shares)
    assert np.abs(env.drawn).max() <= 1 and len(np.unique(env.drawn[:, 0])) > 1


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"adapt_threshold_high": None}, "no number would be right for all tasks"),
        ({"adapt_threshold_low": None}, "--randomise.adapt-threshold-low"),
        ({"adapt_threshold_low": 4.0}, "adapt_threshold_low 4 must not be above"),
        ({"adapt_threshold_low": -math.inf}, "must be finite"),
        ({"adapt_episodes": 0}, "adapt_episodes must be 1 or more, not 0"),
        ({"adapt_step": 0.0}, "adapt_step must lie in (0, 1], not 0"),
        ({"boundary_share": 1.5}, "boundary_share must lie in (0, 1], not 1.5"),
        ({"redraw_steps": 0}, "redraw_steps must be 1 or more, not 0"),
        ({"words": ("mass=uniform:1:1",)}, "no width that adapt could widen to"),
        ({"words": ("none",)}, "none are drawn"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    with pytest.raises(UserError) as error:
        make(**change)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_other_words_cannot_go_on():
    _, adaptation = make()
    _, other = make(words=("mass=uniform:0:3",))
    with pytest.raises(UserError, match="were adapted for mass=uniform"):
        other.restore(adaptation.state())
