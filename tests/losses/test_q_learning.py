"""n-step double Q errors against float64 loops, rlax, identities and cases worked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from jax.test_util import check_grads

from rlsys.losses.q_learning import n_step_double_q
from rlsys.losses.value_rescaling import h, h_inv

GAMMA = 0.9
jitted = jax.jit(n_step_double_q, static_argnames=("n", "h", "h_inv"))


def random_inputs(seed, *shape, num_actions=5, scale=3.0):
    """q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t, and lambda_t of every kind."""
    rng = np.random.default_rng(seed)
    q_tm1, q_target_t = scale * rng.normal(size=(2, *shape, num_actions)).astype(np.float32)
    a_tm1, a_star_t = rng.integers(0, num_actions, (2, *shape)).astype(np.int32)
    r_t = scale * rng.normal(size=shape).astype(np.float32)
    discount_t = np.float32(GAMMA) * (rng.random(shape) > 0.2).astype(np.float32)
    lambda_t = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), shape)
    return (q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t), lambda_t


def h64(x):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x


def h_inv64(x):
    return np.sign(x) * (((np.sqrt(1 + 4e-3 * (abs(x) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1)


def pick(q, a):
    return np.take_along_axis(np.asarray(q), np.asarray(a)[..., None], -1)[..., 0]


def literal(inputs, n, lambda_t, h=lambda x: x, h_inv=lambda x: x):
    """The equations of the docstring for one [T] sequence: float64, one number at a time."""
    q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t = inputs
    length = len(r_t)
    v_t = [h_inv(float(q_target_t[t, a_star_t[t]])) for t in range(length)]

    def g(k, t):
        if k == 0 or t == length:
            return v_t[t - 1]
        goes_on = float(lambda_t[t]) if k > 1 else 0.0
        after = (1 - goes_on) * v_t[t] + goes_on * g(k - 1, t + 1)
        return float(r_t[t]) + float(discount_t[t]) * after

    return np.array([h(g(n, t)) - float(q_tm1[t, a_tm1[t]]) for t in range(length)])


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_literal_float64_loops(n, rescaled):
    length, batch = 12, 7
    inputs, lambda_t = random_inputs(n, length, batch)
    assert {0.0, 0.3, 1.0} == {round(float(x), 1) for x in lambda_t.ravel()}
    assert np.any(inputs[5] == 0) and np.any(inputs[5] > 0)
    pair = dict(h=h, h_inv=h_inv) if rescaled else {}
    pair64 = dict(h=h64, h_inv=h_inv64) if rescaled else {}
    td_error = jitted(*inputs, n, lambda_t=lambda_t, **pair)
    assert td_error.shape == (length, batch) and td_error.dtype == jnp.float32
    for b in range(batch):
        expected = literal([x[:, b] for x in inputs], n, lambda_t[:, b], **pair64)
        np.testing.assert_allclose(td_error[:, b], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 5, 20])
def test_rlax_agrees(n):
    """Given our h, since rlax's own is inexact in float32, and [T] at a time, as it requires."""
    inputs, lambda_t = random_inputs(n, 9, 4)
    pair = rlax.TxPair(h, h_inv)
    theirs = jax.vmap(
        lambda *args: rlax.transformed_n_step_q_learning(*args, n, tx_pair=pair), 1, 1
    )(*inputs)
    ours = jitted(*inputs, n, h=h, h_inv=h_inv)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

    q_tm1, _, q_target_t, a_star_t, r_t, discount_t = inputs
    returns = jax.vmap(
        lambda r, discount, v, lambda_: rlax.n_step_bootstrapped_returns(
            r, discount, v, n, lambda_
        ),
        1,
        1,
    )(r_t, discount_t, pick(q_target_t, a_star_t), lambda_t)
    ours = jitted(np.zeros_like(q_tm1), *inputs[1:], n, lambda_t=lambda_t)
    np.testing.assert_allclose(ours, returns, rtol=1e-5, atol=1e-5)


def test_one_step_is_the_double_q_error():
    (q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t), lambda_t = random_inputs(0, 8, 3)
    inputs = q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t
    expected = r_t + discount_t * pick(q_target_t, a_star_t) - pick(q_tm1, a_tm1)
    np.testing.assert_allclose(n_step_double_q(*inputs, 1), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        n_step_double_q(*inputs, 1), n_step_double_q(*inputs, 1, lambda_t=lambda_t)
    )


