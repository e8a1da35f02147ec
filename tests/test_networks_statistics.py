"""Observations' running statistics: exact in float32, the same on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from rlsys import networks
from rlsys.networks import statistics
from rlsys.networks.torsos import encode, first_statistics, is_number
from rlsys.types import Timestep

T, B = 6, 4


def batches(number, shape, *, mean=0.0, deviation=1.0, seed=0):
    """Observations [T, B, ...] that drift, and which of them count."""
    random = np.random.default_rng(seed)
    for i in range(number):
        x = mean + deviation * (random.normal(size=(T, B, *shape)) + 0.3 * i)
        yield x.astype(np.float32), random.random((T, B)) < 0.7


def of_all(pairs):
    """Mean and deviation of all that counts, in float64."""
    x = np.concatenate([np.float64(x[mask]) for x, mask in pairs])
    return x.mean(0), x.std(0), len(x)


def fold(pairs, shape):
    update = jax.jit(statistics.update)
    state = statistics.init(np.zeros(shape), np.ones(shape))
    for x, mask in pairs:
        state = update(state, x, mask)
    return state


@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 2)])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1e5, 1), (-3e7, 100.0), (2.0, 1e-4)])
def test_they_are_those_of_all_observations_that_count(shape, mean, deviation):
    pairs = [*batches(30, shape, mean=mean, deviation=deviation)]
    state = fold(pairs, shape)
    expected_mean, expected_deviation, number = of_all(pairs)
    assert state.count == number
    error = np.float64(state.mean) + np.float64(state.rest) - expected_mean
    assert np.abs(error / expected_deviation).max() < 1e-4
    np.testing.assert_allclose(np.sqrt(state.variance), expected_deviation, rtol=1e-3)


def test_many_small_batches_lose_nothing():
    """A mean that moves by less than its own last digit, thousands of times."""
    random, number = np.random.default_rng(0), 4000
    x = (1e4 + random.normal(size=(number, 2, 1, 3))).astype(np.float32)
    x[number // 2 :] += 0.5
    mask = np.ones((2, 1), bool)
    step = lambda state, x: (statistics.update(state, x, mask), ())  # noqa: E731
    start = statistics.init(np.zeros(3), np.ones(3))
    state, _ = jax.jit(lambda state, x: jax.lax.scan(step, state, x))(start, x)
    mean, deviation, _ = of_all([(x.reshape(-1, 1, 3), np.ones((2 * number, 1), bool))])
    np.testing.assert_allclose(np.float64(state.mean) + np.float64(state.rest) - mean, 0, atol=2e-5)
    np.testing.assert_allclose(np.sqrt(state.variance), deviation, rtol=1e-4)


def test_the_order_and_the_cut_of_the_batches_do_not_matter():
    pairs = [*batches(8, (3,), mean=50.0)]
    together = [tuple(np.concatenate(xs) for xs in zip(*pairs, strict=True))]
    states = [fold(p, (3,)) for p in (pairs, pairs[::-1], together)]
    for state in states[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
                     state._replace(rest=()), states[0]._replace(rest=()))  # fmt: skip


def test_what_does_not_count_changes_nothing_whatever_it_is():
    pairs = [*batches(3, (3,))]
    state = fold(pairs, (3,))
    x, mask = pairs[0]
    wild = np.where(mask[..., None], x, np.nan)
    same = fold([(wild, mask), *pairs[1:]], (3,))
    jax.tree.map(np.testing.assert_array_equal, same, state)
    none = statistics.update(state, wild, mask & False)
    jax.tree.map(np.testing.assert_array_equal, none, state)


def test_devices_find_the_statistics_of_the_whole_batch():
    (x, mask), *_ = batches(1, (3,), mean=1000.0)
    start = fold(batches(2, (3,), mean=900.0, seed=1), (3,))
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    time = jax.P(None, "batch")
    sharded = jax.shard_map(
        functools.partial(statistics.update, axis_name="batch"),
        mesh=mesh, in_specs=(jax.P(), time, time), out_specs=jax.P(),
    )  # fmt: skip
    found, expected = jax.jit(sharded)(start, x, mask), statistics.update(start, x, mask)
    np.testing.assert_allclose(
        found.mean + found.rest, expected.mean + expected.rest, rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-5)
    assert found.count == expected.count == start.count + mask.sum()


def test_normalised_observations_have_mean_0_deviation_1_and_are_clipped():
    pairs = [*batches(1, (3,), mean=7e4, deviation=3.0)]
    state, x = fold(pairs, (3,)), pairs[0][0][pairs[0][1]]
    z = np.asarray(statistics.normalize(state, x))
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)
    far = np.float32([[1e6, -1e6, state.mean[2]]])
    np.testing.assert_allclose(statistics.normalize(state, far), [[5, -5, 0]], atol=1e-3)
    constant = fold([(np.full((T, B, 1), 3.0, np.float32), np.ones((T, B), bool))], (1,))
    np.testing.assert_array_equal(statistics.normalize(constant, np.float32([[3.0]])), [[0]])


def test_each_frame_of_a_stack_is_normalised_alike():
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (T, B, 5, 5, 2)).astype(np.uint8)
    state = fold([(x, np.ones((T, B), bool))], (5, 5, 2))
    stack = np.concatenate([x[0], x[1], x[2]], -1)
    z = statistics.normalize(state, stack)
    apart = [statistics.normalize(state, y) for y in x[:3]]
    np.testing.assert_array_equal(z, np.concatenate(apart, -1))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-2.0, 2.0, (5,)),
        spaces.Box(np.float32([-1, -np.inf]), np.float32([3, np.inf])),
        spaces.Box(0, 255, (36, 36, 1), np.uint8),
    ],
)
def test_before_the_first_batch_numbers_are_scaled_as_without_statistics(space):
    space.seed(0)
    x = np.stack([space.sample() for _ in range(4)])
    pixels = {"pixel_offset": 87.0, "pixel_scale": 40.0}
    z = encode(space, x, first_statistics(space, 87.0, 40.0), **pixels)
    expected = np.asarray(encode(space, x, **pixels))
    unbounded = np.isinf(space.high) if space.dtype != np.uint8 else np.zeros(space.shape, bool)
    np.testing.assert_allclose(z[:, ~unbounded], expected[:, ~unbounded], rtol=1e-5)
    assert not unbounded.any() or np.allclose(z[:, unbounded], np.clip(x[:, unbounded], -5, 5))


OBS = spaces.Dict(
    action_mask=spaces.MultiBinary(3),
    goal=spaces.Dict(position=spaces.Box(-np.inf, np.inf, (2,))),
    image=spaces.Box(0, 255, (36, 36, 1), np.uint8),
    kind=spaces.Discrete(4),
    small=spaces.Box(0, 9, (3,), np.int64),
)


def observations(seed=0):
    random = np.random.default_rng(seed)
    return {
        "action_mask": np.ones((T, B, 3), bool),
        "goal": {"position": (1e3 + random.normal(size=(T, B, 2))).astype(np.float32)},
        "image": random.integers(0, 256, (T, B, 36, 36, 1)).astype(np.uint8),
        "kind": random.integers(4, size=(T, B)),
        "small": random.integers(10, size=(T, B, 3)),
    }


def test_a_network_sees_numbers_through_its_statistics_and_categories_as_they_are():
    make = functools.partial(
        networks.policy_value_network, OBS, spaces.Discrete(3), torso="shallow", hidden_size=8,
        core_size=0, frame_stack=2,
    )  # fmt: skip
    network, plain = make(normalize_observations=True), make()
    params = networks.init(network, jax.random.key(0))
    assert set(params) == {"params", "statistics"}
    assert set(params["statistics"]) == {"goal/position", "image"}
    assert set(networks.init(plain, jax.random.key(0))) == {"params"}
    jax.tree.map(np.testing.assert_array_equal, params["params"],
                 networks.init(plain, jax.random.key(0))["params"])  # fmt: skip
    assert not is_number(OBS["kind"]) and not is_number(OBS["small"])

    obs, mask = observations(), np.random.default_rng(1).random((T, B)) < 0.5
    seen = networks.see(params, obs, mask)
    jax.tree.map(np.testing.assert_array_equal, seen["params"], params["params"])
    own = seen["statistics"]["goal/position"]
    np.testing.assert_allclose(own.mean, obs["goal"]["position"][mask].mean(0), rtol=1e-6)
    assert own.count == mask.sum() and networks.see({"params": 1}, obs, mask) == {"params": 1}

    first = np.zeros((T, B), bool)
    steps = Timestep(obs, first, *np.zeros((2, T, B), np.float32), first)
    action, start = np.zeros((T - 1, B), np.int32), network.initial(B)
    apply = jax.jit(network.apply)
    (before, _), _ = apply(params, steps, action, start)
    (after, _), _ = apply(seen, steps, action, start)
    assert np.abs(before.logits - after.logits).max() > 1e-4

    # What the network sees is what the plain one sees of observations normalised beforehand.
    big = spaces.Dict({**OBS.spaces, "goal": spaces.Dict(position=spaces.Box(-4.0, 4.0, (2,)))})
    beforehand = networks.policy_value_network(
        big, spaces.Discrete(3), torso="shallow", hidden_size=8, core_size=0, frame_stack=2,
    )  # fmt: skip
    z = statistics.normalize(own, obs["goal"]["position"].reshape(-1, 2)).reshape(T, B, 2)
    steps = steps._replace(obs={**obs, "goal": {"position": z}})
    only_goal = {**seen, "statistics": {**seen["statistics"],
                                        "image": params["statistics"]["image"]}}  # fmt: skip
    steps_of = Timestep(obs, first, *np.zeros((2, T, B), np.float32), first)
    (found, _), _ = apply(only_goal, steps_of, action, start)
    (expected, _), _ = jax.jit(beforehand.apply)({"params": seen["params"]}, steps, action, start)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def test_gradients_reach_no_statistics_and_they_leave_the_network_alone_when_vmapped():
    space = spaces.Box(-np.inf, np.inf, (3,))
    network = networks.q_network(
        space,
        spaces.Discrete(2),
        hidden_size=8,
        core_size=4,
        head_size=4,
        normalize_observations=True,
    )
    keys = jax.random.split(jax.random.key(0), 2)
    members = jax.vmap(lambda key: networks.init(network, key))(keys)
    pairs = [*batches(2, (3,), mean=3.0)]
    obs = np.stack([x for x, _ in pairs])
    seen = jax.vmap(networks.see)(members, obs, np.stack([mask for _, mask in pairs]))
    for i, (x, mask) in enumerate(pairs):
        alone = networks.see(jax.tree.map(lambda x, i=i: x[i], members), x, mask)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), seen, alone
        )
    assert jnp.abs(seen["statistics"]["obs"].mean[0] - seen["statistics"]["obs"].mean[1]).max() > 0
