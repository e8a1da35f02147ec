"""V-trace against the paper's sums in float64, rlax, identities, and episodes computed alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rlsys.losses.gae import gae
from rlsys.losses.vtrace import VTrace, vtrace

GAMMA = 0.9
CLIPS = dict(clip_rho=1.3, clip_pg_rho=0.8)
jitted = jax.jit(vtrace)


def random_inputs(seed, *shape, scale=3.0):
    """v_tm1, v_t, r_t, discount_t, rho_tm1 on both sides of every clip, and lambda_ of every kind.

    v_t is not v_tm1 a step later.
    """
    rng = np.random.default_rng(seed)
    v_tm1, v_t, r_t = scale * rng.normal(size=(3, *shape)).astype(np.float32)
    discount_t = np.float32(GAMMA) * (rng.random(shape) > 0.2).astype(np.float32)
    rho_tm1 = np.exp(rng.normal(scale=0.5, size=shape)).astype(np.float32)
    rho_tm1 *= rng.random(shape) > 0.1
    lambda_ = rng.choice(np.array([0.0, 0.3, 1.0], np.float32), shape)
    return (v_tm1, v_t, r_t, discount_t, rho_tm1), lambda_


def in_a_row(seed, *shape):
    """The same, but v_t is v_tm1 a step later."""
    (v, _, *rest), lambda_ = random_inputs(seed, shape[0] + 1, *shape[1:])
    return (v[:-1], v[1:], *(x[1:] for x in rest)), lambda_[1:]


def literal(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_, clip_rho=1.0, clip_pg_rho=1.0):
    """The docstring's sums for one [T] sequence: float64, one number at a time, O(T^2)."""
    inputs = [[float(x) for x in xs] for xs in (v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_)]
    v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_ = inputs
    length = len(r_t)
    beyond = [0.0] * (length + 1)  # v_s - V(x_s)
    for s in range(length):
        weight = 1.0  # gamma^{t-s} prod_i c_i
        for t in range(s, length):
            delta = min(clip_rho, rho_tm1[t]) * (r_t[t] + discount_t[t] * v_t[t] - v_tm1[t])
            beyond[s] += weight * delta
            weight *= discount_t[t] * lambda_[t] * min(1.0, rho_tm1[t])
    vs_tm1 = [v_tm1[s] + beyond[s] for s in range(length)]
    advantage = []
    for s in range(length):
        v_next = v_t[s] + beyond[s + 1]
        q = lambda_[s] * v_next + (1.0 - lambda_[s]) * v_t[s]
        advantage.append(min(clip_pg_rho, rho_tm1[s]) * (r_t[s] + discount_t[s] * q - v_tm1[s]))
    return np.array(vs_tm1), np.array(advantage)


