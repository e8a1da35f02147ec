"""Windows against a literal slow version that opens and closes them one step at a time."""

import itertools

import numpy as np
import pytest

from rlsys.replay import windows

B = 4


def literal(first, length, stride, burn_in, cross):
    """(env, start, learned, complete) of every window, and {(env, start): step} of the states that
    are needed: by a list of open windows in each environment, step by step."""
    found, states = set(), {}
    for env in range(first.shape[1]):
        segment, starts = 0, []  # of the open windows
        for t in range(len(first)):
            if t and first[t, env] and not cross:
                end, learned_to = t - 1, segment
                for k in range(segment, end, stride):  # all of the segment's, from the first on
                    last = min(k + length, end)
                    if last > learned_to and k in starts:
                        found.add((env, k, last - k, t))
                    learned_to = max(learned_to, last)
                segment, starts = t, []
            if (t - segment) % stride == 0:
                starts.append(t)
                if t - burn_in > segment:
                    states[env, t] = t - burn_in
            if t - length in starts:
                starts.remove(t - length)
                found.add((env, t - length, length, t))
    return found, states


def firsts(num_steps, mean_length, seed):
    """Episodes of random lengths, some of one observation, some much longer than others."""
    random = np.random.default_rng(seed)
    first = random.random((num_steps, B)) < 1 / mean_length
    first[random.random((num_steps, B)) < 0.02] = True
    first[0] = True
    return first


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("mean_length", [2, 5, 30])
def test_windows_are_those_opened_and_closed_step_by_step(cross, mean_length):
    cases = [(k, s, b) for k in range(1, 7) for s in range(1, k + 1) for b in (0, 1, 2, 3, 7)]
    for n, (length, stride, burn_in) in enumerate(cases):
        first = firsts(200, mean_length, n)
        expected, needed = literal(first, length, stride, burn_in, cross)
        segment, found, kept, t = np.zeros(B, np.int64), set(), set(), 0
        for unroll in itertools.cycle((1, 7, 30)):
            some = windows.find(
                segment, t, first[t : t + unroll],
                length=length, stride=stride, burn_in=burn_in, cross_episodes=cross,
            )  # fmt: skip
            complete = some.start + some.learned + (some.learned < length)
            assert ((complete >= t) & (complete < t + unroll)).all()  # once, when it is known
            new = set(zip(*map(np.ndarray.tolist, (*some[:3], complete)), strict=True))
            assert len(new) == len(some.env) and not new & found
            found |= new
            kept |= set(zip(some.state_env.tolist(), some.state_at.tolist(), strict=True))
            segment, t = some.segment, t + unroll
            if t >= len(first):
                break
        assert found == expected
        for env, start, *_ in found:
            assert (env, start) not in needed or (env, needed[env, start]) in kept
    assert len(found) > 50


def test_covered_steps():
    covered = windows.covered((2, 6), np.array([0, 0, 1]), np.array([0, 1, 3]), np.array([2, 3, 3]))
    np.testing.assert_array_equal(covered, [[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
