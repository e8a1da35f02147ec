"""Distributions over actions equal their definitions, and are drawn from as they say."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax.test_util import check_grads

from rlsys import networks
from rlsys.networks import distributions
from rlsys.networks.distributions import ILLEGAL, Categorical, Gaussian, MultiCategorical
from rlsys.types import UserError

SIZES = (2, 4, 3)  # of a MultiDiscrete of unequal dimensions
T, B = 3, 2


def draw(kind, seed=0):
    """A distribution in [T, B] states, and an action of each."""
    random = np.random.default_rng(seed)
    if kind == "gaussian":
        mean, log_deviation = random.normal(size=(2, T, B, 3)).astype(np.float32)
        return Gaussian(mean, log_deviation), random.normal(size=(T, B, 3)).astype(np.float32)
    if kind == "one":
        logits = 2 * random.normal(size=(T, B, 5)).astype(np.float32)
        return Categorical(logits), random.integers(5, size=(T, B))
    sizes = SIZES if kind == "unequal" else (3, 3)
    logits = 2 * random.normal(size=(T, B, len(sizes), max(sizes))).astype(np.float32)
    for d, size in enumerate(sizes):
        logits[..., d, size:] = ILLEGAL
    action = np.stack([random.integers(size, size=(T, B)) for size in sizes], -1)
    return MultiCategorical(logits), action


def joint(logits):
    """Every action of one state's logits [D, K] and its probability, in float64."""
    each = []
    for row in np.float64(logits):
        exp = [math.exp(x - max(row)) for x in row]
        each.append([x / sum(exp) for x in exp])
    actions = itertools.product(*(range(len(p)) for p in each))
    return {a: math.prod(p[i] for p, i in zip(each, a, strict=True)) for a in actions}


def of_state(kind, pi, t, b):
    logits = pi.logits[t, b]
    return joint(logits[None] if kind == "one" else logits)


KINDS = ["one", "equal", "unequal", "gaussian"]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_categoricals_equal_sums_over_all_joint_actions(kind):
    (pi, action), (other, _) = draw(kind), draw(kind, 1)
    log_pi_a, entropy, kl = jax.jit(lambda p, q, a: (p.log_prob(a), p.entropy(), p.kl(q)))(
        pi, other, action
    )
    for t, b in np.ndindex(T, B):
        p, q = of_state(kind, pi, t, b), of_state(kind, other, t, b)
        assert abs(sum(p.values()) - 1) < 1e-12
        taken = tuple(np.ravel(action[t, b]).tolist())
        np.testing.assert_allclose(log_pi_a[t, b], math.log(p[taken]), rtol=1e-5)
        expected = -sum(x * math.log(x) for x in p.values() if x > 0)
        np.testing.assert_allclose(entropy[t, b], expected, rtol=1e-5)
        expected = sum(x * math.log(x / q[a]) for a, x in p.items() if x > 0)
        np.testing.assert_allclose(kl[t, b], expected, rtol=1e-4)
        best = max(p, key=p.__getitem__)
        assert tuple(np.ravel(pi.mode()[t, b]).tolist()) == best


def test_gaussians_equal_their_densities():
    (pi, action), (other, _) = draw("gaussian"), draw("gaussian", 1)
    log_pi_a, entropy, kl = jax.jit(lambda p, q, a: (p.log_prob(a), p.entropy(), p.kl(q)))(
        pi, other, action
    )
    np.testing.assert_array_equal(pi.mode(), pi.mean)
    grid, step = np.linspace(-60, 60, 400_001, retstep=True)
    for t, b in np.ndindex(T, B):
        expected = np.zeros(3)
        for d in range(3):
            mu, sigma, mu2, sigma2 = np.float64(
                [pi.mean[t, b, d], np.exp(pi.log_deviation[t, b, d]),
                 other.mean[t, b, d], np.exp(other.log_deviation[t, b, d])]
            )  # fmt: skip

            def log_density(x, mu, sigma):
                return -((x - mu) ** 2) / (2 * sigma**2) - np.log(sigma * np.sqrt(2 * np.pi))

            p = np.exp(log_density(grid, mu, sigma)) * step
            difference = log_density(grid, mu, sigma) - log_density(grid, mu2, sigma2)
            expected += [
                log_density(np.float64(action[t, b, d]), mu, sigma),
                -(p * log_density(grid, mu, sigma)).sum(),
                (p * difference).sum(),
            ]
        found = log_pi_a[t, b], entropy[t, b], kl[t, b]
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_0_of_equals_and_above_0_of_others(kind):
    pi, _ = draw(kind)
    np.testing.assert_allclose(pi.kl(pi), 0, atol=1e-7)
    for seed in range(1, 20):
        other, _ = draw(kind, seed)
        assert (pi.kl(other) > 1e-3).all()
    near = jax.tree.map(lambda x: np.float32(x + 1e-4 * np.arange(x.shape[-1])), pi)
    assert (pi.kl(near) >= 0).all() and (pi.kl(near) < 1e-4).all()


