"""Priorities and loss of a sequence against float64 loops and hand-worked cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlsys.losses.r2d2 import sequence_loss, sequence_priority


def random_inputs(seed, length, batch):
    """Errors, masks (of every kind: nothing, everything, some) and weights."""
    rng = np.random.default_rng(seed)
    td_error = rng.normal(scale=3, size=(length, batch)).astype(np.float32)
    mask = rng.random((length, batch)) < 0.6
    mask[:, 0], mask[:, 1] = False, True
    return td_error, mask, rng.uniform(0.1, 1.0, batch).astype(np.float32)


def literal_priority(td_error, mask, eta):
    errors = [abs(float(x)) for x, learned in zip(td_error, mask, strict=True) if learned]
    return eta * max(errors) + (1 - eta) * sum(errors) / len(errors) if errors else 0.0


def literal_loss(td_error, mask, weights):
    total, (length, batch) = 0.0, td_error.shape
    for b in range(batch):
        for t in range(length):
            if mask[t, b]:
                total += float(weights[b]) * 0.5 * float(td_error[t, b]) ** 2
    return total / batch


@pytest.mark.parametrize("length", [1, 2, 80])
def test_literal_float64_loops(length):
    td_error, mask, weights = random_inputs(length, length, 9)
    assert mask.any() and not mask.all()
    for priority in (sequence_priority, jax.jit(sequence_priority)):
        for eta in (0.0, 0.5, 0.9, 1.0):
            expected = [literal_priority(td_error[:, b], mask[:, b], eta) for b in range(9)]
            np.testing.assert_allclose(priority(td_error, mask, eta=eta), expected, rtol=1e-6)
    for loss in (sequence_loss, jax.jit(sequence_loss)):
        assert loss(td_error, mask, weights).shape == ()
        expected = literal_loss(td_error, mask, weights)
        np.testing.assert_allclose(loss(td_error, mask, weights), expected, rtol=1e-6)


def test_the_papers_mixture_is_the_default():
    td_error, mask = jnp.array([[1.0], [-4.0], [1.0]]), jnp.ones((3, 1), bool)
    np.testing.assert_allclose(sequence_priority(td_error, mask), [0.9 * 4 + 0.1 * 2], rtol=1e-6)


def test_priority_is_of_absolute_errors():
    """Signed errors cancel: +2 and -2 are a priority of 2, not of 0.9 * 2 or less."""
    td_error, mask = jnp.array([[2.0, -2.0], [-2.0, -2.0]]), jnp.ones((2, 2), bool)
    np.testing.assert_allclose(sequence_priority(td_error, mask), [2.0, 2.0], rtol=1e-6)


def test_padding_does_not_lower_a_priority_or_add_to_the_loss():
    td_error, mask, weights = random_inputs(0, 20, 6)
    mask = np.ones_like(mask)
    padded_mask = np.concatenate([np.zeros((5, 6), bool), mask, np.zeros((60, 6), bool)])
    priority, loss = sequence_priority(td_error, mask), sequence_loss(td_error, mask, weights)
    loss_and_grad = jax.jit(jax.value_and_grad(sequence_loss))
    for value in (0.0, 1e9, np.inf, np.nan):
        padded = np.full(padded_mask.shape, value, np.float32)
        padded[5:25] = td_error
        padded_priority = jax.jit(sequence_priority)(padded, padded_mask)
        np.testing.assert_allclose(padded_priority, priority, rtol=1e-6)
        padded_loss, grad = loss_and_grad(padded, padded_mask, weights)
        np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
        np.testing.assert_array_equal(grad[~padded_mask], 0.0)
        assert np.all(grad[padded_mask] != 0)


def test_a_sequence_without_a_learned_step_has_priority_and_loss_zero():
    td_error = np.full((4, 2), np.nan, np.float32)
    mask = np.zeros((4, 2), bool)
    np.testing.assert_array_equal(sequence_priority(td_error, mask), [0.0, 0.0])
    loss, grad = jax.value_and_grad(sequence_loss)(td_error, mask, np.ones(2, np.float32))
    assert loss == 0 and not np.any(grad)


def test_loss_sums_over_time_and_averages_over_the_batch():
    """By hand: 1/2 (1 + 1 + 4), weight 1, and 1/2 16, weight 1/2, over 2 sequences."""
    td_error = np.array([[1.0, 4.0], [-1.0, 9.0], [2.0, 9.0]], np.float32)
    mask = np.array([[True, True], [True, False], [True, False]])
    assert sequence_loss(td_error, mask, np.array([1.0, 0.5], np.float32)) == (3.0 + 4.0) / 2


def test_gradient_is_weight_times_error_and_none_through_priority_or_weights():
    td_error, mask, weights = random_inputs(1, 7, 5)
    grad, weights_grad = jax.jit(jax.grad(sequence_loss, (0, 2)))(td_error, mask, weights)
    np.testing.assert_allclose(grad, mask * weights[None] * td_error / 5, rtol=1e-6)
    np.testing.assert_array_equal(weights_grad, np.zeros(5))
    check_grads(
        jax.jit(lambda x: sequence_loss(x, mask, weights)), (td_error,), 1, atol=1e-2, rtol=1e-2
    )
    grad = jax.grad(lambda x: jnp.sum(sequence_priority(x, mask)))(td_error)
    np.testing.assert_array_equal(grad, np.zeros_like(td_error))


def test_time_alone_and_vmap_agree_with_the_batch():
    td_error, mask, weights = random_inputs(2, 7, 5)
    expected = sequence_priority(td_error, mask)
    assert expected.shape == (5,)
    for b in range(5):
        alone = sequence_priority(td_error[:, b], mask[:, b])
        np.testing.assert_allclose(alone, expected[b], rtol=1e-6)
    mapped = jax.vmap(sequence_priority, 1)(td_error, mask)
    np.testing.assert_allclose(mapped, expected, rtol=1e-6)
    two = np.stack([td_error, 2 * td_error])
    losses = jax.vmap(sequence_loss, (0, None, None))(two, mask, weights)
    np.testing.assert_allclose(losses[1], 4 * sequence_loss(td_error, mask, weights), rtol=1e-6)


def test_devices_agree_with_weights_normalised_over_the_whole_batch():
    """Weights normalised on each device, or a mean over its valid steps, would differ."""
    td_error, mask, weights = random_inputs(3, 6, 8)
    weights /= weights.max()
    weights[:2] /= 10  # each device sees another largest weight
    assert len(set(mask.reshape(6, 4, 2).sum((0, 2)).tolist())) > 1
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")

    def on_each(td_error, mask, weights):
        loss = jax.lax.pmean(sequence_loss(td_error, mask, weights), "batch")
        return loss, sequence_priority(td_error, mask)

    loss, priority = jax.jit(
        jax.shard_map(
            on_each,
            mesh=mesh,
            in_specs=(spec, spec, jax.P("batch")),
            out_specs=(jax.P(), jax.P("batch")),
        )
    )(td_error, mask, weights)
    assert len(priority.sharding.device_set) == 4
    np.testing.assert_allclose(loss, sequence_loss(td_error, mask, weights), rtol=1e-6)
    np.testing.assert_allclose(priority, sequence_priority(td_error, mask), rtol=1e-6)


def test_extreme_errors_stay_finite():
    td_error = np.full((80, 3), -1e18, np.float32)
    mask = np.ones((80, 3), bool)
    np.testing.assert_allclose(sequence_priority(td_error * 1e18, mask), 1e36, rtol=1e-5)
    assert np.isfinite(sequence_loss(td_error, mask, np.ones(3, np.float32)))
    np.testing.assert_array_equal(sequence_priority(0 * td_error, mask), np.zeros(3))


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    td_error, mask, weights = random_inputs(4, 7, 5)
    with pytest.raises(ValueError, match=r"\(7, 5\) and mask \(6, 5\) .*\.$"):
        sequence_priority(td_error, mask[:6])
    with pytest.raises(ValueError, match=r"\(7, 5\) and mask \(6, 5\) .*\.$"):
        sequence_loss(td_error, mask[:6], weights)
    with pytest.raises(ValueError, match=r"weights \[B\] \(4,\)\.$"):
        sequence_loss(td_error, mask, weights[:4])
    with pytest.raises(ValueError, match=r"at least one sequence, not weights \(0,\)\.$"):
        sequence_loss(td_error[:, :0], mask[:, :0], weights[:0])
