"""PPO's clipped losses against float64 cases, rlax, identities, and gradients worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from jax.test_util import check_grads

from rlsys.losses.policy_gradient import baseline_loss, policy_gradient_loss
from rlsys.losses.ppo import clipped_surrogate, clipped_value_loss

EPS = 0.2


def random_inputs(seed, *shape):
    """log pi(a), log mu(a) and advantages of both signs, with ratios on every side of the clips."""
    rng = np.random.default_rng(seed)
    log_mu_a = np.log(rng.uniform(0.05, 1.0, shape)).astype(np.float32)
    log_pi_a = (log_mu_a + rng.normal(scale=0.4, size=shape)).astype(np.float32)
    return log_pi_a, log_mu_a, rng.normal(scale=3, size=shape).astype(np.float32)


def random_values(seed, *shape):
    """v, v_old and targets, with every order of the three and changes of every size."""
    rng = np.random.default_rng(seed)
    v_old = rng.normal(size=shape)
    v, target = v_old + rng.normal(scale=0.4, size=shape), v_old + rng.normal(size=shape)
    return [x.astype(np.float32) for x in (v, v_old, target)]


def literal_surrogate(log_pi_a, log_mu_a, advantage, eps):
    """One sample, float64, by cases instead of by min and clip."""
    ratio, advantage = np.exp(float(log_pi_a) - float(log_mu_a)), float(advantage)
    if advantage > 0 and ratio > 1 + eps:
        return -(1 + eps) * advantage
    if advantage < 0 and ratio < 1 - eps:
        return -(1 - eps) * advantage
    return -ratio * advantage


def literal_value_loss(v, v_old, target, eps):
    v, v_old, target = float(v), float(v_old), float(target)
    clipped = v
    if v > v_old + eps:
        clipped = v_old + eps
    if v < v_old - eps:
        clipped = v_old - eps
    return max((v - target) ** 2, (clipped - target) ** 2) / 2


def cases(ratio, advantage):
    """Every combination of the ratio's side and the advantage's sign."""
    side = np.digitize(ratio, [1 - EPS, 1.0, 1 + EPS])
    return set(zip(side.ravel().tolist(), (advantage > 0).ravel().tolist(), strict=True))


@pytest.mark.parametrize("eps", [0.0, 0.1, EPS, 0.5])
def test_literal_float64_loops(eps):
    inputs, values = random_inputs(0, 20, 30), random_values(0, 20, 30)
    assert len(cases(np.exp(inputs[0] - inputs[1]), inputs[2])) == 8
    change = np.digitize(values[0] - values[1], [-EPS, EPS])
    assert len(set(zip(change.ravel(), (values[2] > values[1]).ravel(), strict=True))) == 6
    for f, literal, args in [
        (clipped_surrogate, literal_surrogate, inputs),
        (clipped_value_loss, literal_value_loss, values),
    ]:
        expected = np.vectorize(literal)(*args, eps)
        for run in (f, jax.jit(f)):
            loss = run(*args, clip_eps=eps)
            assert loss.shape == (20, 30) and loss.dtype == jnp.float32
            np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_rlax_agrees():
    log_pi_a, log_mu_a, advantage = random_inputs(1, 200)

    def ours(log_pi_a):
        return jnp.mean(clipped_surrogate(log_pi_a, log_mu_a, advantage, clip_eps=EPS))

    def theirs(log_pi_a):
        ratio = jnp.exp(log_pi_a - log_mu_a)
        return rlax.clipped_surrogate_pg_loss(ratio, advantage, EPS)

    (loss, grad), (expected, expected_grad) = (
        jax.value_and_grad(f)(log_pi_a) for f in (ours, theirs)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-7)


def test_the_papers_epsilon_is_the_default():
    inputs, values = random_inputs(2, 50), random_values(2, 50)
    for f, args in [(clipped_surrogate, inputs), (clipped_value_loss, values)]:
        np.testing.assert_array_equal(f(*args), f(*args, clip_eps=0.2))
        assert not np.allclose(f(*args), f(*args, clip_eps=0.1))


def test_at_the_policy_that_acted_it_is_the_policy_gradient():
    """Also to the last bit of the kink that clip_eps = 0 puts there: the value, not the slope."""
    log_pi_a, _, advantage = random_inputs(3, 40)
    for eps in (0.0, EPS):
        loss = clipped_surrogate(log_pi_a, log_pi_a, advantage, clip_eps=eps)
        np.testing.assert_array_equal(loss, -advantage)
    grad = jax.grad(lambda x: jnp.sum(clipped_surrogate(x, log_pi_a, advantage)))(log_pi_a)
    expected = jax.grad(lambda x: jnp.sum(policy_gradient_loss(x, advantage)))(log_pi_a)
    np.testing.assert_allclose(grad, expected, rtol=1e-6)


def test_without_a_clip_it_is_importance_sampling_and_the_plain_value_loss():
    log_pi_a, log_mu_a, advantage = random_inputs(4, 40)
    loss = clipped_surrogate(log_pi_a, log_mu_a, advantage, clip_eps=np.inf)
    expected = -np.exp(log_pi_a - log_mu_a) * advantage
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    v, v_old, target = random_values(4, 40)
    loss = clipped_value_loss(v, v_old, target, clip_eps=np.inf)
    np.testing.assert_allclose(loss, baseline_loss(v, target), rtol=1e-4, atol=1e-6)
    loss = clipped_value_loss(v, v, target)
    np.testing.assert_array_equal(loss, baseline_loss(v, target))


def test_both_are_bounds_from_above():
    """Pessimistic: never less than the loss without the clip."""
    log_pi_a, log_mu_a, advantage = random_inputs(5, 500)
    plain = -np.exp(log_pi_a - log_mu_a) * advantage
    assert np.all(clipped_surrogate(log_pi_a, log_mu_a, advantage) >= plain - 1e-5)
    v, v_old, target = random_values(5, 500)
    assert np.all(clipped_value_loss(v, v_old, target) >= baseline_loss(v, target) - 1e-6)


def test_gradient_by_hand_in_every_case():
    """None where going on would only be praised; the full one where it undoes harm."""
    ratio = np.array([0.5, 0.9, 1.1, 2.0] * 2, np.float32)
    advantage = np.repeat(np.array([2.0, -2.0], np.float32), 4)
    log_mu_a = np.full(8, -1.0, np.float32)
    grad = jax.grad(lambda x: jnp.sum(clipped_surrogate(x, log_mu_a, advantage)))(
        np.log(ratio) + log_mu_a
    )
    expected = -ratio * advantage * np.array([1, 1, 1, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(grad, expected, rtol=1e-5)
    np.testing.assert_array_equal(grad[3:5], 0.0)

    v_old, target = np.zeros(6, np.float32), np.array([1, 1, 1, -1, -1, -1], np.float32)
    v = np.array([-0.5, 0.1, 0.5] * 2, np.float32)
    grad = jax.grad(lambda v: jnp.sum(clipped_value_loss(v, v_old, target)))(v)
    np.testing.assert_allclose(grad, (v - target) * np.array([1, 1, 0, 0, 1, 1]), rtol=1e-6)
    np.testing.assert_array_equal(grad[2:4], 0.0)


def test_check_grads_away_from_kinks_and_none_through_constants():
    log_pi_a, log_mu_a, advantage = random_inputs(6, 60)
    ratio = np.exp(log_pi_a - log_mu_a)
    away = np.min(np.abs(ratio[:, None] - np.array([1 - EPS, 1 + EPS])), 1) > 0.03
    assert away.sum() > 20
    inputs = [x[away] for x in (log_pi_a, log_mu_a, advantage)]
    v, v_old, target = random_values(6, 60)
    away = (abs(abs(v - v_old) - EPS) > 0.03) & (abs(v + np.clip(v, v_old - EPS, v_old + EPS)
        - 2 * target) > 0.03)  # fmt: skip
    assert away.sum() > 20
    values = [x[away] for x in (v, v_old, target)]
    for f, args in [(clipped_surrogate, inputs), (clipped_value_loss, values)]:
        run = jax.jit(lambda x, args=args, f=f: f(x, *args[1:]))
        check_grads(run, (args[0],), order=1, atol=2e-2, rtol=2e-2, eps=1e-3)
        grads = jax.grad(lambda *args, f=f: jnp.sum(f(*args)), (0, 1, 2))(*args)
        assert np.any(grads[0]) and not np.any(grads[1]) and not np.any(grads[2])


def test_any_axes_jit_and_vmap_agree():
    for f, args in [
        (clipped_surrogate, random_inputs(7, 12)),
        (clipped_value_loss, random_values(7, 12)),
    ]:
        expected = f(*args)
        assert f(*[x[0] for x in args]).shape == ()
        for shape in [(12, 1), (3, 4), (2, 2, 3)]:
            one = [x.reshape(shape) for x in args]
            for run in (f, jax.jit(f), jax.vmap(f)):
                np.testing.assert_allclose(run(*one), expected.reshape(shape), rtol=1e-6, atol=1e-7)
        many = np.array([0.0, 0.1, 0.3], np.float32)  # as a sweep's
        swept = jax.vmap(lambda eps, f=f, args=args: f(*args, clip_eps=eps))(many)
        for eps, one in zip(many, swept, strict=True):
            np.testing.assert_allclose(one, f(*args, clip_eps=float(eps)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("advantage", [-1e3, 0.0, 1e3])
def test_extreme_ratios_keep_loss_and_gradient_finite(advantage):
    """A nan or inf of one sample would stay one under a mask of 0."""
    log_pi_a = np.array([0.0, -1e9, -1e9, 0.0, -100.0], np.float32)
    log_mu_a = np.array([-1e9, 0.0, -1e9, -100.0, 0.0], np.float32)
    advantage = np.full(5, advantage, np.float32)
    for run in (clipped_surrogate, jax.jit(clipped_surrogate)):
        loss, vjp = jax.vjp(lambda x, run=run: run(x, log_mu_a, advantage), log_pi_a)
        assert np.all(np.isfinite(loss))
        for ct in (np.ones(5, np.float32), np.zeros(5, np.float32)):
            assert np.all(np.isfinite(vjp(ct)[0]))
    if advantage[0] > 0:
        np.testing.assert_allclose(loss[::3], -1.2e3, rtol=1e-6)
        np.testing.assert_array_equal(vjp(np.ones(5, np.float32))[0][::3], 0.0)


def test_extreme_values_keep_loss_and_gradient_finite():
    v, v_old, target = (np.array(x, np.float32) for x in ([1e18, -1e18], [-1e18, 0], [0, 1e18]))
    loss, vjp = jax.vjp(lambda v: clipped_value_loss(v, v_old, target), v)
    assert np.all(np.isfinite(loss)) and np.all(np.isfinite(vjp(np.ones(2, np.float32))[0]))


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"log_pi_a \(4, 3\), log_mu_a \(3,\), .* one shape\.$"):
        clipped_surrogate(x, x[0], x)
    with pytest.raises(ValueError, match=r"v \(4, 3\), v_old \(4, 3\), target \(4,\) .*\.$"):
        clipped_value_loss(x, x, x[:, 0])
