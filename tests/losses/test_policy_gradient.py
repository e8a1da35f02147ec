"""Losses of actor and critic against float64 loops, rlax, finite differences and hand-work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from jax.test_util import check_grads

from rlsys.losses.policy_gradient import baseline_loss, entropy, log_prob, policy_gradient_loss

ILLEGAL = -1e9


def random_inputs(seed, *shape, num_actions=5, scale=2.0):
    """Logits, of which some are illegal, and legal actions."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(*shape, num_actions)).astype(np.float32)
    action = rng.integers(0, num_actions, shape).astype(np.int32)
    illegal = rng.random(logits.shape) < 0.2
    np.put_along_axis(illegal, action[..., None], False, -1)
    assert illegal.any() and not illegal.all()
    return np.where(illegal, np.float32(ILLEGAL), logits), action


def literal_probabilities(logits):
    """Computes the probabilities in one state in float64; the largest logit is subtracted first."""
    logits = np.asarray(logits, np.float64)
    weights = [np.exp(x - logits.max()) for x in logits]
    return np.array(weights) / sum(weights)


def literal_entropy(logits):
    return -sum(p * np.log(p) for p in literal_probabilities(logits) if p > 0)


def test_literal_float64_loops():
    logits, action = random_inputs(0, 6, 7)
    for f, g in ((log_prob, entropy), (jax.jit(log_prob), jax.jit(entropy))):
        log_pi_a, h = f(logits, action), g(logits)
        assert log_pi_a.shape == h.shape == (6, 7)
        assert log_pi_a.dtype == h.dtype == jnp.float32
        for t in range(6):
            for b in range(7):
                p = literal_probabilities(logits[t, b])[action[t, b]]
                np.testing.assert_allclose(log_pi_a[t, b], np.log(p), rtol=1e-5, atol=1e-6)
                expected = literal_entropy(logits[t, b])
                np.testing.assert_allclose(h[t, b], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Rlax softmax")
def test_rlax_agrees():
    rng = np.random.default_rng(1)
    logits, action = random_inputs(1, 40)
    advantage = rng.normal(size=40).astype(np.float32)
    weights = rng.random(40).astype(np.float32)
    policy = rlax.softmax()
    expected = policy.logprob(action, logits)
    np.testing.assert_allclose(log_prob(logits, action), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entropy(logits), policy.entropy(logits), rtol=1e-5, atol=1e-6)

    def ours(logits):
        loss = policy_gradient_loss(log_prob(logits, action), advantage)
        return jnp.mean(weights * (loss - 0.1 * entropy(logits)))

    def theirs(logits):
        loss = rlax.policy_gradient_loss(logits, action, advantage, weights)
        return loss + 0.1 * rlax.entropy_loss(logits, weights)

    (loss, grad), (expected, expected_grad) = (
        jax.value_and_grad(f)(logits) for f in (ours, theirs)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-7)


def test_probabilities_sum_to_one_and_a_shift_changes_nothing():
    logits, _ = random_inputs(2, 9, num_actions=4)
    everything = np.broadcast_to(np.arange(4)[:, None], (4, 9))
    log_pi = log_prob(np.broadcast_to(logits, (4, 9, 4)), everything)
    np.testing.assert_allclose(jnp.exp(log_pi).sum(0), np.ones(9), rtol=1e-6)
    legal = np.where(logits == ILLEGAL, 0.0, logits)
    np.testing.assert_allclose(entropy(legal + 7.0), entropy(legal), rtol=1e-5)


def test_entropy_is_between_zero_and_the_logarithm_of_the_legal_actions():
    np.testing.assert_allclose(entropy(jnp.zeros((2, 6))), np.log(6) * np.ones(2), rtol=1e-6)
    one_legal = jnp.full(6, ILLEGAL).at[2].set(3.0)
    assert entropy(one_legal) == 0.0 and log_prob(one_legal, jnp.array(2)) == 0.0
    three_legal = jnp.full(6, ILLEGAL).at[:3].set(-40.0)
    np.testing.assert_allclose(entropy(three_legal), np.log(3), rtol=1e-6)
    logits, _ = random_inputs(3, 50)
    assert np.all(entropy(logits) > 0)
    assert np.all(entropy(logits) <= np.log((logits > ILLEGAL).sum(-1)) + 1e-6)


def test_gradients_of_log_prob_and_entropy_are_the_closed_forms():
    """d log pi(a) = 1_a - pi; dH = -pi (log pi + H)."""
    logits, action = random_inputs(4, 8)
    pi = np.array([literal_probabilities(x) for x in logits])
    grad = jax.jit(jax.grad(lambda x: jnp.sum(log_prob(x, action))))(logits)
    np.testing.assert_allclose(grad, np.eye(5)[action] - pi, rtol=1e-5, atol=1e-6)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(entropy(x))))(logits)
    h = np.array([[literal_entropy(x)] for x in logits])
    log_pi = np.log(np.where(pi > 0, pi, 1.0))
    np.testing.assert_allclose(grad, -pi * (log_pi + h), rtol=1e-4, atol=1e-6)
    assert np.any(logits == ILLEGAL)
    np.testing.assert_array_equal(grad[logits == ILLEGAL], 0.0)


