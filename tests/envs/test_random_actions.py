"""Actions that are drawn at random: each effect against a loop, and where it is refused."""

import numpy as np
import pytest
from environments import assert_same
from gymnasium import spaces
from random_fakes import PUSH, Script, normals, play, rng_of, uniforms

from rlsys import envs
from rlsys.envs import Options, Randomise
from rlsys.envs.randomise.effects import Effects
from rlsys.envs.wrappers import with_actions
from rlsys.types import UserError

LOW, HIGH = PUSH.low.astype(float), PUSH.high.astype(float)
COUNTED = {"one": spaces.Discrete(4), "several": spaces.MultiDiscrete([3, 5, 2])}
STEPS = 80


def acted(script, seed=3, **effects):
    """Firsts of the Timesteps in which the agent acted, its actions, and those that arrived."""
    wrapped = with_actions(script, Effects(**effects), seed)
    timesteps, actions = play(wrapped, STEPS)
    for timestep, plain in zip(timesteps, script.seen, strict=True):
        assert_same(timestep, plain)
    assert len(script.acted) == len(actions)
    return timesteps, np.array(actions), np.array(script.acted)


def check(found, expected, timesteps):
    """Compares all actions but those of reset steps, which are ignored."""
    played = ~np.array([t.first for t in timesteps[1:]])
    np.testing.assert_allclose(found[played], np.array(expected)[played], rtol=1e-5, atol=1e-6)
    assert played.sum() > 200


def episodes(timesteps):
    """Yields i, step t and whether it is the first of its episode, in the order of the draws."""
    for t, timestep in enumerate(timesteps[:-1]):
        yield t, timestep.first


@pytest.mark.parametrize(
    "sizes", [(0.05, 0.0, 0.0), (0.0, 0.02, 0.0), (0.0, 0.0, 0.3), (0.05, 0.02, 0.3)]
)
def test_noise_of_actions(sizes):
    noise, offset, gain = sizes
    script = Script()
    timesteps, actions, found = acted(
        script, action_noise=noise, action_offset=offset, action_gain=gain
    )
    of_step, of_episode = rng_of("action_noise", 3), rng_of("action_bias", 3)
    width = 2 * (bool(offset) + bool(gain))
    kept, expected = np.zeros((4, width)), np.zeros(actions.shape)
    for t, first in episodes(timesteps):
        if width and first.any():
            new = normals(of_episode, 4, width)
            for i in range(4):
                kept[i] = new[i] if first[i] else kept[i]
        drawn = normals(of_step, 4, 2) if noise else np.zeros((4, 2))
        for i in range(4):
            for d in range(2):
                a = float(actions[t, i, d])
                g = gain * kept[i, d] if gain else 0.0
                o = offset * kept[i, d + 2 * bool(gain)] if offset else 0.0
                a = (1 + g) * a + (HIGH[d] - LOW[d]) * (o + noise * drawn[i, d])
                expected[t, i, d] = min(max(a, LOW[d]), HIGH[d])
    check(found, expected, timesteps)
    assert (found != actions).any() and found.dtype == np.float32
    assert (found == PUSH.high).any() or (found == PUSH.low).any()


def test_noise_of_actions_has_the_size_that_it_is_given():
    """Within 5 standard errors, away from the bounds."""
    script = Script(num_envs=100)
    effects = Effects(action_noise=0.01, action_offset=0.02)
    wrapped = with_actions(script, effects, 0)
    middle = np.tile((PUSH.low + PUSH.high) / 2, (100, 1))
    wrapped.reset()
    for _ in range(100):
        wrapped.step(middle)
    x = (np.array(script.acted) - middle)[:, 60:] / (HIGH - LOW)  # [T, 40, 2] of long episodes
    within = x[:60] - x[:60].mean(0)
    assert abs(within.std() / 0.01 * np.sqrt(60 / 59) - 1) < 5 / np.sqrt(2 * within.size)
    assert abs(x[:60].mean(0).std() / 0.02 - 1) < 5 / np.sqrt(2 * 80)


def test_smoothed_actions():
    script = Script()
    timesteps, actions, found = acted(script, action_smoothing=0.75)
    expected, y = np.zeros(actions.shape), np.zeros((4, 2))
    for t, first in episodes(timesteps):
        for i in range(4):
            a = actions[t, i].astype(float)
            y[i] = a if first[i] else 0.75 * y[i] + 0.25 * a
        expected[t] = y
    check(found, expected, timesteps)


def test_backlash():
    script = Script()
    timesteps, actions, found = acted(script, action_backlash=0.5)
    rng, gap = rng_of("action_backlash", 3), np.zeros((4, 2))
    expected, y, stood = np.zeros(actions.shape), np.zeros((4, 2)), 0
    for t, first in episodes(timesteps):
        if first.any():
            new = uniforms(rng, 4, 2)
            gap[first] = 0.5 * new[first] * (HIGH - LOW)
        for i in range(4):
            for d in range(2):
                a, half = float(actions[t, i, d]), gap[i, d] / 2
                if first[i]:
                    y[i, d] = a
                elif a - half > y[i, d]:  # it pushes up
                    y[i, d] = a - half
                elif a + half < y[i, d]:  # it pulls down
                    y[i, d] = a + half
                else:
                    stood += 1
        expected[t] = y
    check(found, expected, timesteps)
    assert stood > 40


