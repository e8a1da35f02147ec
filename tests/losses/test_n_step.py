"""n-step returns against float64 loops, rlax, identities, and episodes computed alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rlsys.losses.gae import gae
from rlsys.losses.n_step import n_step_return
from rlsys.losses.q_learning import n_step_double_q
from rlsys.losses.value_rescaling import h, h_inv

GAMMA = 0.9
jitted = jax.jit(n_step_return, static_argnames="n")


def random_inputs(seed, *shape, scale=3.0):
    """v_t, r_t, discount_t, and lambda_t of every kind."""
    rng = np.random.default_rng(seed)
    v_t, r_t = scale * rng.normal(size=(2, *shape)).astype(np.float32)
    discount_t = np.float32(GAMMA) * (rng.random(shape) > 0.2).astype(np.float32)
    lambda_t = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), shape)
    return (v_t, r_t, discount_t), lambda_t


def literal(v_t, r_t, discount_t, n, lambda_t):
    """The equations of the docstring for one [T] sequence: float64, one number at a time."""
    length = len(r_t)

    def g(k, t):
        if k == 0 or t == length:
            return float(v_t[t - 1])
        goes_on = float(lambda_t[t]) if k > 1 else 0.0
        after = (1 - goes_on) * float(v_t[t]) + goes_on * g(k - 1, t + 1)
        return float(r_t[t]) + float(discount_t[t]) * after

    return np.array([g(n, t) for t in range(length)])


@pytest.mark.parametrize("n", [1, 2, 5, 13])
@pytest.mark.parametrize("length", [1, 2, 12])
def test_literal_float64_loops(length, n):
    inputs, lambda_t = random_inputs(n, length, 7)
    if length == 12:
        assert {0.0, 0.3, 1.0} == {round(float(x), 1) for x in lambda_t.ravel()}
        assert np.any(inputs[2] == 0) and np.any(inputs[2] > 0)
    ours = jitted(*inputs, n, lambda_t=lambda_t)
    number = jitted(*inputs, n, lambda_t=0.7)
    assert ours.shape == (length, 7) and ours.dtype == jnp.float32
    for b in range(7):
        column = [x[:, b] for x in inputs]
        expected = literal(*column, n, lambda_t[:, b])
        np.testing.assert_allclose(ours[:, b], expected, rtol=1e-5, atol=1e-5)
        expected = literal(*column, n, np.full(length, 0.7))
        np.testing.assert_allclose(number[:, b], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 5, 20])
def test_rlax_agrees(n):
    (v_t, r_t, discount_t), lambda_t = random_inputs(n, 9, 4)
    for one in (lambda_t, np.ones_like(lambda_t)):
        theirs = jax.vmap(
            lambda r, discount, v, lambda_: rlax.n_step_bootstrapped_returns(
                r, discount, v, n, lambda_
            ),
            1,
            1,
        )(r_t, discount_t, v_t, one)
        ours = jitted(v_t, r_t, discount_t, n, lambda_t=one)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 50])
@pytest.mark.parametrize("pair", [{}, dict(h=h, h_inv=h_inv)])
def test_double_q_learning_stands_on_the_same_arithmetic_to_the_bit(n, pair):
    """Each file stands alone, so the recursion is written twice: here is that they agree."""
    (_, r_t, discount_t), lambda_t = random_inputs(n, 12, 7)
    rng = np.random.default_rng(n)
    q_tm1, q_target_t = rng.normal(size=(2, 12, 7, 5)).astype(np.float32)
    a_tm1, a_star_t = rng.integers(0, 5, (2, 12, 7))
    td_error = n_step_double_q(
        q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t, n, lambda_t=lambda_t, **pair
    )
    q_a, v_t = (
        np.take_along_axis(q, a[..., None], -1)[..., 0]
        for q, a in ((q_tm1, a_tm1), (q_target_t, a_star_t))
    )
    v_t = h_inv(v_t) if pair else v_t
    target = n_step_return(v_t, r_t, discount_t, n, lambda_t=lambda_t)
    np.testing.assert_array_equal(td_error, (h(target) if pair else target) - q_a)


def test_one_step_is_the_reward_and_the_next_value():
    (v_t, r_t, discount_t), lambda_t = random_inputs(0, 8, 3)
    expected = r_t + discount_t * v_t
    for one in (1.0, lambda_t):
        ours = n_step_return(v_t, r_t, discount_t, 1, lambda_t=one)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_n_of_the_length_or_more_is_the_whole_discounted_return():
    (v_t, r_t, discount_t), lambda_t = random_inputs(1, 8, 3)
    g, returns = v_t[-1].astype(np.float64), []
    for t in reversed(range(8)):
        g = r_t[t] + discount_t[t] * g
        returns.insert(0, g)
    for n in (8, 9, 100):
        ours = jitted(v_t, r_t, discount_t, n)
        np.testing.assert_allclose(ours, returns, rtol=1e-5, atol=1e-5)
    v_tm1 = np.zeros_like(v_t)
    v_tm1[1:] = v_t[:-1]  # then it is the lambda-return
    expected = gae(v_tm1, v_t, r_t, discount_t, lambda_=lambda_t) + v_tm1
    ours = jitted(v_t, r_t, discount_t, 8, lambda_t=lambda_t)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_lambda_zero_everywhere_is_one_step_and_lambda_one_the_default():
    (v_t, r_t, discount_t), _ = random_inputs(2, 8, 3)
    one_step = n_step_return(v_t, r_t, discount_t, 1)
    for zero in (0.0, np.zeros((8, 3), np.float32)):
        ours = n_step_return(v_t, r_t, discount_t, 5, lambda_t=zero)
        np.testing.assert_array_equal(ours, one_step)
    default = n_step_return(v_t, r_t, discount_t, 5)
    ones = n_step_return(v_t, r_t, discount_t, 5, lambda_t=np.ones((8, 3), np.float32))
    np.testing.assert_array_equal(default, ones)
    assert not np.allclose(default, one_step)


def test_by_hand():
    """gamma 1/2, n 3: the bootstrap is three steps away and discounted three times."""
    r_t, discount_t = np.ones(5, np.float32), np.full(5, 0.5, np.float32)
    v_t = np.array([8.0, 80.0, 800.0, 8000.0, 80000.0], np.float32)
    expected = [1.75 + 100, 1.75 + 1000, 1.75 + 10000, 1.5 + 20000, 1 + 40000]
    np.testing.assert_allclose(n_step_return(v_t, r_t, discount_t, 3), expected)
    lambda_t = np.array([1.0, 0.0, 1.0, 1.0, 1.0], np.float32)  # x_1 was cut short
    expected = [1.5 + 20, 1 + 40, *expected[2:]]
    np.testing.assert_allclose(n_step_return(v_t, r_t, discount_t, 3, lambda_t=lambda_t), expected)


def test_no_gradient_flows():
    inputs, lambda_t = random_inputs(3, 6, 3)

    def total(v_t, r_t, discount_t, lambda_t):
        return jnp.sum(n_step_return(v_t, r_t, discount_t, 3, lambda_t=lambda_t) ** 2)

    for differentiate in (jax.grad, lambda *args: jax.jit(jax.grad(*args))):
        grads = differentiate(total, range(4))(*inputs, lambda_t)
        assert len(grads) == 4
        for grad in grads:
            np.testing.assert_array_equal(grad, np.zeros((6, 3)))


def test_time_alone_batches_jit_and_vmap_agree():
    inputs, lambda_t = random_inputs(4, 11, 6)

    def run(lambda_t, *args):
        return n_step_return(*args, 4, lambda_t=lambda_t)

    expected = run(lambda_t, *inputs)
    assert expected.shape == (11, 6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(jax.jit(run)(lambda_t, *inputs), expected)
    close(jax.jit(jax.vmap(run, 1, 1))(lambda_t, *inputs), expected)
    one = [x[:, 5] for x in (lambda_t, *inputs)]
    assert run(*one).shape == (11,)
    close(run(*one), expected[:, 5])
    close(jax.jit(run)(*one), expected[:, 5])
    grouped = [x.reshape(11, 2, 3) for x in (lambda_t, *inputs)]
    close(jax.jit(run)(*grouped), expected.reshape(11, 2, 3))


def test_devices_agree():
    inputs, lambda_t = random_inputs(5, 6, 8)
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")
    run = jax.shard_map(
        lambda lambda_t, *args: n_step_return(*args, 3, lambda_t=lambda_t),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
    )
    ours = jax.jit(run)(lambda_t, *inputs)
    assert len(ours.sharding.device_set) == 4
    expected = n_step_return(*inputs, 3, lambda_t=lambda_t)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 5])
def test_all_terminal_and_all_truncated(n):
    (v_t, r_t, discount_t), _ = random_inputs(6, 7, 4)
    np.testing.assert_array_equal(jitted(v_t, r_t, 0 * discount_t, n), r_t)
    gamma = np.full_like(r_t, GAMMA)
    truncated = jitted(v_t, r_t, gamma, n, lambda_t=0 * r_t)
    np.testing.assert_allclose(truncated, r_t + gamma * v_t, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_inputs_stay_finite(sign):
    (_, r_t, discount_t), lambda_t = random_inputs(7, 50, 3)
    big = np.full_like(r_t, sign * 1e30)
    ours = jitted(big, big, discount_t, 20, lambda_t=lambda_t)
    assert np.all(np.isfinite(ours)) and np.all(np.sign(ours) == sign)


def random_episodes(rng, length, n):
    """One array of several episodes, each ended either way, a reset's step after each.

    Also the return of every agent's step, in float64, from nothing but its own episode.
    """
    v_t, r_t = rng.normal(scale=3, size=(2, length))
    discount_t, lambda_t = np.full(length, GAMMA), np.ones(length)
    agents = np.ones(length, bool)
    expected, ends, start = np.zeros(length), [], 0
    while start < length:
        last = start + int(rng.integers(1, 9)) - 1
        how = rng.choice(["terminated", "truncated"]) if last < length else "array"
        last = min(last, length - 1)
        if how == "terminated":
            discount_t[last] = 0.0
        if how == "truncated":
            lambda_t[last] = 0.0
        ends.append(how)
        for t in range(start, last + 1):
            end = min(t + n - 1, last)
            expected[t] = sum(GAMMA**i * r_t[t + i] for i in range(end - t + 1))
            if not (end == last and how == "terminated"):
                expected[t] += GAMMA ** (end - t + 1) * v_t[end]
        if last + 1 < length:  # the reset's step
            agents[last + 1] = False
            r_t[last + 1] = 1e6 * rng.normal()  # EnvPool's is 0; here garbage must not matter
            v_t[last + 1] = 1e3 * rng.normal()
        start = last + 2
    inputs = [np.float32(x) for x in (v_t, r_t, discount_t)]
    return inputs, np.float32(lambda_t), agents, expected, ends


@pytest.mark.parametrize("n", [1, 3, 50])
def test_episodes_in_one_array_equal_each_alone(n):
    rng = np.random.default_rng(n)
    seen = []
    for _ in range(20):
        inputs, lambda_t, agents, expected, ends = random_episodes(rng, 40, n)
        assert agents.sum() >= 20 and not agents.all()
        ours = jitted(*inputs, n, lambda_t=lambda_t)
        np.testing.assert_allclose(ours[agents], expected[agents], rtol=2e-5, atol=2e-5)
        seen += ends
    assert min(seen.count(how) for how in ("terminated", "truncated", "array")) >= 5


def test_values_past_an_end_do_not_matter():
    """At the terminated step itself and anywhere after either end, to the bit."""
    (v_t, r_t, _), _ = random_inputs(8, 10, 3)
    discount_t, lambda_t = np.full((10, 3), GAMMA, np.float32), np.ones((10, 3), np.float32)
    discount_t[4, 0], lambda_t[4, 1] = 0.0, 0.0  # the third column's episode does not end
    garbage_v, garbage_r = v_t.copy(), r_t.copy()
    garbage_v[5:], garbage_r[5:], garbage_v[4, 0] = 1e4, -1e30, 1e4
    clean = jitted(v_t, r_t, discount_t, 5, lambda_t=lambda_t)
    dirty = jitted(garbage_v, garbage_r, discount_t, 5, lambda_t=lambda_t)
    np.testing.assert_array_equal(clean[:5, :2], dirty[:5, :2])
    assert np.all(clean[1:5, 2] != dirty[1:5, 2])


def test_what_cannot_be_computed_is_refused_in_a_sentence():
    inputs, _ = random_inputs(9, 6, 3)
    for i, name in enumerate(["v_t", "v_t", "discount_t"]):
        wrong = [x[:5] if i == j else x for j, x in enumerate(inputs)]
        with pytest.raises(ValueError, match=rf"{name} .*\(5, 3.*\.$"):
            n_step_return(*wrong, 3)
    with pytest.raises(ValueError, match=r"lambda_t \(6,\) .*\(6, 3\)\.$"):
        n_step_return(*inputs, 3, lambda_t=np.ones(6))
    with pytest.raises(ValueError, match=r"n must be at least 1, not 0\.$"):
        n_step_return(*inputs, 0)
