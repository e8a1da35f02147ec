"""Advantages against float64 loops, rlax, identities, and episodes computed alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rlsys.losses.gae import gae

GAMMA = 0.9
jitted = jax.jit(gae)


def random_inputs(seed, *shape, scale=3.0):
    """v_tm1, v_t, r_t, discount_t, and lambda_ of every kind. v_t is not v_tm1 a step later."""
    rng = np.random.default_rng(seed)
    v_tm1, v_t, r_t = scale * rng.normal(size=(3, *shape)).astype(np.float32)
    discount_t = np.float32(GAMMA) * (rng.random(shape) > 0.2).astype(np.float32)
    lambda_ = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), shape)
    return (v_tm1, v_t, r_t, discount_t), lambda_


def literal(v_tm1, v_t, r_t, discount_t, lambda_):
    """The sum over deltas for one [T] sequence: float64, one number at a time, O(T^2)."""
    length = len(r_t)
    advantage = np.zeros(length)
    for s in range(length):
        decay = 1.0
        for t in range(s, length):
            delta = float(r_t[t]) + float(discount_t[t]) * float(v_t[t]) - float(v_tm1[t])
            advantage[s] += decay * delta
            decay *= float(discount_t[t]) * float(lambda_[t])
    return advantage


@pytest.mark.parametrize("length", [1, 2, 30])
def test_literal_float64_loops(length):
    inputs, lambda_ = random_inputs(length, length, 7)
    if length == 30:
        assert {0.0, 0.3, 1.0} == {round(float(x), 1) for x in lambda_.ravel()}
        assert np.any(inputs[3] == 0) and np.any(inputs[3] > 0)
    advantage = jitted(*inputs, lambda_=lambda_)
    assert advantage.shape == (length, 7) and advantage.dtype == jnp.float32
    number = jitted(*inputs, lambda_=0.7)
    for b in range(7):
        column = [x[:, b] for x in inputs]
        expected = literal(*column, lambda_[:, b])
        np.testing.assert_allclose(advantage[:, b], expected, rtol=1e-5, atol=1e-5)
        expected = literal(*column, np.full(length, 0.7))
        np.testing.assert_allclose(number[:, b], expected, rtol=1e-5, atol=1e-5)


def test_rlax_agrees():
    """rlax takes one array of values, so v_t must be v_tm1 a step later."""
    (values, _, r_t, discount_t), lambda_ = random_inputs(0, 21, 4)
    r_t, discount_t, lambda_ = r_t[1:], discount_t[1:], lambda_[1:]
    theirs = jax.vmap(rlax.truncated_generalized_advantage_estimation, 1, 1)
    ours = jitted(values[:-1], values[1:], r_t, discount_t, lambda_=lambda_)
    expected = theirs(r_t, discount_t, lambda_, values)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_lambda_zero_is_the_one_step_error():
    (v_tm1, v_t, r_t, discount_t), _ = random_inputs(1, 8, 3)
    advantage = gae(v_tm1, v_t, r_t, discount_t, lambda_=0.0)
    np.testing.assert_allclose(advantage, r_t + discount_t * v_t - v_tm1, rtol=1e-6, atol=1e-6)


def test_lambda_one_is_the_discounted_return_minus_the_value():
    (values, _, r_t, discount_t), _ = random_inputs(2, 9, 3)
    r_t, discount_t = r_t[1:], discount_t[1:]
    g, returns = values[-1].astype(np.float64), []
    for t in reversed(range(8)):
        g = r_t[t] + discount_t[t] * g
        returns.insert(0, g)
    advantage = gae(values[:-1], values[1:], r_t, discount_t, lambda_=1.0)
    np.testing.assert_allclose(advantage, returns - values[:-1], rtol=1e-5, atol=1e-5)


def test_the_target_is_the_lambda_return():
    (values, _, r_t, discount_t), _ = random_inputs(3, 9, 3)
    v_tm1, v_t, r_t, discount_t = values[:-1], values[1:], r_t[1:], discount_t[1:]
    target = gae(v_tm1, v_t, r_t, discount_t, lambda_=0.8) + v_tm1
    returns = functools.partial(rlax.lambda_returns, lambda_=0.8)
    expected = jax.vmap(returns, 1, 1)(r_t, discount_t, v_t)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)


def test_the_papers_lambda_is_the_default():
    inputs, _ = random_inputs(4, 8, 3)
    ours, default = gae(*inputs, lambda_=0.95), gae(*inputs)
    np.testing.assert_array_equal(ours, default)
    assert not np.allclose(default, gae(*inputs, lambda_=0.9))


def test_by_hand():
    """gamma 1/2, lambda 1/2; deltas 1 + 4/2 - 1 = 2, then 1 + 0 - 4 = -3."""
    v_tm1, v_t = np.array([1.0, 4.0], np.float32), np.array([4.0, 0.0], np.float32)
    r_t, discount_t = np.array([1.0, 1.0], np.float32), np.array([0.5, 0.5], np.float32)
    advantage = gae(v_tm1, v_t, r_t, discount_t, lambda_=0.5)
    np.testing.assert_allclose(advantage, [2.0 - 0.25 * 3.0, -3.0])


def test_no_gradient_flows():
    inputs, lambda_ = random_inputs(5, 6, 3)

    def total(*args):
        return jnp.sum(gae(*args[:4], lambda_=args[4]) ** 2)

    for differentiate in (jax.grad, lambda *args: jax.jit(jax.grad(*args))):
        grads = differentiate(total, range(5))(*inputs, lambda_)
        assert len(grads) == 5
        for grad in grads:
            np.testing.assert_array_equal(grad, np.zeros((6, 3)))


def test_time_alone_batches_jit_and_vmap_agree():
    inputs, lambda_ = random_inputs(6, 11, 6)

    def run(lambda_, *args):
        return gae(*args, lambda_=lambda_)

    expected = run(lambda_, *inputs)
    assert expected.shape == (11, 6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(jax.jit(run)(lambda_, *inputs), expected)
    close(jax.jit(jax.vmap(run, 1, 1))(lambda_, *inputs), expected)
    one = [x[:, 5] for x in (lambda_, *inputs)]
    assert run(*one).shape == (11,)
    close(run(*one), expected[:, 5])
    close(jax.jit(run)(*one), expected[:, 5])
    grouped = [x.reshape(11, 2, 3) for x in (lambda_, *inputs)]
    close(jax.jit(run)(*grouped), expected.reshape(11, 2, 3))
    numbers = np.array([0.0, 0.5, 1.0], np.float32)  # as a sweep's
    swept = jax.vmap(run, (0, None, None, None, None))(numbers, *inputs)
    for number, one in zip(numbers, swept, strict=True):
        close(one, run(float(number), *inputs))


def test_devices_agree():
    inputs, lambda_ = random_inputs(7, 6, 8)
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")
    for one in (lambda_, np.float32(0.9)):
        run = jax.shard_map(
            lambda lambda_, *args: gae(*args, lambda_=lambda_),
            mesh=mesh,
            in_specs=(spec if one.ndim else jax.P(), spec, spec, spec, spec),
            out_specs=spec,
        )
        advantage = jax.jit(run)(one, *inputs)
        assert len(advantage.sharding.device_set) == 4
        expected = gae(*inputs, lambda_=one)
        np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-5)


def test_a_single_step_all_terminal_and_all_truncated():
    (v_tm1, v_t, r_t, discount_t), lambda_ = random_inputs(8, 1, 4)
    one = gae(v_tm1, v_t, r_t, discount_t, lambda_=lambda_)
    np.testing.assert_allclose(one, r_t + discount_t * v_t - v_tm1, rtol=1e-6, atol=1e-6)

    (v_tm1, v_t, r_t, discount_t), _ = random_inputs(9, 7, 4)
    terminal = jitted(v_tm1, v_t, r_t, 0 * discount_t)
    np.testing.assert_allclose(terminal, r_t - v_tm1, rtol=1e-6, atol=1e-6)
    gamma = np.full_like(r_t, GAMMA)
    truncated = jitted(v_tm1, v_t, r_t, gamma, lambda_=0 * r_t)
    np.testing.assert_allclose(truncated, r_t + gamma * v_t - v_tm1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_inputs_stay_finite(sign):
    (_, _, r_t, discount_t), lambda_ = random_inputs(10, 50, 3)
    big = np.full_like(r_t, sign * 1e30)
    advantage = jitted(-big, big, big, discount_t, lambda_=lambda_)
    assert np.all(np.isfinite(advantage)) and np.all(np.sign(advantage) == sign)


def random_episodes(rng, length, lambda_):
    """One array of several episodes, each ended either way, a reset's step after each.

    Also the advantage of every agent's step, in float64, from nothing but its own episode.
    """
    v_tm1, v_t = rng.normal(scale=3, size=(2, length))
    r_t, discount_t = rng.normal(scale=3, size=length), np.full(length, GAMMA)
    lambda_t, agents = np.full(length, lambda_), np.ones(length, bool)
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
        steps = slice(start, last + 1)
        v, r = np.append(v_tm1[steps], v_t[last]), r_t[steps]
        v_t[steps] = v[1:]
        if how == "terminated":
            v[-1] = 0.0
        delta = r + GAMMA * v[1:] - v[:-1]
        for t in range(len(r)):
            later = range(len(r) - t)
            expected[start + t] = sum((GAMMA * lambda_) ** k * delta[t + k] for k in later)
        if last + 1 < length:  # the reset's step
            agents[last + 1] = False
            r_t[last + 1] = 1e6 * rng.normal()  # EnvPool's is 0; here garbage must not matter
            v_tm1[last + 1] = v_t[last] if how == "truncated" else 1e3 * rng.normal()
        start = last + 2
    inputs = [np.float32(x) for x in (v_tm1, v_t, r_t, discount_t)]
    return inputs, np.float32(lambda_t), agents, expected, ends


@pytest.mark.parametrize("lambda_", [0.6, 1.0])
def test_episodes_in_one_array_equal_each_alone(lambda_):
    rng = np.random.default_rng(11)
    seen = []
    for _ in range(20):
        inputs, lambda_t, agents, expected, ends = random_episodes(rng, 40, lambda_)
        assert agents.sum() >= 20 and not agents.all()
        advantage = jitted(*inputs, lambda_=lambda_t)
        np.testing.assert_allclose(advantage[agents], expected[agents], rtol=2e-5, atol=2e-5)
        seen += ends
    assert min(seen.count(how) for how in ("terminated", "truncated", "array")) >= 5


def test_values_past_an_end_do_not_matter():
    """At the terminated step itself and anywhere after either end, to the bit."""
    (v_tm1, v_t, r_t, _), _ = random_inputs(12, 10, 3)
    discount_t, lambda_t = np.full((10, 3), GAMMA, np.float32), np.ones((10, 3), np.float32)
    discount_t[4, 0], lambda_t[4, 1] = 0.0, 0.0  # the third column's episode does not end
    garbage_tm1, garbage_t, garbage_r = v_tm1.copy(), v_t.copy(), r_t.copy()
    garbage_tm1[5:], garbage_t[5:], garbage_r[5:], garbage_t[4, 0] = 1e4, -1e5, -1e30, 1e4
    clean = jitted(v_tm1, v_t, r_t, discount_t, lambda_=lambda_t)
    dirty = jitted(garbage_tm1, garbage_t, garbage_r, discount_t, lambda_=lambda_t)
    np.testing.assert_array_equal(clean[:5, :2], dirty[:5, :2])
    assert np.all(clean[:5, 2] != dirty[:5, 2])


def test_inputs_are_left_as_they_are():
    """It is computed in place: in its own memory."""
    inputs, lambda_ = random_inputs(13, 9, 3)
    inputs = [jnp.array(x) for x in inputs]
    before = [np.array(x) for x in inputs]
    first = jitted(*inputs, lambda_=lambda_)
    np.testing.assert_array_equal(first, jitted(*inputs, lambda_=lambda_))
    for x, y in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    inputs, _ = random_inputs(14, 6, 3)
    for i, name in enumerate(["v_tm1", "v_t", "v_tm1", "discount_t"]):
        wrong = [x[:5] if i == j else x for j, x in enumerate(inputs)]
        with pytest.raises(ValueError, match=rf"{name} .*\(5, 3.*\.$"):
            gae(*wrong)
    with pytest.raises(ValueError, match=r"lambda_ \(6,\) .*\(6, 3\)\.$"):
        gae(*inputs, lambda_=np.ones(6))