@pytest.mark.parametrize(
    "kind", [pytest.param(x, marks=pytest.mark.slow if x == "equal" else ()) for x in KINDS]
)
def test_gradients_of_all_terms(kind):
    (pi, action), (other, _) = draw(kind), draw(kind, 1)
    illegal = np.zeros((), bool) if kind == "gaussian" else pi.logits == ILLEGAL

    def terms(free):
        own = free if kind == "gaussian" else pi._replace(logits=jnp.where(illegal, ILLEGAL, free))
        return own.log_prob(action) - 0.3 * own.entropy() + 0.2 * own.kl(other)

    free = pi if kind == "gaussian" else np.where(illegal, 0.0, pi.logits).astype(np.float32)
    check_grads(terms, (free,), order=1, modes=["rev"], eps=1e-2, rtol=2e-2, atol=2e-2)
    grads = jax.grad(lambda free: terms(free).sum())(free)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))
    if kind == "unequal":
        assert illegal.any() and (grads[illegal] == 0).all()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_draws_come_as_often_as_they_are_likely(kind):
    pi, _ = draw(kind)
    one, number = jax.tree.map(lambda x: x[0, 0], pi), 20_000
    keys = jax.random.split(jax.random.key(0), number)
    drawn = np.asarray(jax.jit(jax.vmap(one.sample))(keys)).reshape(number, -1)
    counts = {a: 0 for a in of_state(kind, pi, 0, 0)}
    for a in drawn.tolist():
        counts[tuple(a)] += 1
    square = 0.0
    for a, p in of_state(kind, pi, 0, 0).items():
        assert p > 0 or counts[a] == 0
        square += (counts[a] - number * p) ** 2 / max(number * p, 1e-300)
    freedom = sum(p > 0 for p in of_state(kind, pi, 0, 0).values()) - 1
    assert freedom > 3 and square < freedom + 5 * math.sqrt(2 * freedom)
    np.testing.assert_array_equal(one.sample(keys[0]), jnp.asarray(drawn[0]).reshape(
        one.sample(keys[0]).shape))  # fmt: skip


def test_draws_of_a_gaussian_have_its_mean_and_deviation_and_are_independent():
    pi, _ = draw("gaussian")
    drawn = np.asarray(jax.vmap(pi.sample)(jax.random.split(jax.random.key(0), 20_000)))
    z = ((drawn - pi.mean) / np.exp(pi.log_deviation)).reshape(20_000, -1)
    assert np.abs(z.mean(0)).max() < 5 / math.sqrt(20_000)
    assert np.abs(np.cov(z.T) - np.eye(z.shape[1])).max() < 0.05
    shares = np.mean(np.abs(z) < 1.0, axis=0)  # 68.27 % within a deviation
    assert np.abs(shares - 0.6827).max() < 0.02


def test_only_legal_actions_have_a_chance_unless_none_is_legal():
    pi, _ = draw("one")
    mask = np.zeros((T, B, 5), bool)
    mask[0, 0, [1, 3]] = mask[1] = True  # of the others, none is legal
    legal = pi.only(mask)
    probability = np.asarray(jax.nn.softmax(legal.logits))
    assert (probability[0, 0, [0, 2, 4]] == 0).all() and (probability[0, 0, [1, 3]] > 0).all()
    np.testing.assert_array_equal(legal.logits[1:], pi.logits[1:])
    assert pi.only(None).logits is pi.logits
    gaussian, _ = draw("gaussian")
    assert gaussian.only(None) is gaussian
    with pytest.raises(UserError, match="continuous"):
        gaussian.only(mask)


def outputs_of(space, outputs):
    """The policy of a space, and its parameters' first values, by name."""
    declared = {}

    def param(name, init, shape):
        declared[name] = init(jax.random.key(0), shape)
        return declared[name]

    return distributions.policy(space, outputs, param), declared


def test_each_space_has_its_distribution():
    zeros = jnp.zeros((T, B, 12))
    one, declared = outputs_of(spaces.Discrete(12), zeros)
    assert isinstance(one, Categorical) and one.logits.shape == (T, B, 12) and not declared
    equal, declared = outputs_of(spaces.MultiDiscrete([4, 4, 4]), zeros)
    assert isinstance(equal, MultiCategorical) and not declared
    np.testing.assert_allclose(equal.entropy(), 3 * math.log(4), rtol=1e-6)
    unequal, _ = outputs_of(spaces.MultiDiscrete(SIZES), zeros)
    np.testing.assert_allclose(unequal.entropy(), math.log(2 * 4 * 3), rtol=1e-6)
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(unequal.sample)(keys).reshape(-1, 3)
    np.testing.assert_array_equal(drawn.max(0), np.array(SIZES) - 1)
    low, high = np.array([-1, 0, -np.inf], np.float32), np.array([1, 10, 1], np.float32)
    box = spaces.Box(low, high)
    gaussian, declared = outputs_of(box, jnp.ones((T, B, 3)))
    assert isinstance(gaussian, Gaussian)
    np.testing.assert_allclose(declared["log_deviation"], [0.0] * 3, atol=1e-6)
    np.testing.assert_allclose(gaussian.mean[0, 0], [1, 10, 1])  # the upper bounds; no bounds: 1
    np.testing.assert_allclose(np.exp(gaussian.log_deviation[1, 1]), [1.0, 5.0, 1.0], rtol=1e-6)


def test_continuous_actions_reach_the_core_in_their_range():
    box = spaces.Box(np.array([0, -4], np.float32), np.array([10, 4], np.float32))
    action = np.array([[[0, 4], [5, 0], [99, -2]]], np.float32)
    found = distributions.encode_action(box, action)
    np.testing.assert_allclose(found, [[[-1, 1], [0, 0], [1, -0.5]]])


@pytest.mark.parametrize(
    ("network", "space", "message"),
    [
        (networks.policy_value_network, spaces.Box(-1, 1, (2, 2)), r"Box \[D\], not Box"),
        (networks.policy_value_network, spaces.MultiBinary(3), "not MultiBinary"),
        (networks.policy_value_network, spaces.Box(0, 9, (2,), np.int32), "not Box"),
        (networks.q_network, spaces.Box(-1, 1, (2,)), "can be counted, not Box"),
    ],
)
def test_actions_that_no_network_has_are_refused_in_a_sentence(network, space, message):
    with pytest.raises(UserError, match=message) as error:
        network(spaces.Box(-1, 1, (4,)), space)
    assert "\n" not in str(error.value)
