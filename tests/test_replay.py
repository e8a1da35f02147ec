"""Replay against a naive memory of everything that ever happened."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from rlsys.algorithms.r2d2 import Config
from rlsys.learning import hosts
from rlsys.learning.sampler import Sampler
from rlsys.replay.replay import Replay
from rlsys.replay.sum_tree import SumTree
from rlsys.types import CoreState, Timestep, Trajectory, UserError

B, STACK = 3, 3


class Aux(NamedTuple):
    number: Any
    lstm: Any


class History:
    """Plays made-up episodes: every number tells which environment and step it comes from."""

    def __init__(self, seed=0, num_steps=2000, mean_length=13):
        random = np.random.default_rng(seed)
        t, b = np.arange(num_steps)[:, None], np.arange(B)
        self.number = 10_000 * b + t  # [T, B]
        self.first = random.random((num_steps, B)) < 1 / mean_length
        self.first[0] = True
        self.truncated = np.roll(self.first, -1, 0) & (random.random((num_steps, B)) < 0.5)
        terminated = np.roll(self.first, -1, 0) & ~self.truncated
        self.discount = 1.0 - np.float32(terminated)
        self.t = 0

    def steps(self, t):
        number = np.float32(self.number[t])
        image = (number[..., None, None, None] * np.ones((1, 2, 1), np.float32)).astype(np.float32)
        return Timestep(
            {"image": image, "number": self.number[t]},
            self.first[t],
            number / 7,
            self.discount[t],
            self.truncated[t],
        )

    def trajectory(self, num_steps):
        t = np.arange(self.t, self.t + num_steps + 1)
        self.t += num_steps
        action = np.int32(self.number[t[:-1]] % 17)
        lstm = (np.float32(self.number[t[:-1], :, None]), -np.float32(self.number[t[:-1], :, None]))
        return Trajectory(self.steps(t), action, Aux(np.float32(self.number[t[:-1]]), lstm), ())


def make(history, **kwargs):
    steps = history.steps(np.array([0]))
    timestep = Timestep(
        {k: v[0] for k, v in steps.obs.items()}, *(np.asarray(x)[0] for x in steps[1:])
    )
    frames = {
        "image": np.zeros((B, STACK - 1, 1, 2, 1), np.float32),
        "number": np.zeros((B, STACK - 1), np.int64),
    }
    lstm = (np.zeros((B, 1), np.float32),) * 2
    core_state = CoreState(lstm, np.zeros(B, np.int32), frames, np.zeros(B, np.int32))
    arguments = {"capacity": B * 120, "length": 8, "stride": 4, "burn_in": 6} | kwargs
    return Replay(timestep, core_state, Aux(np.zeros(B, np.float32), lstm), num_envs=B, **arguments)


def episode_of(history, env, t):
    """First and last step of the episode that step t belongs to."""
    first = np.flatnonzero(history.first[:, env])
    begin = first[first <= t].max()
    later = first[first > t]
    return begin, (later.min() - 1 if len(later) else len(history.first) - 1)


def check_sample(history, replay, sample, *, burn_in, length, stride, cross, lookahead=0):
    trajectory, mask = sample.trajectory, np.asarray(sample.mask)
    number = trajectory.steps.obs["number"]
    assert number.shape == (burn_in + length + lookahead + 1, mask.shape[1])
    assert mask.any(axis=0).all() and not mask[:burn_in].any()
    openings = 0
    for i in range(mask.shape[1]):
        learned = burn_in + np.flatnonzero(mask[burn_in:, i])
        env = int(number[learned[0], i]) // 10_000
        # Learning may begin at burn_in; steps are consecutive where they count.
        start = int(number[burn_in, i]) % 10_000
        begin, end = episode_of(history, env, start)
        early = min(burn_in, start) if cross else min(burn_in, start - begin)
        last = start + length if cross else min(start + length, end)
        assert (start - (0 if cross else begin)) % stride == 0
        read = burn_in + last - start + lookahead
        for j in range(burn_in - early, read + 1):
            t = start - burn_in + j
            assert number[j, i] == history.number[t, env]
            assert trajectory.steps.first[j, i] == history.first[t, env]
            assert trajectory.steps.discount[j, i] == history.discount[t, env]
            assert trajectory.steps.truncated[j, i] == history.truncated[t, env]
            assert trajectory.steps.reward[j, i] == np.float32(history.number[t, env]) / np.float32(
                7
            )
            if j < read:
                assert trajectory.action[j, i] == history.number[t, env] % 17
        expected = [
            start - burn_in + j
            for j in range(burn_in, burn_in + last - start)
            if not history.first[start - burn_in + j + 1, env]
        ]
        assert [start - burn_in + j for j in learned] == expected
        state, t = trajectory.core_state, start - burn_in
        if early < burn_in:  # the opening of an episode, or of the environment's life
            assert trajectory.steps.first[burn_in - early, i]
            assert state.lstm[0][i, 0] == state.lstm[1][i, 0] == 0
            openings += 1
            continue
        # Stored in line with the sequence's first step, unless it is forgotten in burn-in.
        expected = 0 if history.first[t : start + 1, env].any() else history.number[t, env]
        assert state.lstm[0][i, 0] == expected == -state.lstm[1][i, 0]
        if t > 0:
            assert state.a_tm1[i] == history.number[t - 1, env] % 17
            begin, _ = episode_of(history, env, t - 1)
            assert state.age[i] == min(t - begin, STACK - 1)
            for k in range(1, state.age[i] + 1):
                assert state.frames["number"][i, -k] == history.number[t - k, env]
                assert (state.frames["image"][i, -k] == history.number[t - k, env]).all()
    return openings


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(
    ("burn_in", "length", "stride", "unroll"),
    [(6, 8, 4, 5), (0, 8, 8, 20), (3, 7, 2, 1), (4, 4, 4, 33)],
)
def test_samples_are_what_happened(cross, burn_in, length, stride, unroll):
    history = History()
    replay = make(history, burn_in=burn_in, length=length, stride=stride, cross_episodes=cross)
    sampled = openings = 0
    while history.t < 900:
        numbers, window, _ = replay.add(history.trajectory(unroll))
        assert window.aux.number.shape[:1] == (length + 1,)
        replay.set_priorities(numbers, np.ones(len(numbers)))
        if history.t % 7 == 0 and len(replay):
            numbers, sample = replay.sample(16)
            sampled += 1
            openings += check_sample(
                history, replay, sample, burn_in=burn_in, length=length, stride=stride, cross=cross
            )
    assert sampled > 3
    assert openings or cross or not burn_in


@pytest.mark.parametrize("lookahead", [0, 2, 11])
def test_transitions_are_what_happened(lookahead):
    """Sequences that learn one step and read more for its return, round the ring many times."""
    history, sampled, sizes = History(), 0, {"burn_in": 0, "length": 1, "stride": 1}
    replay = make(history, **sizes, lookahead=lookahead, cross_episodes=True)
    while history.t < 900:
        numbers, window, mask = replay.add(history.trajectory(5))
        assert window.aux.number.shape[0] == lookahead + 2 and not mask[1:].any()
        replay.set_priorities(numbers, np.ones(len(numbers)))
        start, env = np.divmod(numbers, B)
        assert (start < history.t - 1 - lookahead + 1).all() and len(numbers) <= 5 * B
        resets = history.first[start + 1, env]
        assert (mask[0, : len(numbers)] == ~resets).all()
        if history.t > 20:
            _, sample = replay.sample(16)
            sampled += 1
            check_sample(history, replay, sample, **sizes, cross=True, lookahead=lookahead)
    assert sampled > 100
    held = np.arange(history.t - 120 + STACK - 1, history.t - 1 - lookahead)
    assert len(replay) == (~history.first[held + 1]).sum()


def test_a_lookahead_needs_sequences_that_cross_episodes():
    with pytest.raises(ValueError, match="a lookahead needs cross_episodes"):
        make(History(), lookahead=2)


def test_every_needed_state_is_the_actors_own_at_that_step():
    """Rings of states never collide, whatever the episodes' lengths: every sequence that can be
    drawn is compared, until the rings have gone round several times."""
    compared = 0
    cases = [(k, s, b) for k in (1, 2, 3, 5) for s in range(1, k + 1) for b in (0, 1, 2, 4, 7)]
    for n, (length, stride, burn_in) in enumerate(cases):
        for cross, mean_length in ((False, 3), (False, 12), (True, 12)):
            history = History(n, 400, mean_length)
            shape = {"length": length, "stride": stride, "burn_in": burn_in}
            replay = make(history, capacity=B * 53, cross_episodes=cross, **shape)
            while history.t < 380:
                numbers, _, _ = replay.add(history.trajectory(19))
                replay.set_priorities(numbers, np.ones(len(numbers)))
            drawn, sample = replay.sample(4 * len(replay))
            for i in np.unique(drawn, return_index=True)[1]:
                start, env = divmod(int(drawn[i]), B)
                t = start - burn_in
                forgotten = history.first[max(t, 0) : start + 1, env].any()
                state = 0 if forgotten else history.number[t, env]
                assert sample.trajectory.core_state.lstm[0][i, 0] == state
                assert (
                    sample.trajectory.steps.obs["number"][burn_in, i] == history.number[start, env]
                )
                compared += not forgotten
    assert compared > 1000


@pytest.mark.parametrize(
    ("sizes", "mean_length", "cross"),
    [
        pytest.param((0, 500, 500), 20, False, id="whole episodes of cart-pole"),
        pytest.param((40, 80, 40), 9, False, id="Catch"),
        pytest.param((10, 20, 10), 20, True, id="the default of cart-pole"),
        pytest.param((10, 20, 10), 20, False, id="the same within episodes"),
    ],
)
def test_steps_of_short_episodes_can_be_drawn(sizes, mean_length, cross):
    """All steps that the masks of drawn samples ever name are compared with those that exist."""
    burn_in, length, stride = sizes
    history = History(0, 6000, mean_length)
    shape = {"length": length, "stride": stride, "burn_in": burn_in}
    replay = make(history, capacity=B * 3125, cross_episodes=cross, **shape)
    while history.t < 5000:
        numbers, _, _ = replay.add(history.trajectory(20))
        replay.set_priorities(numbers, np.ones(len(numbers)))
    seen = np.zeros_like(history.first)
    for _ in range(15 if cross else 100):
        drawn, sample = replay.sample(400)
        t = drawn // B + np.arange(-burn_in, length)[:, None]
        env = np.broadcast_to(drawn % B, t.shape)
        seen[t[sample.mask], env[sample.mask]] = True
    stored = np.s_[5000 - 3125 : 4999]
    agents = ~history.first[1:][stored]
    assert not seen[stored][~agents].any() and not seen[: stored.start].any()
    share = seen[stored][agents].mean()
    assert share > 0.95
    assert replay.metrics()["replay/drawable_share"] == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("cross", [False, True])
def test_every_step_is_learned(cross):
    """Openings and endings too: each step that an agent took is in one or two sequences."""
    history = History()
    replay = make(history, cross_episodes=cross, capacity=B * 1000)
    seen = np.zeros_like(history.number)
    while history.t < 600:
        _, window, mask = replay.add(history.trajectory(10))
        at = window.aux.number[:-1][mask].astype(int)  # aux is the step's own number
        np.add.at(seen, (at % 10_000, at // 10_000), 1)
    taken = ~np.roll(history.first, -1, 0)[:500]
    assert (seen[:500][~taken] == 0).all()
    assert (seen[:500][taken] >= 1).all() and (seen[:500][taken] <= 2).all()


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, []), (2, [0]), (9, [0]), (10, [0, 4]), (13, [0, 4]), (14, [0, 4, 8])],
)
def test_an_episode_has_no_more_sequences_than_it_needs(length, expected):
    """Episodes have `length` observations, and windows of 8 steps may begin every 4 steps. The next
    one begins only if the one before leaves steps over."""
    history = History()
    history.first[:] = (np.arange(len(history.first)) % length == 0)[:, None]
    replay = make(history, capacity=B * 1000)
    numbers, window, _ = replay.add(history.trajectory(length * 6))
    starts = window.aux.number[0, : len(numbers)].astype(int) % 10_000
    starts = starts[starts < 5 * length] % length  # the sixth episode's end is not known yet
    assert len(starts) == 5 * B * len(expected)
    assert sorted(set(starts)) == expected


def test_a_sequence_without_error_is_still_drawn():
    replay = make(History(), cross_episodes=True)
    history = History()
    numbers, _, _ = replay.add(history.trajectory(60))
    replay.set_priorities(numbers, np.zeros(len(numbers)))
    assert len(set(replay.sample(200)[0])) > len(numbers) // 2


def test_age_and_uses_of_samples():
    history = History()
    replay = make(history, cross_episodes=True, burn_in=0, length=8, stride=8)
    numbers, _, _ = replay.add(history.trajectory(9))  # complete at step 8
    replay.set_priorities(numbers[:1], np.ones(1))
    replay.add(history.trajectory(7))
    for _ in range(3):
        replay.sample(2)
    metrics = replay.metrics()
    assert metrics["replay/sample_age"] == (16 - 8) * B
    assert metrics["replay/sample_uses"] == np.mean([2, 4, 6])
    assert metrics["replay/sequences"] == len(replay)


def test_figures_are_of_the_environments_of_all_processes(monkeypatch):
    history = History()
    replay = make(history, cross_episodes=True, burn_in=0, length=8, stride=8)
    config = Config(num_envs=B, batch_size=8)
    sampler = Sampler(
        replay, config, lambda learned, mask: np.ones(mask.shape[1]), lambda _: nullcontext()
    )
    sampler.add(history.trajectory(16))
    found = []
    for processes in (1, 2):
        monkeypatch.setattr(hosts, "count", lambda count=processes: count)
        monkeypatch.setattr(hosts, "all_sum", lambda number, count=processes: number * count)
        replay._random = np.random.default_rng(0)
        replay.sample(8)
        found.append(sampler.metrics(1000))
    for name, factor in {"sample_age": 2, "sequences": 2, "drawable_share": 1}.items():
        assert found[1][f"replay/{name}"] == factor * found[0][f"replay/{name}"] > 0


def test_overwritten_sequences_are_forgotten():
    history = History()
    replay = make(history, capacity=B * 122, cross_episodes=True)  # 122 is no multiple of a stride
    given = []
    while history.t < 400:
        numbers, _, _ = replay.add(history.trajectory(60))
        replay.set_priorities(numbers, np.ones(len(numbers)))
        given.extend(numbers)
    total, held = replay._priorities.total, set(replay.sample(5000)[0])
    assert held < set(given)
    absent = np.array([n for n in range(B * 500) if n not in held])
    replay.set_priorities(absent, np.full(len(absent), 1e9))
    assert replay._priorities.total == total


def test_a_sequence_without_priority_is_not_sampled():
    history = History()
    replay = make(history, cross_episodes=True)
    first, _, _ = replay.add(history.trajectory(30))
    replay.set_priorities(first, np.ones(len(first)))
    second, _, _ = replay.add(history.trajectory(30))
    assert len(second)
    drawn, _ = replay.sample(500)
    assert set(drawn) == set(first)


def test_frequencies_and_weights_follow_priorities():
    history = History()
    replay = make(history, cross_episodes=True, priority_exponent=0.9, importance_exponent=0.6)
    numbers, _, _ = replay.add(history.trajectory(60))
    priorities = np.random.default_rng(1).exponential(size=len(numbers)) + 0.01
    replay.set_priorities(numbers, priorities)
    expected = priorities**0.9 / (priorities**0.9).sum()
    drawn = np.concatenate([replay.sample(100)[0] for _ in range(200)])
    counts = np.array([(drawn == n).sum() for n in numbers])
    assert len(numbers) > 20
    chi_squared = ((counts - len(drawn) * expected) ** 2 / (len(drawn) * expected)).sum()
    assert chi_squared < len(numbers) + 4 * np.sqrt(2 * len(numbers))
    drawn, sample = replay.sample(50)
    weights = (1 / expected[np.searchsorted(numbers, drawn)]) ** 0.6
    np.testing.assert_allclose(sample.weights, weights, rtol=1e-5)


def test_a_restored_replay_goes_on_alike():
    history, again = History(), History()
    replay = make(history)
    for _ in range(9):
        numbers, _, _ = replay.add(history.trajectory(25))
        replay.set_priorities(numbers, np.random.default_rng(0).random(len(numbers)))
    replay.sample(4)
    copy = make(again)
    arrays, counters = replay.state()
    copy.restore({k: v.copy() for k, v in arrays.items()}, counters)
    again.t = history.t
    for _ in range(5):
        for r, h in ((replay, history), (copy, again)):
            numbers, _, _ = r.add(h.trajectory(25))
            r.set_priorities(numbers, np.ones(len(numbers)))
        a, b = replay.sample(16), copy.sample(16)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1].trajectory.steps.reward, b[1].trajectory.steps.reward)
        np.testing.assert_array_equal(a[1].weights, b[1].weights)
        np.testing.assert_array_equal(
            a[1].trajectory.core_state.lstm[0], b[1].trajectory.core_state.lstm[0]
        )


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.6), (0.9, 0.0), (0.5, 1.0), (0.0, 0.9)])
def test_a_restored_replay_draws_by_its_own_exponent(before, after):
    history = History()
    old, new = (make(history, priority_exponent=x) for x in (before, after))
    numbers, _, _ = old.add(history.trajectory(60))
    priorities = np.random.default_rng(0).uniform(0.01, 3, len(numbers))
    old.set_priorities(numbers, priorities)
    if not before:
        with pytest.raises(UserError, match="priority_exponent 0, which keeps no priorities"):
            new.restore(*old.state())
        return
    new.restore(*old.state())
    leaves = new._priorities.leaves
    np.testing.assert_allclose(np.sort(leaves[leaves > 0]), np.sort(priorities**after))


def test_the_estimate_of_memory_is_what_the_arrays_take():
    replay = make(History(), capacity=B * 123)
    arrays = jax.tree.leaves((replay._steps, replay._starts, replay._states))
    assert replay.nbytes == sum(x.nbytes for x in arrays) + replay._priorities._nodes.nbytes
    assert replay.memory.startswith("replay of 369 steps: 0.00 GB")
    with pytest.raises(UserError, match=r"--replay-capacity \d+ would fit"):
        make(History(), capacity=10**12)


def test_refusals():
    history = History()
    saved = make(history)
    for change in ({"stride": 2}, {"capacity": B * 150}, {"cross_episodes": True}):
        with pytest.raises(UserError, match="cannot be restored with"):
            make(history, **change).restore(*saved.state())
    with pytest.raises(UserError, match=r"90 steps holds 30 .* two sequences need 34"):
        make(history, capacity=90)
    replay = make(history)
    with pytest.raises(ValueError, match="finite"):
        replay.set_priorities(np.array([0]), np.array([np.nan]))


def test_sum_tree_against_cumulated_sums():
    random = np.random.default_rng(0)
    for capacity in (1, 2, 5, 64, 1000):
        tree, values = SumTree(capacity), np.zeros(capacity)
        for _ in range(5):
            leaves = random.integers(capacity, size=20)
            new = random.exponential(size=20) * (random.random(20) < 0.8)
            for leaf, value in zip(leaves, new, strict=True):
                values[leaf] = value
            tree.set(leaves, new)
        np.testing.assert_allclose(tree.total, values.sum(), rtol=1e-14)
        np.testing.assert_array_equal(tree.leaves, values)
        if tree.total:
            mass = random.random(500) * tree.total
            found = tree.find(mass)
            np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(values), mass, "right"))
            assert (values[tree.find(np.array([np.nextafter(tree.total, 0)]))] > 0).all()
