"""Retrace against the paper's sum in float64, rlax, identities, and episodes computed alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rlsys.losses.n_step import n_step_return
from rlsys.losses.retrace import retrace

GAMMA = 0.9
NUM_ACTIONS = 5
jitted = jax.jit(retrace)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def pick(q, a):
    return np.take_along_axis(np.asarray(q), np.asarray(a)[..., None], -1)[..., 0]


def policies(rng, *shape):
    """pi and mu [..., A], pi with actions that it never takes."""
    pi, mu = rng.dirichlet(np.ones(NUM_ACTIONS), (2, *shape))
    pi[pi < 0.05] = 0.0
    return pi / pi.sum(-1, keepdims=True), mu


def in_a_row(seed, length, *shape, scale=3.0):
    """Arguments of T steps, and lambda_ of every kind: c_t on both sides of the clip, q_a_t and v_t
    those of the Q-values a step after q_tm1. Also q [T + 1], a [T + 1], pi and mu [T + 1]."""
    rng = np.random.default_rng(seed)
    shape = (length, *shape)
    q = scale * rng.normal(size=(length + 1, *shape[1:], NUM_ACTIONS)).astype(np.float32)
    a = rng.integers(0, NUM_ACTIONS, q.shape[:-1])
    pi, mu = (x.astype(np.float32) for x in policies(rng, *q.shape[:-1]))
    v_t = np.sum(pi * q, -1)[1:]
    c_t = np.minimum(1.0, pick(pi, a) / pick(mu, a))[1:]
    r_t = scale * rng.normal(size=shape).astype(np.float32)
    discount_t = np.float32(GAMMA) * (rng.random(shape) > 0.2).astype(np.float32)
    lambda_ = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), shape)
    arguments = q[:-1], a[:-1], v_t, pick(q, a)[1:], r_t, discount_t, c_t
    return arguments, lambda_, (q, a, pi, mu)


def literal(q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t, lambda_):
    """The paper's eq. 4 for one [T] sequence: float64, one number at a time, O(T^2).

    Q(x_s, a_s) + sum_{t>=s} gamma^{t-s} (prod_{s<i<=t} c_i) (r_t + gamma V(x_{t+1}) - Q(x_t, a_t)),
    where row t holds the step from x_t, and its v_t, q_a_t and c_t are of x_{t+1}.
    """
    length, target = len(r_t), []
    for s in range(length):
        total = q_s = float(q_tm1[s, a_tm1[s]])
        weight, q = 1.0, q_s
        for t in range(s, length):
            total += weight * (float(r_t[t]) + float(discount_t[t]) * float(v_t[t]) - q)
            weight *= float(discount_t[t]) * float(lambda_[t]) * float(c_t[t])
            q = float(q_a_t[t])
        target.append(total)
    return np.array(target)


@pytest.mark.parametrize("length", [1, 2, 30])
def test_literal_float64_loops(length):
    inputs, lambda_, _ = in_a_row(length, length, 7)
    if length == 30:
        assert {0.0, 0.3, 1.0} == {round(float(x), 1) for x in lambda_.ravel()}
        assert np.any(inputs[5] == 0) and np.any(inputs[5] > 0)
        c_t = inputs[6]
        assert np.any(c_t == 0) and np.any((0 < c_t) & (c_t < 1)) and np.any(c_t == 1)
    ours = jitted(*inputs, lambda_=lambda_)
    number = jitted(*inputs, lambda_=0.7)
    assert ours.shape == (length, 7) and ours.dtype == jnp.float32
    for b in range(7):
        column = [x[:, b] for x in inputs]
        close(ours[:, b], literal(*column, lambda_[:, b]))
        close(number[:, b], literal(*column, np.full(length, 0.7)))


def test_rlax_agrees():
    """rlax gives errors in place of targets, and adds 1e-8 to mu unless told otherwise."""
    inputs, _, (q, a, pi, mu) = in_a_row(0, 20, 4)
    q_tm1, a_tm1, _, _, r_t, discount_t, _ = inputs
    for lambda_ in (0.0, 0.6, 0.95, 1.0):
        errors = jax.vmap(functools.partial(rlax.retrace, lambda_=lambda_, eps=0.0), 1, 1)(
            q_tm1, q[1:], a_tm1, a[1:], r_t, discount_t, pi[1:], pick(mu, a)[1:]
        )
        close(jitted(*inputs, lambda_=lambda_), errors + pick(q_tm1, a_tm1))
    close(jitted(*inputs), jitted(*inputs, lambda_=0.95), rtol=0, atol=0)
    assert not np.allclose(jitted(*inputs), jitted(*inputs, lambda_=0.9))


def test_the_predicted_value_cancels():
    inputs, lambda_, _ = in_a_row(1, 9, 3)
    q_tm1, a_tm1, *rest = inputs
    expected = jitted(q_tm1, a_tm1, *rest, lambda_=lambda_)
    other = jitted(np.full_like(q_tm1, 1e30), 0 * a_tm1, *rest, lambda_=lambda_)
    np.testing.assert_array_equal(expected, other)


def test_lambda_zero_is_one_step():
    inputs, _, _ = in_a_row(2, 8, 3)
    _, _, v_t, _, r_t, discount_t, _ = inputs
    for zero in (0.0, np.zeros_like(r_t)):
        close(jitted(*inputs, lambda_=zero), r_t + discount_t * v_t)


def test_an_action_that_pi_never_takes_cuts_the_trace():
    """c_t = 0 is lambda_t = 0: both bootstrap from V(x_t)."""
    inputs, lambda_, _ = in_a_row(3, 8, 3)
    *rest, c_t = inputs
    cut = np.random.default_rng(3).random(c_t.shape) < 0.4
    assert np.any(cut[:-1])
    by_c = jitted(*rest, np.where(cut, 0.0, c_t), lambda_=lambda_)
    by_lambda = jitted(*rest, c_t, lambda_=np.where(cut, np.float32(0.0), lambda_))
    np.testing.assert_array_equal(by_c, by_lambda)
    assert not np.allclose(by_c, jitted(*inputs, lambda_=lambda_))


def test_on_a_greedy_policys_own_actions_it_is_the_whole_return():
    """pi and mu alike and certain: V(x_t) = Q(x_t, a_t) and c_t = 1, Munos et al.'s on-policy."""
    inputs, _, _ = in_a_row(4, 8, 3)
    q_tm1, a_tm1, v_t, _, r_t, discount_t, c_t = inputs
    ours = jitted(q_tm1, a_tm1, v_t, v_t, r_t, discount_t, np.ones_like(c_t), lambda_=1.0)
    close(ours, n_step_return(v_t, r_t, discount_t, 8))


