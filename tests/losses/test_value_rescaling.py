"""h and h_inv against their closed forms in 60 decimal digits."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlsys.losses.value_rescaling import h, h_inv

MAGNITUDES = np.logspace(-12, 6, 181)
POINTS = np.concatenate([-MAGNITUDES[::-1], [0.0], MAGNITUDES]).astype(np.float32)


def exact(closed_form, points, eps):
    with decimal.localcontext(prec=60):
        return np.array([float(closed_form(decimal.Decimal(float(x)), eps)) for x in points])


def exact_h(x, eps):
    return ((abs(x) + 1).sqrt() - 1).copy_sign(x) + eps * x


def exact_h_inv(x, eps):
    root = (1 + 4 * eps * (abs(x) + 1 + eps)).sqrt()
    return (((root - 1) / (2 * eps)) ** 2 - 1).copy_sign(x)


@pytest.mark.parametrize("eps", ["0.001", "0.01", "1"])
@pytest.mark.parametrize("ours, closed_form", [(h, exact_h), (h_inv, exact_h_inv)])
def test_float32_agrees_with_the_exact_closed_form(ours, closed_form, eps):
    expected = exact(closed_form, POINTS, decimal.Decimal(eps))
    assert np.count_nonzero(expected) == len(POINTS) - 1
    np.testing.assert_allclose(ours(POINTS, float(eps)), expected, rtol=4e-7, atol=0)


def test_the_default_epsilon_is_the_papers():
    np.testing.assert_array_equal(h(POINTS), h(POINTS, 1e-3))
    np.testing.assert_array_equal(h_inv(POINTS), h_inv(POINTS, 1e-3))


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1e-2])
def test_each_undoes_the_other(eps):
    x = POINTS[np.abs(POINTS) >= 1e-6]
    assert x.min() <= -9e5 and x.max() >= 9e5
    np.testing.assert_allclose(h(h_inv(x, eps), eps), x, rtol=1e-6, atol=0)
    np.testing.assert_allclose(h_inv(h(x, eps), eps), x, rtol=1e-6, atol=0)


def test_both_are_odd_and_increase():
    for f in (h, h_inv):
        np.testing.assert_array_equal(f(-POINTS), -f(POINTS))
        assert np.all(np.diff(f(POINTS)) > 0)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_gradients_at_zero_are_one_half_plus_epsilon_and_its_inverse(zero):
    np.testing.assert_allclose(jax.grad(h)(zero), 0.501, rtol=1.2e-7)  # to the last bit
    np.testing.assert_allclose(jax.grad(h_inv)(zero), 1 / 0.501, rtol=1.2e-7)
    assert h(zero) == 0 and h_inv(zero) == 0


def test_gradients():
    with decimal.localcontext(prec=60):
        slope = [
            float(1 / (2 * (abs(decimal.Decimal(float(x))) + 1).sqrt()) + decimal.Decimal("0.001"))
            for x in POINTS
        ]
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(h)))(POINTS), slope, rtol=1e-6)
    product = jax.jit(jax.vmap(jax.grad(h_inv)))(h(POINTS)) * np.array(slope)
    np.testing.assert_allclose(product, 1.0, rtol=2e-6)
    away = np.array([-4.0, -2.0, -0.5, 0.5, 2.0, 4.0], np.float32)
    check_grads(jax.jit(h), (away,), order=1, atol=1e-2, rtol=1e-2, eps=1e-2)
    check_grads(jax.jit(h_inv), (away,), order=1, atol=1e-2, rtol=1e-2, eps=1e-2)


def test_any_shape_with_and_without_jit():
    for f in (h, h_inv):
        flat = f(POINTS[:360])
        assert flat.shape == (360,)
        for shape in [(360,), (36, 10), (6, 6, 10)]:
            x = jax.jit(f)(POINTS[:360].reshape(shape))
            np.testing.assert_allclose(x, flat.reshape(shape), rtol=1e-6)


def test_extreme_values_and_their_gradients_are_finite():
    for f, largest in [(h, 3e38), (h_inv, 1e35)]:
        x = jnp.array([-largest, -1e-38, 0.0, 1e-38, largest], jnp.float32)
        assert np.all(np.isfinite(f(x)))
        assert np.all(np.isfinite(jax.jit(jax.vmap(jax.grad(f)))(x)))