def test_n_of_the_length_or_more_is_the_whole_discounted_return():
    inputs, _ = random_inputs(1, 8, 3)
    q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t = inputs
    g = pick(q_target_t, a_star_t)[-1].astype(np.float64)
    returns = []
    for t in reversed(range(8)):
        g = r_t[t] + discount_t[t] * g
        returns.insert(0, g)
    for n in (8, 9, 100):
        td_error = jitted(*inputs, n)
        np.testing.assert_allclose(td_error, returns - pick(q_tm1, a_tm1), rtol=1e-5, atol=1e-5)


def test_lambda_zero_everywhere_is_one_step():
    inputs, _ = random_inputs(2, 8, 3)
    one_step = n_step_double_q(*inputs, 1, h=h, h_inv=h_inv)
    for zero in (0.0, np.zeros((8, 3), np.float32)):
        td_error = n_step_double_q(*inputs, 5, lambda_t=zero, h=h, h_inv=h_inv)
        np.testing.assert_array_equal(td_error, one_step)


def test_lambda_one_is_the_default():
    inputs, _ = random_inputs(3, 8, 3)
    ones = n_step_double_q(*inputs, 5, lambda_t=np.ones((8, 3), np.float32))
    np.testing.assert_array_equal(n_step_double_q(*inputs, 5), ones)
    assert not np.allclose(ones, n_step_double_q(*inputs, 5, lambda_t=0.0))


def test_rescaling_is_where_the_equation_has_it():
    """With Q = h(values), the rescaled target is h of the return of the values themselves."""
    (q_tm1, a_tm1, values_t, *rest), lambda_t = random_inputs(4, 8, 3)
    q_tm1 = np.zeros_like(q_tm1)
    plain = n_step_double_q(q_tm1, a_tm1, values_t, *rest, 3, lambda_t=lambda_t)
    rescaled = n_step_double_q(
        q_tm1, a_tm1, h(values_t), *rest, 3, lambda_t=lambda_t, h=h, h_inv=h_inv
    )
    np.testing.assert_allclose(rescaled, h(plain), rtol=1e-5, atol=1e-5)


def test_the_online_network_chooses_and_the_target_network_values():
    """By hand: the target network would have chosen action 0, worth 100."""
    q_tm1, q_target_t = np.array([[1.0, 2.0]]), np.array([[100.0, 7.0]])
    a_tm1, a_star_t = np.array([1]), np.array([1])
    td_error = n_step_double_q(
        q_tm1, a_tm1, q_target_t, a_star_t, np.array([3.0]), np.array([0.5]), 1
    )
    np.testing.assert_allclose(td_error, [3.0 + 0.5 * 7.0 - 2.0])


def test_the_bootstrap_is_n_steps_away_and_discounted_n_times():
    """Not gamma V(x_t), as RLlib has it, nor gamma V(x_{t+n-1}): by hand, gamma 1/2, n 3."""
    r_t, discount_t = np.ones(5, np.float32), np.full(5, 0.5, np.float32)
    q_target_t = np.array([[8.0], [80.0], [800.0], [8000.0], [80000.0]], np.float32)
    zeros = np.zeros(5, np.int32)
    td_error = n_step_double_q(np.zeros((5, 1)), zeros, q_target_t, zeros, r_t, discount_t, 3)
    expected = [1.75 + 100, 1.75 + 1000, 1.75 + 10000, 1.5 + 20000, 1 + 40000]
    np.testing.assert_allclose(td_error, expected)


def test_gradient_reaches_the_chosen_q_only():
    (q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t), lambda_t = random_inputs(6, 6, 3)

    def total(q_tm1, q_target_t, r_t, discount_t, lambda_t):
        td_error = n_step_double_q(
            q_tm1,
            a_tm1,
            q_target_t,
            a_star_t,
            r_t,
            discount_t,
            3,
            lambda_t=lambda_t,
            h=h,
            h_inv=h_inv,
        )
        return jnp.sum(td_error)

    grads = jax.jit(jax.grad(total, argnums=range(5)))(q_tm1, q_target_t, r_t, discount_t, lambda_t)
    np.testing.assert_array_equal(grads[0], -np.eye(5, dtype=np.float32)[a_tm1])
    for grad in grads[1:]:
        assert grad.size > 0 and not np.any(grad)
    check_grads(
        lambda q: 0.5 * jitted(q, a_tm1, q_target_t, a_star_t, r_t, discount_t, 3) ** 2,
        (q_tm1,),
        order=1,
        atol=2e-2,
        rtol=2e-2,
    )