def test_exact_values_are_a_fixed_point():
    """If the Q-values have no error on the steps taken, targets are Q, for any c and lambda."""
    inputs, lambda_, _ = in_a_row(5, 10, 3)
    q_tm1, a_tm1, v_t, _, r_t, discount_t, c_t = inputs
    q_a_tm1 = r_t + discount_t * v_t
    q_a_t = np.concatenate([q_a_tm1[1:], q_a_tm1[:1]])
    for one in (0.0, lambda_, 1.0):
        ours = jitted(q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t, lambda_=one)
        close(ours, q_a_tm1)


def test_repeated_targets_converge_to_the_value_of_pi_not_of_mu():
    """One state, two actions with rewards 0 and 1, gamma 1/2: pi takes the second 3 of 4 times, so
    V = 3/4 / (1 - 1/2) = 3/2, Q = 3/4 and 7/4. mu takes both alike often."""
    rng = np.random.default_rng(6)
    a = rng.integers(0, 2, 4001)
    pi, q = np.array([0.25, 0.75]), np.zeros(2)
    a_tm1, r_t = a[:-1], np.float32(a[:-1])
    c_t = np.float32(np.minimum(1.0, pi[a[1:]] / 0.5))
    for _ in range(30):
        v_t, q_a_t = np.full_like(r_t, pi @ q), np.float32(q[a[1:]])
        q_tm1 = np.broadcast_to(np.float32(q), (4000, 2))
        target = np.asarray(
            jitted(q_tm1, a_tm1, v_t, q_a_t, r_t, np.full_like(r_t, 0.5), c_t, lambda_=1.0)
        )
        q = np.array([target[a_tm1 == action].mean() for action in (0, 1)])
    np.testing.assert_allclose(q, [0.75, 1.75], atol=0.03)


def test_by_hand():
    """gamma 1/2, lambda 1/2, c 1/2: 1 + 1/2 * 8 = 5; 2 + 1/2 (6 + 1/4 (5 - 1)) = 5.5."""
    r_t, v_t = np.array([2.0, 1.0], np.float32), np.array([6.0, 8.0], np.float32)
    q_a_t, half = np.array([1.0, 9.0], np.float32), np.full(2, 0.5, np.float32)
    q_tm1, a_tm1 = np.zeros((2, 3), np.float32), np.zeros(2, int)
    ours = retrace(q_tm1, a_tm1, v_t, q_a_t, r_t, half, half, lambda_=0.5)
    np.testing.assert_allclose(ours, [5.5, 5.0])


def test_no_gradient_flows():
    (q_tm1, a_tm1, *rest), lambda_, _ = in_a_row(7, 6, 3)

    def total(q_tm1, lambda_, *rest):
        return jnp.sum(retrace(q_tm1, a_tm1, *rest, lambda_=lambda_) ** 2)

    for differentiate in (jax.grad, lambda *args: jax.jit(jax.grad(*args))):
        grads = differentiate(total, range(7))(q_tm1, lambda_, *rest)
        assert len(grads) == 7
        for grad in grads:
            assert grad.size > 0 and not np.any(grad)