@pytest.mark.parametrize("space", [PUSH, *COUNTED.values()], ids=["push", *COUNTED])
def test_delayed_actuators(space):
    """The reset's action, which is ignored, is not played later."""
    script = Script(action_space=space)
    timesteps, actions, found = acted(script, action_delay=0.4)
    actions, found = (x.reshape(STEPS, 4, -1) for x in (actions, found))
    width = actions.shape[-1]
    rng, late = rng_of("action_delay", 3), np.zeros((4, width), bool)
    expected = actions.copy()
    for t, first in episodes(timesteps):
        if first.any():
            late[first] = (uniforms(rng, 4, width) < np.float32(0.4))[first]
        for i in range(4):
            for d in range(width):
                if late[i, d] and not first[i]:
                    expected[t, i, d] = actions[t - 1, i, d]
    check(found, expected, timesteps)
    assert (expected != actions).any() and found.dtype == actions.dtype


@pytest.mark.parametrize("space", [PUSH, *COUNTED.values()], ids=["push", *COUNTED])
def test_held_actions(space):
    script = Script(action_space=space)
    timesteps, actions, found = acted(script, action_hold=0.9)
    of_step, of_episode = rng_of("action_hold", 3), rng_of("hold_probability", 3)
    probability, expected, held = np.zeros(4), actions.copy(), 0
    for t, first in episodes(timesteps):
        if first.any():
            new = 0.9 / (1 + 7 * uniforms(of_episode, 4, 1)[:, 0].astype(float))
            probability[first] = new[first]
        u = uniforms(of_step, 4, 1)
        for i in range(4):
            if not first[i] and u[i, 0] < probability[i]:
                expected[t, i] = expected[t - 1, i]
                held += 1
    check(found, expected, timesteps)
    assert held > 20


def test_holds_last_as_long_as_the_papers_steps():
    """8 ms + Exp(lambda), lambda from U[1250, 10000] 1/s: the mean excess, in shares of 8 ms."""
    script = Script(num_envs=4000)
    wrapped = with_actions(script, Effects(action_hold=0.1), 0)
    wrapped.reset()
    probability = 0.1 * wrapped.episode_draws[:, 0]
    rng = np.random.default_rng(0)
    papers = rng.exponential(1 / rng.uniform(1250, 10000, 400_000)) / 0.008
    assert probability.min() > 0.0125 and probability.max() <= 0.1
    np.testing.assert_allclose(probability.mean(), papers.mean(), rtol=0.05)
    np.testing.assert_allclose(probability.mean(), 0.1 * np.log(8) / 7, rtol=0.05)


ALL = dict(
    action_noise=0.05,
    action_offset=0.05,
    action_gain=0.05,
    action_delay=0.5,
    action_hold=0.5,
    action_smoothing=0.5,
    action_backlash=0.2,
)


def test_each_seed_draws_by_itself_and_restart_begins_anew():
    def arrived(wrapped, script, actions, seed):
        wrapped.restart(seed, wrapped.reset())
        wrapped.step(actions[0])
        script.acted.clear()
        for action in actions:
            wrapped.step(action)
        return np.array(script.acted)

    rng = np.random.default_rng(0)
    actions = rng.uniform(LOW, HIGH, (40, 4, 2)).astype(np.float32)
    script = Script(num_envs=4)
    together = with_actions(script, Effects(**ALL), (3, 4))
    both = arrived(together, script, actions, (3, 4))
    np.testing.assert_array_equal(arrived(together, script, actions, (3, 4)), both)
    assert (arrived(together, script, actions, (5, 4))[:, :2] != both[:, :2]).any()
    script = Script(num_envs=2)  # the first two of the four
    alone = arrived(with_actions(script, Effects(**ALL), 9), script, actions[:, :2], 3)
    np.testing.assert_array_equal(alone, both[:, :2])
    with_last = Script(num_envs=4)
    alone = arrived(with_actions(with_last, Effects(**ALL), 9), with_last, actions, (8, 4))
    np.testing.assert_array_equal(alone[:, 2:], both[:, 2:])


def test_actions_are_changed_in_their_own_units_inside_bins():
    """Pendulum's torque is from -2 to 2: bins choose it, and then it is held."""
    (task,) = envs.read_tasks("Pendulum-v1", Options(action_bins=5))
    held = envs.make(task._replace(randomise=Randomise(action_smoothing=0.5)), 2, 0)
    exact = envs.make(task._replace(continuous=True, options=Options()), 2, 0)
    assert held.action_space == spaces.MultiDiscrete([5])
    assert_same(held.reset(), exact.reset())
    torque = None
    for i in range(20):
        a = 2 * (i % 5 - 2) / 2
        torque = a if torque is None else 0.5 * torque + 0.5 * a
        played = exact.step(np.full((2, 1), torque, np.float32))
        found = held.step(np.full((2, 1), i % 5))
        np.testing.assert_allclose(found.obs, played.obs, atol=1e-4)


@pytest.mark.parametrize(
    "space, change, message",
    [
        ("one", dict(action_noise=0.1), "action_noise is for continuous actions, and those of 'S"),
        ("several", dict(action_smoothing=0.1), "action_smoothing is for continuous actions, and"),
        ("one", dict(action_backlash=0.1), "action_backlash is for continuous actions"),
        ("boundless", dict(action_gain=0.1), "share of an action's range, and actions of 'Scri"),
    ],
)
def test_what_a_task_cannot_have_is_refused(space, change, message):
    boundless = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(UserError, match=message) as info:
        with_actions(
            Script(action_space=(COUNTED | {"boundless": boundless})[space]), Effects(**change), 0
        )
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("field", ["action_delay", "action_hold"])
def test_legal_actions_are_kept_to(field):
    (task,) = envs.read_tasks("TicTacToe-v1", Options())
    with pytest.raises(UserError, match=f"{field} cannot keep to the legal actions of 'TicTacToe"):
        envs.make(task._replace(randomise=Randomise(**{field: 0.5})), 2, 0)
    envs.make(
        task._replace(randomise=Randomise(preset="dactyl", physics=("none",))), 2, 0
    )  # has none of it