def test_a_good_surprise_is_positive_and_raises_q():
    """By hand: predicted 1, got 2 and then 0.5 * 6: the error is +4."""
    arguments = [jnp.array(x) for x in ([0], [[6.0]], [0], [2.0], [0.5])]
    loss = lambda q: 0.5 * jnp.sum(n_step_double_q(q, *arguments, 1) ** 2)  # noqa: E731
    q = jnp.array([[1.0]])
    assert n_step_double_q(q, *arguments, 1)[0] == 4.0
    assert jax.grad(loss)(q)[0, 0] == -4.0


def test_time_alone_batches_jit_and_vmap_agree():
    inputs, lambda_t = random_inputs(7, 11, 6)

    def run(lambda_t, *args):
        return n_step_double_q(*args, 4, lambda_t=lambda_t, h=h, h_inv=h_inv)

    expected = run(lambda_t, *inputs)
    assert expected.shape == (11, 6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(jax.jit(run)(lambda_t, *inputs), expected)
    close(jax.jit(jax.vmap(run, 1, 1))(lambda_t, *inputs), expected)
    one = [x[:, 5] for x in (lambda_t, *inputs)]
    close(run(*one), expected[:, 5])
    close(jax.jit(run)(*one), expected[:, 5])
    grouped = [x.reshape(11, 2, 3, *x.shape[2:]) for x in (lambda_t, *inputs)]
    close(jax.jit(run)(*grouped), expected.reshape(11, 2, 3))


def test_devices_agree():
    inputs, lambda_t = random_inputs(8, 6, 8)
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")

    def squares(q_tm1, lambda_t, *rest):
        error = n_step_double_q(q_tm1, *rest, 3, lambda_t=lambda_t, h=h, h_inv=h_inv)
        return jnp.sum(error**2), error

    run = jax.value_and_grad(squares, has_aux=True)
    (_, expected), expected_grad = jax.jit(run)(inputs[0], lambda_t, *inputs[1:])

    def on_each(*args):
        (_, error), grad = run(*args)
        return error, grad

    sharded = jax.shard_map(on_each, mesh=mesh, in_specs=(spec,) * 7, out_specs=(spec, spec))
    error, grad = jax.jit(sharded)(inputs[0], lambda_t, *inputs[1:])
    assert len(error.sharding.device_set) == 4
    np.testing.assert_allclose(error, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 5])
def test_a_single_step_all_terminal_and_all_truncated(n):
    inputs, lambda_t = random_inputs(9, 1, 4)
    one = jitted(*inputs, n=n, lambda_t=lambda_t)
    np.testing.assert_array_equal(one, jitted(*inputs, n=1))

    (q_tm1, a_tm1, q_target_t, a_star_t, r_t, _), _ = random_inputs(10, 7, 4)
    run = functools.partial(jitted, q_tm1, a_tm1, q_target_t, a_star_t, r_t)
    terminal = run(np.zeros_like(r_t), n=n, h=h, h_inv=h_inv)
    np.testing.assert_allclose(terminal, h(r_t) - pick(q_tm1, a_tm1), rtol=1e-6, atol=1e-6)
    truncated = run(np.full_like(r_t, GAMMA), n=n, lambda_t=np.zeros_like(r_t))
    expected = r_t + np.float32(GAMMA) * pick(q_target_t, a_star_t) - pick(q_tm1, a_tm1)
    np.testing.assert_allclose(truncated, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_inputs_stay_finite(sign):
    inputs, lambda_t = random_inputs(11, 9, 3)
    q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t = inputs
    big = np.full_like(r_t, sign * 1e30)
    targets = (a_tm1, 0 * q_target_t + big[..., None], a_star_t, big, discount_t)

    def run(q):
        return jitted(q, *targets, n=5, lambda_t=lambda_t, h=h, h_inv=h_inv)

    td_error, vjp = jax.vjp(run, 0 * q_tm1 - big[..., None])
    assert np.all(np.isfinite(td_error)) and np.all(np.sign(td_error) == sign)
    assert np.all(np.isfinite(vjp(td_error)[0]))


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    inputs, _ = random_inputs(12, 6, 3)
    for i, message in enumerate(
        ["q_tm1", "a_tm1", "q_target_t", "a_star_t", "q_tm1", "discount_t"]
    ):
        wrong = [x[:5] if i == j else x for j, x in enumerate(inputs)]
        with pytest.raises(ValueError, match=rf"{message} .*\(5, 3.*\.$"):
            n_step_double_q(*wrong, 3)
    with pytest.raises(ValueError, match=r"lambda_t \(6,\) .*\(6, 3\)\.$"):
        n_step_double_q(*inputs, 3, lambda_t=np.ones(6))
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        n_step_double_q(*inputs, 0)
