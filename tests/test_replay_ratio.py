"""The replay ratio against what a replay's samples truly learn."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rlsys.algorithms.r2d2 import Config
from rlsys.replay.replay_ratio import ReplayRatio
from tests.test_replay import B, History, make

WHOLE = {"cross_episodes": False, "burn_in": 0, "length": 500, "stride": 500}
CATCH = {"cross_episodes": False, "burn_in": 40, "length": 80, "stride": 40}
CONFIG = Config(num_envs=B, learning_starts=2000, env_steps=10**6, batch_size=8)


@pytest.mark.parametrize(
    ("shape", "mean_length"),
    [(WHOLE, 20), (CATCH, 9), ({}, 20)],
    ids=["whole episodes of cart-pole", "Catch", "the default of cart-pole"],
)
def test_the_replay_ratio_is_held(shape, mean_length):
    """By the steps that samples learn, within 2 % of those that the environments took."""
    config = dataclasses.replace(CONFIG, **shape)
    sizes = ("length", "stride", "burn_in", "cross_episodes")
    history = History(0, 6000, mean_length)
    replay = make(history, capacity=B * 1500, **{name: getattr(config, name) for name in sizes})
    ratio, learned = ReplayRatio(config), 0
    while history.t < 5900:
        numbers, _, _ = replay.add(history.trajectory(20))
        replay.set_priorities(numbers, np.ones(len(numbers)))
        due = ratio.due(B * history.t)
        assert not due or B * history.t > config.learning_starts
        masks = [replay.sample(config.batch_size)[1].mask for _ in range(due)]
        learned += sum(mask.sum() for mask in masks)
        if due:
            ratio.learned(due, int(sum(mask.sum() for mask in masks)))
    allowed = (B * history.t - config.learning_starts) * config.replay_ratio
    assert learned == ratio.learned_steps == pytest.approx(allowed, rel=0.02)


def test_the_next_updates_make_up_for_what_the_last_ones_learned():
    """By hand: 4 updates of 8 x 20 fit 640 steps; they learn a quarter, so more are due."""
    ratio = ReplayRatio(dataclasses.replace(CONFIG, replay_ratio=2.0))
    assert ratio.due(0) == ratio.due(2000) == ratio.due(2079) == 0
    assert ratio.due(2320) == 4
    ratio.learned(4, 160)
    assert ratio.due(2320) == (640 - 160) // 40
    copy = ReplayRatio(CONFIG)
    copy.restore(ratio.state(), 2320)
    assert copy.state()["learned_steps"] == 160 and copy.state()["of_update"] == 40.0
    ratio.learned(1, 5000)
    assert ratio.due(2320) == 0


def saved(**fields):
    """A ReplayRatio, and its state through JSON, after 100,000 steps learned 2.5 times each."""
    ratio = ReplayRatio(dataclasses.replace(CONFIG, **fields))
    ratio.learned(10, 10 * 160)  # as many as asked
    ratio.learned(1, (100_000 - 2000) * 2 - 10 * 160)
    ratio.learned(1, 160)
    return ratio, json.loads(json.dumps(ratio.state()))


@pytest.mark.parametrize(
    ("fields", "due"),
    [({"replay_ratio": 0.5}, 3), ({"replay_ratio": 8.0}, 50), ({"batch_size": 800}, 0),
     ({"batch_size": 2}, 50), ({"learning_starts": 50_000}, 12), ({"length": 10}, 25),
     ({"learning_starts": 100_500}, 6)],
)  # fmt: skip
def test_a_changed_ratio_is_counted_from_where_the_run_goes_on(fields, due):
    """No debt is waited for, no backlog made: 1,000 steps later what 1,000 steps ask for is due."""
    _, state = saved(replay_ratio=2.0)
    ratio = ReplayRatio(dataclasses.replace(CONFIG, **{"replay_ratio": 2.0} | fields))
    ratio.restore(state, 100_000)
    assert ratio.due(100_000) == 0
    assert ratio.due(101_000) == due
    again = ReplayRatio(ratio._config)  # and the next resume changes nothing
    again.restore(json.loads(json.dumps(ratio.state())), 101_000)
    assert again.due(101_000) == due and again.state() == ratio.state()


def test_what_is_held_is_counted_from_where_the_ratio_changed():
    ratio, state = saved(replay_ratio=2.0)
    assert ratio.held(100_000) == pytest.approx(1.96, abs=0.01)  # 2,000 steps teach nothing
    ratio = ReplayRatio(dataclasses.replace(CONFIG, replay_ratio=8.0))
    ratio.restore(state, 100_000)
    assert math.isnan(ratio.held(100_000))
    ratio.learned(50, 8000)
    assert ratio.held(101_000) == 8.0
    assert ReplayRatio(CONFIG).held(0) != 0.0 and ReplayRatio(CONFIG).held(10) == 0.0


def test_an_unchanged_ratio_keeps_its_debt():
    ratio, state = saved()
    copy = ReplayRatio(CONFIG)
    copy.restore(state, 100_000)
    assert copy.due(150_000) == ratio.due(150_000) > 0
    del state["before"], state["fields"]  # as an earlier version saved it
    copy = ReplayRatio(CONFIG)
    copy.restore(state, 100_000)
    assert copy.due(150_000) == ratio.due(150_000)


def test_updates_that_learn_nothing_do_not_make_infinitely_many_due():
    ratio = ReplayRatio(CONFIG)
    ratio.learned(1, 0)
    assert ratio.due(2004) == 10