def test_check_grads():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(3, 4)).astype(np.float32)
    action, advantage, target = np.array([0, 3, 2]), *rng.normal(size=(2, 3)).astype(np.float32)
    for f, x in [
        (lambda x: log_prob(x, action), logits),
        (entropy, logits),
        (lambda x: policy_gradient_loss(log_prob(x, action), advantage), logits),
        (lambda v: baseline_loss(v, target), logits[:, 0]),
    ]:
        check_grads(jax.jit(f), (x,), order=1, modes=["fwd", "rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("illegal", [ILLEGAL, -np.inf, -3e38])
def test_illegal_actions_have_no_part_and_gradients_are_finite(illegal):
    logits = np.array([[1.0, illegal, 2.0], [illegal, 0.5, illegal]], np.float32)
    legal = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_allclose(entropy(logits), [entropy(legal)[0], 0.0], rtol=1e-6)
    action = np.array([2, 1])
    log_pi_a = log_prob(logits, action)
    expected = [log_prob(legal, np.array([1]))[0], 0.0]
    np.testing.assert_allclose(log_pi_a, expected, rtol=1e-6)
    for f in (entropy, lambda x: log_prob(x, action)):
        grad = jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x))))(logits)
        assert np.all(np.isfinite(grad))
        np.testing.assert_array_equal(grad[logits == np.float32(illegal)], 0.0)
        assert np.all(grad[0, [0, 2]] != 0)


def test_extreme_logits_stay_finite():
    logits = np.array([[3e38, -3e38], [1e30, 1e30], [-3e38, -3e38], [1e4, -1e4]], np.float32)
    h, grad = entropy(logits), jax.grad(lambda x: jnp.sum(entropy(x)))(logits)
    np.testing.assert_allclose(h, [0.0, np.log(2), np.log(2), 0.0], rtol=1e-6)
    assert np.all(np.isfinite(grad))
    action = np.array([0, 1, 1, 1])
    log_pi_a, vjp = jax.vjp(lambda x: log_prob(x, action), logits)
    np.testing.assert_allclose(log_pi_a, [0.0, -np.log(2), -np.log(2), -2e4], rtol=1e-6)
    assert np.all(np.isfinite(vjp(log_pi_a)[0]))


def test_a_good_action_becomes_more_likely():
    """By hand: pi = 1/2 each, advantage 3: the loss's gradient is -3 (1_a - pi)."""
    logits, action = jnp.zeros((1, 2)), jnp.array([1])

    def loss(logits, advantage):
        return jnp.sum(policy_gradient_loss(log_prob(logits, action), advantage))

    np.testing.assert_allclose(loss(logits, jnp.array([3.0])), 3.0 * np.log(2), rtol=1e-6)
    grad, advantage_grad = jax.grad(loss, (0, 1))(logits, jnp.array([3.0]))
    np.testing.assert_allclose(grad, [[1.5, -1.5]], rtol=1e-6)
    assert advantage_grad == 0.0
    grad = jax.grad(loss)(logits, jnp.array([-3.0]))
    np.testing.assert_allclose(grad, [[-1.5, 1.5]], rtol=1e-6)


def test_the_baseline_moves_to_its_target_by_the_error():
    v, target = jnp.array([1.0, 5.0]), jnp.array([4.0, 3.0])
    np.testing.assert_allclose(baseline_loss(v, target), [4.5, 2.0])
    grads = jax.grad(lambda v, target: jnp.sum(baseline_loss(v, target)), (0, 1))(v, target)
    np.testing.assert_allclose(grads[0], [-3.0, 2.0])
    np.testing.assert_array_equal(grads[1], np.zeros(2))


def test_any_axes_jit_and_vmap_agree():
    logits, action = random_inputs(6, 12)
    expected, expected_h = log_prob(logits, action), entropy(logits)
    for shape in [(12, 1), (3, 4), (2, 2, 3)]:
        one = logits.reshape(*shape, 5), action.reshape(shape)
        for run in (log_prob, jax.jit(log_prob), jax.vmap(log_prob)):
            np.testing.assert_allclose(run(*one), expected.reshape(shape), rtol=1e-5, atol=1e-6)
        for run in (entropy, jax.jit(entropy), jax.vmap(entropy)):
            np.testing.assert_allclose(run(one[0]), expected_h.reshape(shape), rtol=1e-5, atol=1e-6)
    alone = log_prob(logits[0], action[0])
    assert alone.shape == ()
    np.testing.assert_allclose(alone, expected[0], rtol=1e-5)


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"logits \(4, 3\) .* actions \[\.\.\.\] \(3,\)\.$"):
        log_prob(x, np.zeros(3, int))
    with pytest.raises(ValueError, match=r"logits \(\) .* actions \[\.\.\.\] \(\)\.$"):
        log_prob(np.float32(0), np.int32(0))
    with pytest.raises(ValueError, match=r"log_pi_a \(4, 3\) and advantage \(3,\) .*\.$"):
        policy_gradient_loss(x, x[0])
    with pytest.raises(ValueError, match=r"v \(4, 3\) and target \(4,\) .*\.$"):
        baseline_loss(x, x[:, 0])