def test_time_alone_batches_jit_and_vmap_agree():
    inputs, lambda_, _ = in_a_row(8, 11, 6)

    def run(lambda_, *args):
        return retrace(*args, lambda_=lambda_)

    expected = run(lambda_, *inputs)
    assert expected.shape == (11, 6)
    close(jax.jit(run)(lambda_, *inputs), expected)
    close(jax.jit(jax.vmap(run, 1, 1))(lambda_, *inputs), expected)
    one = [x[:, 5] for x in (lambda_, *inputs)]
    assert run(*one).shape == (11,)
    close(run(*one), expected[:, 5])
    close(jax.jit(run)(*one), expected[:, 5])
    grouped = [x.reshape(11, 2, 3, *x.shape[2:]) for x in (lambda_, *inputs)]
    close(jax.jit(run)(*grouped), expected.reshape(11, 2, 3))
    numbers = np.array([0.0, 0.5, 1.0], np.float32)  # as a sweep's
    swept = jax.vmap(run, (0, *[None] * 7))(numbers, *inputs)
    for number, ours in zip(numbers, swept, strict=True):
        close(ours, run(float(number), *inputs))


def test_devices_agree():
    inputs, lambda_, _ = in_a_row(9, 6, 8)
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")
    for one in (lambda_, np.float32(0.9)):
        run = jax.shard_map(
            lambda lambda_, *args: retrace(*args, lambda_=lambda_),
            mesh=mesh,
            in_specs=(spec if one.ndim else jax.P(), *[spec] * 7),
            out_specs=spec,
        )
        ours = jax.jit(run)(one, *inputs)
        assert len(ours.sharding.device_set) == 4
        close(ours, retrace(*inputs, lambda_=one))


def test_all_terminal_and_all_truncated():
    for length in (1, 7):
        (q, a, v_t, q_a_t, r_t, discount_t, c_t), lambda_, _ = in_a_row(10, length, 4)
        terminal = jitted(q, a, v_t, q_a_t, r_t, 0 * discount_t, c_t, lambda_=lambda_)
        np.testing.assert_array_equal(terminal, r_t)
        gamma = np.full_like(r_t, GAMMA)
        truncated = jitted(q, a, v_t, q_a_t, r_t, gamma, c_t, lambda_=0 * lambda_)
        close(truncated, r_t + gamma * v_t)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_inputs_stay_finite(sign):
    (q_tm1, a_tm1, _, _, r_t, discount_t, c_t), lambda_, _ = in_a_row(11, 50, 3)
    big = np.full_like(r_t, sign * 1e30)
    ours = jitted(-1e8 * q_tm1, a_tm1, big, -big, big, discount_t, c_t, lambda_=lambda_)
    assert np.all(np.isfinite(ours)) and np.all(np.sign(ours) == sign)


@pytest.mark.parametrize("lambda_", [0.6, 1.0])
def test_episodes_in_one_array_equal_each_alone(lambda_):
    """Each ended either way, a reset's step after each, whose garbage must not matter."""
    rng, seen = np.random.default_rng(12), []
    for seed in range(20):
        inputs, _, _ = in_a_row(seed, 40)
        q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t = (np.array(x) for x in inputs)
        discount_t[:], lambda_t = GAMMA, np.full(40, lambda_, np.float32)
        agents, expected, start = np.ones(40, bool), np.zeros(40), 0
        while start < 40:
            last = start + int(rng.integers(1, 9)) - 1
            how = rng.choice(["terminated", "truncated"]) if last < 40 else "array"
            last = min(last, 39)
            seen.append(how)
            alone = slice(start, last + 1)
            episode = [x[alone].copy() for x in (q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t)]
            episode[2][-1] *= how != "terminated"
            expected[alone] = literal(*episode, np.full(last + 1 - start, lambda_))
            discount_t[last] *= how != "terminated"
            lambda_t[last] *= how != "truncated"
            if last + 1 < 40:
                agents[last + 1] = False
                v_t[last + 1], q_a_t[last + 1], r_t[last + 1] = 1e3, -1e3, 1e6
            start = last + 2
        assert agents.sum() >= 20 and not agents.all()
        ours = jitted(q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t, lambda_=lambda_t)
        np.testing.assert_allclose(ours[agents], expected[agents], rtol=2e-5, atol=2e-5)
    assert min(seen.count(how) for how in ("terminated", "truncated", "array")) >= 5


def test_the_last_rows_action_does_not_matter():
    """Q(x_T, a_T) and c_T are of an action that may not be known yet."""
    inputs, lambda_, _ = in_a_row(13, 6, 3)
    q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t = (np.array(x) for x in inputs)
    q_a_t[-1], c_t[-1] = 1e6, 0.5
    ours = jitted(q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t, lambda_=lambda_)
    np.testing.assert_array_equal(ours, jitted(*inputs, lambda_=lambda_))


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    inputs, _, _ = in_a_row(14, 6, 3)
    for i, name in enumerate(["q_tm1", "a_tm1", "v_t", "q_a_t", "q_tm1", "discount_t", "c_t"]):
        wrong = [x[:5] if i == j else x for j, x in enumerate(inputs)]
        with pytest.raises(ValueError, match=rf"{name} .*\(5, 3.*\.$"):
            retrace(*wrong)
    with pytest.raises(ValueError, match=r"lambda_ \(6,\) .*\(6, 3\)\.$"):
        retrace(*inputs, lambda_=np.ones(6))
    with pytest.raises(ValueError, match=r"q_tm1 \(\) must be \[T, \.\.\., A\]"):
        retrace(np.float32(0.0), *inputs[1:])