def assert_close(ours, expected, tolerance=1e-5):
    for x, y in zip(ours, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("clips", [{}, CLIPS])
@pytest.mark.parametrize("length", [1, 2, 30])
def test_literal_float64_loops(length, clips):
    inputs, lambda_ = random_inputs(length, length, 7)
    if length == 30:
        assert {0.0, 0.3, 1.0} == {round(float(x), 1) for x in lambda_.ravel()}
        assert np.all(np.histogram(inputs[4], [0.0, 0.8, 1.0, 1.3, np.inf])[0] > 0)
        assert np.any(inputs[4] == 0)
        assert np.any(inputs[3] == 0) and np.any(inputs[3] > 0)
    ours = jitted(*inputs, lambda_=lambda_, **clips)
    paper = jitted(*inputs, **clips)
    assert isinstance(ours, VTrace)
    for x in ours:
        assert x.shape == (length, 7) and x.dtype == jnp.float32
    for b in range(7):
        column = [x[:, b] for x in inputs]
        expected = literal(*column, lambda_[:, b], **clips)
        assert_close([x[:, b] for x in ours], expected)
        expected = literal(*column, np.ones(length), **clips)
        assert_close([x[:, b] for x in paper], expected)


@pytest.mark.parametrize("clips", [(1.0, 1.0), (1.3, 0.8)])
def test_rlax_agrees(clips):
    """rlax takes V(x_t) of the advantage from v_tm1, so v_t must be v_tm1 a step later."""
    inputs, lambda_ = in_a_row(0, 20, 4)
    theirs = jax.vmap(
        lambda *args: rlax.vtrace_td_error_and_advantage(*args, *clips), in_axes=1, out_axes=1
    )
    for one in (lambda_, np.full_like(lambda_, 0.7), np.ones_like(lambda_)):
        expected = theirs(*inputs, one)
        ours = jitted(*inputs, lambda_=one, clip_rho=clips[0], clip_pg_rho=clips[1])
        assert_close(ours, (inputs[0] + expected.errors, expected.pg_advantage))


def test_on_policy_the_target_is_the_n_step_return():
    """The paper's eq. 2: rho = 1 and lambda = 1."""
    (v_tm1, v_t, r_t, discount_t, rho_tm1), _ = in_a_row(1, 8, 3)
    g, returns = v_t[-1].astype(np.float64), []
    for t in reversed(range(8)):
        g = r_t[t] + discount_t[t] * g
        returns.insert(0, g)
    ours = jitted(v_tm1, v_t, r_t, discount_t, np.ones_like(rho_tm1))
    assert_close(ours, (returns, returns - v_tm1))


def test_on_policy_it_is_gae():
    (v_tm1, v_t, r_t, discount_t, rho_tm1), lambda_ = random_inputs(2, 12, 3)
    for one in (lambda_, 0.0, 0.7, 1.0):
        advantage = gae(v_tm1, v_t, r_t, discount_t, lambda_=one)
        ours = jitted(v_tm1, v_t, r_t, discount_t, np.ones_like(rho_tm1), lambda_=one)
        assert_close(ours, (v_tm1 + advantage, advantage))


def test_another_policy_that_never_acts_so_changes_nothing():
    """rho = 0: no error, no advantage."""
    inputs, _ = random_inputs(3, 8, 3)
    ours = jitted(*inputs[:4], np.zeros_like(inputs[4]))
    np.testing.assert_array_equal(ours.vs_tm1, inputs[0])
    np.testing.assert_array_equal(ours.pg_advantage_tm1, np.zeros((8, 3)))


def test_lambda_zero_is_one_step():
    (v_tm1, v_t, r_t, discount_t, rho_tm1), _ = random_inputs(4, 8, 3)
    td_error = r_t + discount_t * v_t - v_tm1
    ours = jitted(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_=0.0, **CLIPS)
    expected = v_tm1 + np.minimum(1.3, rho_tm1) * td_error, np.minimum(0.8, rho_tm1) * td_error
    assert_close(ours, expected)


def test_exact_values_are_a_fixed_point():
    """If V has no error on the steps taken, neither target nor advantage moves, for any rho."""
    (_, v_t, r_t, discount_t, rho_tm1), _ = random_inputs(5, 10, 3)
    v_tm1 = np.zeros_like(v_t)
    v_tm1[-1] = r_t[-1] + discount_t[-1] * v_t[-1]
    for t in reversed(range(9)):
        v_t[t] = v_tm1[t + 1]
        v_tm1[t] = r_t[t] + discount_t[t] * v_t[t]
    ours = jitted(v_tm1, v_t, r_t, discount_t, rho_tm1, **CLIPS)
    assert_close(ours, (v_tm1, np.zeros_like(v_tm1)))


def test_the_papers_clips_are_the_defaults_and_c_is_clipped_at_one():
    inputs, _ = random_inputs(6, 8, 3)
    default = jitted(*inputs)
    assert_close(default, jitted(*inputs, lambda_=1.0, clip_rho=1.0, clip_pg_rho=1.0), 0.0)
    for other in (dict(lambda_=0.9), dict(clip_rho=1.2)):
        assert not np.allclose(default.vs_tm1, jitted(*inputs, **other).vs_tm1)
    other = jitted(*inputs, clip_pg_rho=1.2)
    np.testing.assert_array_equal(default.vs_tm1, other.vs_tm1)
    assert not np.allclose(default.pg_advantage_tm1, other.pg_advantage_tm1)

    v, r_t = np.zeros(2, np.float32), np.array([0.0, 1.0], np.float32)
    ones, rho_tm1 = np.ones(2, np.float32), np.array([5.0, 3.0], np.float32)
    ours = vtrace(v, v, r_t, ones, rho_tm1, clip_rho=10.0, clip_pg_rho=10.0)
    np.testing.assert_allclose(ours.vs_tm1, [min(1, 5) * 3, 3.0])
    np.testing.assert_allclose(ours.pg_advantage_tm1, [5 * 3.0, 3.0])


def test_by_hand():
    """gamma 1/2, rho 1/2 then 2: v_1 = 4 + (3 - 4), v_0 = 1 + 1/2 (2 + 2 - 1) - 1/4."""
    v_tm1, v_t = np.array([1.0, 4.0], np.float32), np.array([4.0, 4.0], np.float32)
    r_t, discount_t = np.array([2.0, 1.0], np.float32), np.array([0.5, 0.5], np.float32)
    ours = vtrace(v_tm1, v_t, r_t, discount_t, np.array([0.5, 2.0], np.float32))
    np.testing.assert_allclose(ours.vs_tm1, [2.25, 3.0])
    np.testing.assert_allclose(ours.pg_advantage_tm1, [0.5 * (2.0 + 0.5 * 3.0 - 1.0), -1.0])


def test_no_gradient_flows():
    inputs, lambda_ = random_inputs(7, 6, 3)

    def total(*args):
        ours = vtrace(*args[:5], lambda_=args[5], clip_rho=args[6], clip_pg_rho=args[6])
        return jnp.sum(ours.vs_tm1**2) + jnp.sum(ours.pg_advantage_tm1**2)

    for differentiate in (jax.grad, lambda *args: jax.jit(jax.grad(*args))):
        grads = differentiate(total, range(7))(*inputs, lambda_, 1.1)
        assert len(grads) == 7
        for grad in grads:
            assert not np.any(grad)


def test_time_alone_batches_jit_and_vmap_agree():
    inputs, lambda_ = random_inputs(8, 11, 6)

    def run(lambda_, *args):
        return vtrace(*args, lambda_=lambda_, **CLIPS)

    expected = run(lambda_, *inputs)
    assert expected.vs_tm1.shape == (11, 6)
    assert_close(jax.jit(run)(lambda_, *inputs), expected)
    assert_close(jax.jit(jax.vmap(run, 1, 1))(lambda_, *inputs), expected)
    one = [x[:, 5] for x in (lambda_, *inputs)]
    assert run(*one).vs_tm1.shape == (11,)
    assert_close(run(*one), [x[:, 5] for x in expected])
    assert_close(jax.jit(run)(*one), [x[:, 5] for x in expected])
    grouped = [x.reshape(11, 2, 3) for x in (lambda_, *inputs)]
    assert_close(jax.jit(run)(*grouped), [x.reshape(11, 2, 3) for x in expected])
    numbers = np.array([0.0, 0.5, 1.0], np.float32)  # as a sweep's
    swept = jax.vmap(run, (0, *[None] * 5))(numbers, *inputs)
    for i, number in enumerate(numbers):
        assert_close([x[i] for x in swept], run(float(number), *inputs))


def test_devices_agree():
    inputs, lambda_ = random_inputs(9, 6, 8)
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")
    for one in (lambda_, np.float32(0.9)):
        run = jax.shard_map(
            lambda lambda_, *args: vtrace(*args, lambda_=lambda_),
            mesh=mesh,
            in_specs=(spec if one.ndim else jax.P(), *[spec] * 5),
            out_specs=spec,
        )
        ours = jax.jit(run)(one, *inputs)
        assert len(ours.vs_tm1.sharding.device_set) == 4
        assert_close(ours, vtrace(*inputs, lambda_=one))


def test_a_single_step_all_terminal_and_all_truncated():
    for length in (1, 7):
        (v_tm1, v_t, r_t, discount_t, rho_tm1), lambda_ = random_inputs(10, length, 4)
        clipped = np.minimum(1.0, rho_tm1)
        cases = [(0 * discount_t, lambda_), (np.full_like(r_t, GAMMA), 0 * lambda_)]
        cases += [(discount_t, lambda_)] if length == 1 else []
        for discount, one in cases:
            td_error = r_t + discount * v_t - v_tm1
            ours = jitted(v_tm1, v_t, r_t, discount, rho_tm1, lambda_=one)
            assert_close(ours, (v_tm1 + clipped * td_error, clipped * td_error))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_inputs_stay_finite(sign):
    (_, _, r_t, discount_t, rho_tm1), lambda_ = random_inputs(11, 50, 3)
    big = np.full_like(r_t, sign * 1e30)
    rho_tm1[:10], rho_tm1[10:20] = np.inf, 1e30
    ours = jitted(-big, big, big, discount_t, rho_tm1, lambda_=lambda_)
    for x in ours:
        assert np.all(np.isfinite(x))
    assert np.all(np.sign(ours.pg_advantage_tm1) == sign * (rho_tm1 > 0))


def random_episodes(rng, length, lambda_):
    """One array of several episodes, each ended either way, a reset's step after each.

    Also V-trace of every agent's step, in float64, from nothing but its own episode.
    """
    v_tm1, v_t = rng.normal(scale=3, size=(2, length))
    r_t, discount_t = rng.normal(scale=3, size=length), np.full(length, GAMMA)
    rho_tm1 = np.exp(rng.normal(scale=0.5, size=length))
    lambda_t, agents = np.full(length, lambda_), np.ones(length, bool)
    expected, ends, start = np.zeros((2, length)), [], 0
    while start < length:
        last = start + int(rng.integers(1, 9)) - 1
        how = rng.choice(["terminated", "truncated"]) if last < length else "array"
        last = min(last, length - 1)
        ends.append(how)
        steps = slice(start, last + 1)
        v_t[start:last] = v_tm1[start + 1 : last + 1]
        alone = v_t[steps].copy()
        alone[-1] *= how != "terminated"
        gamma, lambda_s = np.full(alone.shape, GAMMA), np.full(alone.shape, lambda_)
        expected[:, steps] = literal(
            v_tm1[steps], alone, r_t[steps], gamma, rho_tm1[steps], lambda_s, **CLIPS
        )
        if how == "terminated":
            discount_t[last] = 0.0
        if how == "truncated":
            lambda_t[last] = 0.0
        if last + 1 < length:  # the reset's step
            agents[last + 1], rho_tm1[last + 1] = False, 0.0
            r_t[last + 1] = 1e6 * rng.normal()  # EnvPool's is 0; here garbage must not matter
            v_tm1[last + 1] = v_t[last] if how == "truncated" else 1e3 * rng.normal()
        start = last + 2
    inputs = [np.float32(x) for x in (v_tm1, v_t, r_t, discount_t, rho_tm1)]
    return inputs, np.float32(lambda_t), agents, expected, ends


@pytest.mark.parametrize("lambda_", [0.6, 1.0])
def test_episodes_in_one_array_equal_each_alone(lambda_):
    rng = np.random.default_rng(12)
    seen = []
    for _ in range(20):
        inputs, lambda_t, agents, expected, ends = random_episodes(rng, 40, lambda_)
        assert agents.sum() >= 20 and not agents.all()
        ours = jitted(*inputs, lambda_=lambda_t, **CLIPS)
        assert_close([x[agents] for x in ours], expected[:, agents], 2e-5)
        np.testing.assert_array_equal(ours.vs_tm1[~agents], inputs[0][~agents])
        np.testing.assert_array_equal(ours.pg_advantage_tm1[~agents], 0.0)
        seen += ends
    assert min(seen.count(how) for how in ("terminated", "truncated", "array")) >= 5


def test_values_past_an_end_do_not_matter():
    """At the terminated step itself and anywhere after either end, to the bit, for any rho."""
    (v_tm1, v_t, r_t, _, rho_tm1), _ = random_inputs(13, 10, 3)
    rho_tm1 += 0.1
    discount_t, lambda_t = np.full((10, 3), GAMMA, np.float32), np.ones((10, 3), np.float32)
    discount_t[4, 0], lambda_t[4, 1] = 0.0, 0.0  # the third column's episode does not end
    garbage_tm1, garbage_t, garbage_r = v_tm1.copy(), v_t.copy(), r_t.copy()
    garbage_tm1[5:], garbage_t[5:], garbage_r[5:], garbage_t[4, 0] = 1e4, -1e5, -1e30, 1e4
    clean = jitted(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_=lambda_t)
    dirty = jitted(garbage_tm1, garbage_t, garbage_r, discount_t, rho_tm1, lambda_=lambda_t)
    for x, y in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(x[:5, :2], y[:5, :2])
        assert np.all(x[:5, 2] != y[:5, 2])


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    inputs, _ = random_inputs(14, 6, 3)
    for i, name in enumerate(["v_tm1", "v_t", "v_tm1", "discount_t", "rho_tm1"]):
        wrong = [x[:5] if i == j else x for j, x in enumerate(inputs)]
        with pytest.raises(ValueError, match=rf"{name} .*\(5, 3.*\.$"):
            vtrace(*wrong)
    with pytest.raises(ValueError, match=r"lambda_ \(6,\) .*\(6, 3\)\.$"):
        vtrace(*inputs, lambda_=np.ones(6))
