"""Several episodes in one array: n-step double Q errors equal those of each episode alone."""

import functools

import jax
import numpy as np
import pytest

from rlsys.losses.q_learning import n_step_double_q
from rlsys.losses.value_rescaling import h, h_inv

GAMMA = 0.9
jitted = jax.jit(n_step_double_q, static_argnames=("n", "h", "h_inv"))


def h64(x):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x


def h_inv64(x):
    return np.sign(x) * (((np.sqrt(1 + 4e-3 * (abs(x) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1)


def random_episodes(rng, length, n):
    """One array of several episodes, each ended either way, a reset's step after each.

    Also the error of every agent's step, in float64, from nothing but its own episode.
    """
    num_actions = 4
    r_t, discount_t = np.zeros(length), np.full(length, GAMMA)
    lambda_t, agents = np.ones(length), np.ones(length, bool)
    q_tm1, q_target_t = rng.normal(scale=3, size=(2, length, num_actions))
    a_tm1, a_star_t = rng.integers(0, num_actions, (2, length))
    expected, ends, start = np.zeros(length), [], 0
    while start < length:
        last = start + int(rng.integers(1, 9)) - 1
        how = rng.choice(["terminated", "truncated"]) if last < length else "array"
        last = min(last, length - 1)
        r_t[start : last + 1] = rng.normal(scale=3, size=last + 1 - start)
        if how == "terminated":
            discount_t[last] = 0.0
        if how == "truncated":
            lambda_t[last] = 0.0
        ends.append(how)
        for t in range(start, last + 1):
            end = min(t + n - 1, last)
            g = sum(GAMMA**i * r_t[t + i] for i in range(end - t + 1))
            if not (end == last and how == "terminated"):
                g += GAMMA ** (end - t + 1) * h_inv64(q_target_t[end, a_star_t[end]])
            expected[t] = h64(g) - q_tm1[t, a_tm1[t]]
        if last + 1 < length:  # the reset's step
            agents[last + 1] = False
            r_t[last + 1] = 1e6 * rng.normal()  # EnvPool's is 0; here garbage must not matter
            q_target_t[last + 1] = 1e3 * rng.normal(size=num_actions)
        start = last + 2
    floats = [np.float32(x) for x in (q_tm1, q_target_t, r_t, discount_t)]
    inputs = floats[0], a_tm1, floats[1], a_star_t, floats[2], floats[3]
    return inputs, np.float32(lambda_t), agents, expected, ends


@pytest.mark.parametrize("n", [1, 3, 50])
def test_episodes_in_one_array_equal_each_alone(n):
    rng = np.random.default_rng(n)
    seen = []
    for _ in range(20):
        inputs, lambda_t, agents, expected, ends = random_episodes(rng, 40, n)
        assert agents.sum() >= 20 and not agents.all()
        td_error = jitted(*inputs, n, lambda_t=lambda_t, h=h, h_inv=h_inv)
        np.testing.assert_allclose(td_error[agents], expected[agents], rtol=2e-5, atol=2e-5)
        seen += ends
    assert min(seen.count(how) for how in ("terminated", "truncated", "array")) >= 5


def test_values_past_an_end_do_not_matter():
    """At the terminated step itself and anywhere after either end, to the bit."""
    rng = np.random.default_rng(0)
    q_tm1, q_target_t = rng.normal(size=(2, 10, 3, 4)).astype(np.float32)
    a_tm1, a_star_t = rng.integers(0, 4, (2, 10, 3))
    r_t = rng.normal(size=(10, 3)).astype(np.float32)
    discount_t, lambda_t = np.full((10, 3), GAMMA, np.float32), np.ones((10, 3), np.float32)
    discount_t[4, 0], lambda_t[4, 1] = 0.0, 0.0  # the third column's episode does not end
    garbage_q, garbage_r = q_target_t.copy(), r_t.copy()
    garbage_q[5:], garbage_r[5:], garbage_q[4, 0] = 1e4, -1e30, 1e4
    run = functools.partial(jitted, lambda_t=lambda_t, h=h, h_inv=h_inv)
    clean = run(q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t, 5)
    dirty = run(q_tm1, a_tm1, garbage_q, a_star_t, garbage_r, discount_t, 5)
    np.testing.assert_array_equal(clean[:5, :2], dirty[:5, :2])
    assert np.all(clean[1:5, 2] != dirty[1:5, 2])
