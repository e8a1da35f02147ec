"""The replay ratio against what a replay's samples truly learn."""

import dataclasses

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
    copy.restore(ratio.state())
    assert copy.state() == ratio.state() == {"learned_steps": 160, "of_update": 40.0}
    ratio.learned(1, 5000)
    assert ratio.due(2320) == 0


def test_updates_that_learn_nothing_do_not_make_infinitely_many_due():
    ratio = ReplayRatio(CONFIG)
    ratio.learned(1, 0)
    assert ratio.due(2004) == 10
