"""PopArt against float64 loops, rlax at one sample, and what it must leave unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rlsys.losses import popart
from rlsys.losses.popart import PopArtState

NUM_TASKS = 4
update = jax.jit(popart.update, static_argnames="axis_name")


def random_state(seed):
    rng = np.random.default_rng(seed)
    mean = rng.normal(scale=10, size=NUM_TASKS).astype(np.float32)
    spread = np.array([1e-2, 1.0, 30.0, 1e3], np.float32)
    count = rng.integers(0, 1000, NUM_TASKS).astype(np.float32)
    return PopArtState(mean, spread**2, count)


def random_inputs(seed, length=5, batch=9):
    """Targets, tasks (one of the tasks is absent) and mask."""
    rng = np.random.default_rng(seed)
    task = rng.integers(0, NUM_TASKS - 1, batch).astype(np.int32)
    task[:NUM_TASKS - 1] = np.arange(NUM_TASKS - 1)  # fmt: skip
    targets = (rng.normal(size=(length, batch)) * 10.0**task + 5.0).astype(np.float32)
    mask = rng.random((length, batch)) < 0.7
    assert mask.any() and not mask.all()
    return targets, task, mask


def literal(state, targets, task, step_size, mask):
    """One sample at a time, in float64, by the paper's two moments: each task's means are taken
    first, then n equal steps."""
    mean, variance, count = (np.array(x, np.float64) for x in state[:3])
    mean += state.rest
    second_moment = variance + mean**2
    for i in range(NUM_TASKS):
        samples = []
        for t in range(targets.shape[0]):
            for b in range(targets.shape[1]):
                if mask[t, b] and task[b] == i:
                    samples.append(float(targets[t, b]))
        for _ in samples:
            mean[i] += step_size * (sum(samples) / len(samples) - mean[i])
            square = sum(y**2 for y in samples) / len(samples)
            second_moment[i] += step_size * (square - second_moment[i])
        count[i] += len(samples)
    return mean, second_moment - mean**2, count


def assert_close(ours, expected, rtol=1e-5):
    for x, y in zip(ours[:3], expected[:3], strict=True):  # mean, variance, count
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


def test_init_changes_nothing():
    state = popart.init(3)
    assert_close(state, (np.zeros(3), np.ones(3), np.zeros(3)), 0.0)
    assert not np.any(state.rest)
    assert all(x.dtype == jnp.float32 and x.shape == (3,) for x in state)
    np.testing.assert_array_equal(popart.scale(state), np.ones(3))
    x, task = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([2, 0, 1])
    np.testing.assert_array_equal(popart.normalize(state, x, task), x)
    np.testing.assert_array_equal(popart.unnormalize(state, x, task), x)


@pytest.mark.parametrize("step_size", [3e-4, 0.1, 1.0])
def test_literal_float64_loops(step_size):
    state, (targets, task, mask) = random_state(0), random_inputs(0)
    for run in (popart.update, update):
        ours = run(state, targets, task, step_size=step_size, mask=mask)
        assert isinstance(ours, PopArtState)
        assert all(x.shape == (NUM_TASKS,) and x.dtype == jnp.float32 for x in ours)
        assert_close(ours, literal(state, targets, task, step_size, mask))
        ours = run(state, targets, task, step_size=step_size)
        assert_close(ours, literal(state, targets, task, step_size, np.ones_like(mask)))


def test_rlax_agrees_for_a_sample_of_each_task():
    """rlax adds up a step for every sample, which is right for one."""
    state, targets = random_state(1), np.array([3.0, -20.0, 7.0, 1e3], np.float32)
    task = np.array([2, 0, 1, 3])
    second_moment = state.variance + state.mean**2
    theirs = rlax.PopArtState(state.mean, popart.scale(state), second_moment)
    _, rlax_update = rlax.popart(NUM_TASKS, 0.1, 1e-4, 1e6)
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(6, NUM_TASKS)).astype(np.float32)
    bias = rng.normal(size=NUM_TASKS).astype(np.float32)
    layer, expected = rlax_update({"w": kernel, "b": bias}, theirs, targets, task)
    ours = update(state, targets[None], task, step_size=0.1)
    np.testing.assert_allclose(ours.mean, expected.shift, rtol=1e-5)
    np.testing.assert_allclose(popart.scale(ours), expected.scale, rtol=1e-5)
    ours_layer = popart.preserve_outputs(state, ours, kernel, bias)
    np.testing.assert_allclose(ours_layer[0], layer["w"], rtol=1e-4)
    np.testing.assert_allclose(ours_layer[1], layer["b"], rtol=1e-4, atol=1e-4)
    x = np.linspace(-9, 9, 4, dtype=np.float32)
    np.testing.assert_allclose(
        popart.normalize(state, x, task), rlax.normalize(theirs, x, task), rtol=1e-6
    )
    np.testing.assert_allclose(
        popart.unnormalize(state, x, task), rlax.unnormalize(theirs, x, task), rtol=1e-6
    )


def test_step_size_one_takes_the_batch_and_forgets_the_rest():
    state, (targets, task, _) = random_state(2), random_inputs(2)
    ours = update(state, targets, task, step_size=1.0)
    for i in range(NUM_TASKS - 1):
        y = targets[:, task == i].astype(np.float64)
        np.testing.assert_allclose(ours.mean[i], y.mean(), rtol=1e-5)
        np.testing.assert_allclose(ours.variance[i], y.var(), rtol=1e-5)
        np.testing.assert_allclose(popart.scale(ours)[i], y.std(), rtol=1e-5)


def test_a_task_without_samples_keeps_its_statistics_to_the_bit():
    state, (targets, task, mask) = random_state(3), random_inputs(3)
    absent = NUM_TASKS - 1
    for step_size in (1e-3, 1.0, np.full(NUM_TASKS, 1.0, np.float32)):
        for one in (None, mask):
            ours = update(state, targets, task, step_size=step_size, mask=one)
            for x, y in zip(ours[:3], state[:3], strict=True):
                assert x[absent] == y[absent]
                assert np.all(x[:absent] != y[:absent])
            assert ours.rest[absent] == 0
        with jax.debug_nans(True):
            nothing = update(state, targets, task, step_size=step_size, mask=np.zeros_like(mask))
            popart.update(state, targets, task, step_size=step_size, mask=np.zeros_like(mask))
        assert_close(nothing, state, 0.0)


def test_what_is_masked_may_be_anything():
    state, (targets, task, mask) = random_state(4), random_inputs(4)
    expected = update(state, targets, task, step_size=0.1, mask=mask)
    for value in (1e30, np.inf, np.nan):
        garbage = np.where(mask, targets, np.float32(value))
        for run in (popart.update, update):  # XLA makes 0 * nan a 0 at times
            ours = run(state, garbage, task, step_size=0.1, mask=mask)
            assert_close(ours, expected, 1e-6)


def test_tasks_do_not_touch_each_other():
    """Not even one whose targets are broken."""
    state, (targets, task, _) = random_state(5), random_inputs(5)
    expected = update(state, targets, task, step_size=0.1)
    targets[:, task == 2] = np.nan
    for run in (popart.update, update):
        ours = run(state, targets, task, step_size=0.1)
        for x, y in zip(ours[:3], expected[:3], strict=True):
            np.testing.assert_allclose(np.delete(x, 2), np.delete(y, 2), rtol=1e-6)


def test_batch_size_does_not_matter():
    """Copies of a batch, one after another, move the statistics as all of them in one."""
    state, (targets, task, mask) = random_state(6), random_inputs(6)
    one_by_one = state
    for _ in range(20):
        one_by_one = update(one_by_one, targets, task, step_size=3e-3, mask=mask)
    at_once = update(
        state, np.tile(targets, (20, 1)), task, step_size=3e-3, mask=np.tile(mask, (20, 1))
    )
    assert_close(at_once, one_by_one)


def test_large_batches_do_not_diverge():
    """20,480 targets by the paper's step size: a sum of steps would overshoot 6 times, and grow."""
    rng = np.random.default_rng(7)
    state, task = popart.init(1), np.zeros(1024, np.int32)
    for _ in range(20):
        targets = rng.normal(100.0, 5.0, (20, 1024)).astype(np.float32)
        state = update(state, targets, task, step_size=3e-4)
    np.testing.assert_allclose(state.mean, [100.0], rtol=1e-3)
    np.testing.assert_allclose(popart.scale(state), [5.0], rtol=2e-2)
    assert state.count == 20 * 20480


def spread_over(num_devices):
    """update for a batch whose columns are spread over devices, each of which may have other
    tasks."""
    mesh = jax.make_mesh(
        (num_devices,), ("batch",), (jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )  # fmt: skip
    spec = jax.P(None, "batch")

    def on_each(state, targets, task, step_size):
        return popart.update(state, targets, task, step_size=step_size, axis_name="batch")

    specs = (jax.P(), spec, jax.P("batch"), jax.P())
    return jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=specs, out_specs=jax.P()))


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize(
    ("mean", "deviation"), [(100.0, 0.03), (1e3, 0.3), (-1e3, 0.01), (1e4, 0.1), (0.0, 0.3)]
)
def test_the_scale_is_right_at_any_mean(mean, deviation, num_devices):
    """Up to 1e5 deviations, which is what float32 targets can hold, from the first batch on."""
    rng, run = np.random.default_rng(20), spread_over(num_devices)
    task = np.arange(32) % 3  # the other two lie elsewhere
    means = np.array([mean, 5.0, -70.0])
    deviations = np.array([deviation, 2.0, 300.0])
    state = popart.init(3)
    for _ in range(60):
        targets = rng.normal(means[task], deviations[task], (20, 32)).astype(np.float32)
        step_size = np.maximum(3e-4, 1.0 / (np.asarray(state.count) + 1.0))  # as policies do
        state = run(state, targets, task, step_size)
        np.testing.assert_allclose(popart.scale(state), deviations, rtol=0.2)
    np.testing.assert_allclose(popart.scale(state), deviations, rtol=0.05)
    assert np.all(np.abs(state.mean - means) < 0.2 * deviations + 1e-7 * np.abs(means))


@pytest.mark.parametrize("mean", [1e5, -3e4, 1e3])
def test_the_mean_is_right_to_far_below_one_float32_from_the_first_batch_on(mean):
    """Against float64 of the same targets: mean and rest together, of a deviation of 1."""
    rng, state = np.random.default_rng(22), popart.init(1)
    expected = np.zeros(())
    for count in range(0, 4096, 512):
        targets = rng.normal(mean, 1.0, (16, 32)).astype(np.float32)
        step_size = max(3e-4, 1.0 / (count + 1.0))
        state = popart.update(state, targets, np.zeros(32, int), step_size=step_size)
        keep = (1.0 - np.float64(np.float32(step_size))) ** 512
        expected = keep * expected + (1.0 - keep) * targets.astype(np.float64).mean()
        found = np.float64(state.mean[0]) + np.float64(state.rest[0])
        assert abs(found - expected) < 1e-5, count


@pytest.mark.parametrize("step_size", [3e-4, 1e-2])
def test_a_mean_moves_by_less_than_float32_can_tell_it_from_its_neighbours(step_size):
    """A sample at a time, at 1e5 deviations: without rest the mean would stand still, for its steps
    are far below the 0.004 deviations between one float32 and the next."""
    rng, targets = np.random.default_rng(21), []

    def one(state, y):
        return popart.update(state, y[None], jnp.zeros((), int), step_size=step_size), None

    state = popart.init(1)._replace(mean=jnp.full(1, 1e3), variance=jnp.full(1, 1e-4))
    targets = rng.normal(1e3 + 0.03, 0.01, int(5 / step_size)).astype(np.float32)
    state, _ = jax.jit(lambda s, ys: jax.lax.scan(one, s, ys))(state, targets)
    mean, second = 1e3, 1e6 + 1e-4  # literal, in float64
    for y in targets.astype(np.float64):
        mean += step_size * (y - mean)
        second += step_size * (y**2 - second)
    np.testing.assert_allclose(np.float64(state.mean) + np.float64(state.rest), mean, atol=1e-4)
    np.testing.assert_allclose(popart.scale(state), np.sqrt(second - mean**2), rtol=0.01)


@pytest.mark.parametrize("masked", [False, True])
def test_devices_agree_though_each_has_other_tasks(masked):
    rng = np.random.default_rng(8)
    state = random_state(8)
    task = np.array([0, 0, 0, 1, 1, 2, 0, 2], np.int32)
    targets = (rng.normal(size=(5, 8)) * 10.0**task).astype(np.float32)
    mask = rng.random((5, 8)) < 0.7 if masked else np.ones((5, 8), bool)
    mask[:, 6:] = not masked  # then one device has no sample at all
    assert mask[:, :6].any() and mask.any(axis=0)[:6].all()
    mesh = jax.make_mesh((4,), ("batch",), (jax.sharding.AxisType.Auto,))
    spec = jax.P(None, "batch")

    def on_each(state, targets, task, mask):
        mask = mask if masked else None
        return popart.update(state, targets, task, step_size=0.05, mask=mask, axis_name="batch")

    run = jax.shard_map(
        on_each, mesh=mesh, in_specs=(jax.P(), spec, jax.P("batch"), spec), out_specs=jax.P()
    )
    ours = jax.jit(run)(state, targets, task, mask)
    assert len(ours.mean.sharding.device_set) == 4
    assert_close(ours, update(state, targets, task, step_size=0.05, mask=mask))
    assert_close(ours, literal(state, targets, task, 0.05, mask))


def test_a_step_size_for_each_task():
    state, (targets, task, mask) = random_state(9), random_inputs(9)
    step_size = np.array([0.0003, 0.1, 1.0, 0.5], np.float32)
    ours = update(state, targets, task, step_size=step_size, mask=mask)
    for i in range(NUM_TASKS):
        one = update(state, targets, task, step_size=float(step_size[i]), mask=mask)
        assert_close([x[i] for x in ours], [x[i] for x in one], 1e-6)


def test_tasks_and_masks_of_any_shape_that_broadcasts():
    state, (targets, task, mask) = random_state(10), random_inputs(10)
    expected = update(state, targets, task, step_size=0.1, mask=mask)
    whole = np.broadcast_to(task, targets.shape)
    ours = update(state, targets, whole, step_size=0.1, mask=mask.astype(np.float32))
    assert_close(ours, expected, 1e-6)
    grouped = [x.reshape(5, 3, 3) for x in (targets, mask)]
    ours = update(state, grouped[0], task.reshape(3, 3), step_size=0.1, mask=grouped[1])
    assert_close(ours, expected, 1e-6)
    alone = update(state, targets[:, 0], task[0], step_size=0.1)
    column = update(state, targets[:, :1], task[:1], step_size=0.1)
    assert_close(alone, column, 1e-6)
    row = update(state, targets, task, step_size=0.1, mask=mask[0])
    column = np.broadcast_to(mask[0], mask.shape)
    assert_close(row, update(state, targets, task, step_size=0.1, mask=column), 0.0)
    tasks = np.array([[0, 2, 1]])  # players of a game, each with a task of its own
    x = targets.reshape(5, 3, 3)
    for f in (popart.normalize, popart.unnormalize):
        np.testing.assert_array_equal(
            f(state, x, tasks)[:, :, 1], f(state, x[:, :, 1], tasks[0, 1])
        )


def test_a_sweep_of_step_sizes_by_vmap():
    state, (targets, task, mask) = random_state(11), random_inputs(11)
    many = np.array([1e-3, 0.1, 1.0], np.float32)
    states = jax.tree.map(lambda x: np.stack([x, x + 1, x + 2]), state)
    swept = jax.vmap(lambda s, b: popart.update(s, targets, task, step_size=b, mask=mask))(
        states, many
    )
    for i, step_size in enumerate(many):
        one = jax.tree.map(lambda x, i=i: x[i], states)
        expected = update(one, targets, task, step_size=step_size, mask=mask)
        assert_close([x[i] for x in swept], expected)
    assert swept.rest.shape == (3, NUM_TASKS)


def test_scale_is_kept_within_bounds():
    state = PopArtState(
        mean=np.array([5.0, 0.0, 3.0, 1e10], np.float32),
        variance=np.array([0.0, 1e20, 1e-10, 4.0], np.float32),
        count=np.ones(4, np.float32),
    )
    np.testing.assert_allclose(popart.scale(state), [1e-4, 1e6, 1e-4, 2.0], rtol=1e-6)
    scale = popart.scale(state, min_scale=0.1, max_scale=10.0)
    np.testing.assert_allclose(scale, [0.1, 10.0, 0.1, 2.0], rtol=1e-6)
    scale = popart.scale(state, min_scale=jnp.array([0.1, 0.2, 0.3, 3.0]))
    np.testing.assert_allclose(scale, [0.1, 1e6, 0.3, 3.0], rtol=1e-6)


def test_a_floor_is_what_a_loss_sees_and_the_statistics_stay_exact():
    state = PopArtState(
        mean=np.array([500.0, -500.0, 3.0, 0.0], np.float32),
        variance=np.array([1.0, 1e4, 1.0, 1e-6], np.float32),
        count=np.ones(4, np.float32),
    )
    seen = popart.with_floor(state, 0.1)
    np.testing.assert_allclose(popart.scale(seen), [50.0, 100.0, 1.0, 1e-3], rtol=1e-6)
    np.testing.assert_allclose(popart.scale(state), [1.0, 100.0, 1.0, 1e-3], rtol=1e-6)
    np.testing.assert_array_equal(popart.scale(popart.with_floor(state, 0.0)), popart.scale(state))
    each = popart.with_floor(state, np.array([0.0, 0.5, 0.5, 0.5], np.float32))
    np.testing.assert_allclose(popart.scale(each), [1.0, 250.0, 1.5, 1e-3], rtol=1e-6)
    # Outputs are preserved from one view to the other, as from one state to the next.
    rng = np.random.default_rng(22)
    features = rng.normal(size=(20, 6)).astype(np.float32)
    kernel = rng.normal(size=(6, NUM_TASKS)).astype(np.float32)
    layer = popart.preserve_outputs(state, seen, kernel, np.zeros(NUM_TASKS, np.float32))
    tasks = np.arange(NUM_TASKS)
    before = popart.unnormalize(state, features @ kernel, tasks)
    after = popart.unnormalize(seen, features @ layer[0] + layer[1][None], tasks)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)


def test_normalize_and_unnormalize_undo_each_other():
    state, (targets, task, _) = random_state(12), random_inputs(12)
    sigma = np.sqrt(np.float64(state.variance))
    expected = (targets - state.mean[task]) / sigma[task]
    ours = popart.normalize(state, targets, task)
    assert ours.shape == targets.shape
    np.testing.assert_allclose(ours[:, task > 0], expected[:, task > 0], rtol=1e-3, atol=1e-4)
    for run in (popart.unnormalize, jax.jit(popart.unnormalize)):
        np.testing.assert_allclose(run(state, ours, task), targets, rtol=1e-5, atol=1e-4)


def test_normalized_targets_have_mean_zero_and_deviation_one():
    _, (targets, task, _) = random_state(13), random_inputs(13, length=50)
    state = update(popart.init(NUM_TASKS), targets, task, step_size=1.0)
    normalised = np.asarray(popart.normalize(state, targets, task))
    for i in range(NUM_TASKS - 1):
        one = normalised[:, task == i]
        assert one.size > 0
        np.testing.assert_allclose([one.mean(), one.std()], [0.0, 1.0], atol=1e-3)


@pytest.mark.parametrize("step_size", [3e-4, 0.1, 1.0])
def test_outputs_are_preserved(step_size):
    """Through statistics of any size, one update after another."""
    rng = np.random.default_rng(14)
    features = rng.normal(size=(20, 6)).astype(np.float32)
    kernel = rng.normal(scale=0.3, size=(6, NUM_TASKS)).astype(np.float32)
    bias = rng.normal(size=NUM_TASKS).astype(np.float32)
    state, everything = popart.init(NUM_TASKS), np.arange(NUM_TASKS)
    before = popart.unnormalize(state, features @ kernel + bias, everything)
    preserve = jax.jit(popart.preserve_outputs)
    for i in range(10):
        targets, task, mask = random_inputs(14 + i)
        new = update(state, targets, task, step_size=step_size, mask=mask)
        kernel, bias = (np.asarray(x) for x in preserve(state, new, kernel, bias))
        state = new
        after = popart.unnormalize(state, features @ kernel + bias, everything)
        size = np.maximum(1.0, np.maximum(np.abs(before), np.abs(state.mean)))
        assert np.all(np.abs(after - before) <= 1e-5 * size)
    assert kernel.shape == (6, NUM_TASKS) and bias.shape == (NUM_TASKS,)
    assert popart.scale(state)[2] > 10 * popart.scale(state)[0] or step_size < 0.1


def test_no_gradient_flows_but_into_x():
    state, (targets, task, mask) = random_state(15), random_inputs(15)

    def total(state, targets, step_size):
        new = popart.update(state, targets, task, step_size=step_size, mask=mask)
        return sum(jnp.sum(x**2) for x in new)

    for step_size in (0.1, 1.0):
        grads = jax.jit(jax.grad(total, (0, 1, 2)))(state, targets, step_size)
        for grad in jax.tree.leaves(grads):
            assert not np.any(grad)  # nor nan
    sigma = popart.scale(state)[task]
    for f, slope in [(popart.normalize, 1 / sigma), (popart.unnormalize, sigma)]:
        grads = jax.grad(lambda s, x, f=f: jnp.sum(f(s, x, task)), (0, 1))(state, targets)
        assert not any(np.any(x) for x in grads[0])
        np.testing.assert_allclose(grads[1], np.broadcast_to(slope, targets.shape), rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15, -1e15])
def test_extreme_targets_keep_everything_finite(size):
    task = np.zeros(1024, np.int32)
    targets = np.full((20, 1024), size, np.float32)
    for step_size in (1e-3, 1.0):
        state = update(popart.init(1), targets, task, step_size=step_size)
        kernel, bias = popart.preserve_outputs(popart.init(1), state, jnp.ones((3, 1)), jnp.ones(1))
        normalised = popart.normalize(state, targets, task)
        for x in (*state, popart.scale(state), kernel, bias, normalised):
            assert np.all(np.isfinite(x))


def test_shapes_that_do_not_agree_are_refused_in_a_sentence():
    state, (targets, task, mask) = random_state(16), random_inputs(16)
    with pytest.raises(ValueError, match=r"task \(4,\) must broadcast to \(9,\)\.$"):
        popart.update(state, targets, task[:4], step_size=0.1)
    with pytest.raises(ValueError, match=r"mask \(4, 9\) must broadcast to \(5, 9\)\.$"):
        popart.update(state, targets, task, step_size=0.1, mask=mask[:4])
    with pytest.raises(ValueError, match=r"step_size \(3,\) must be a number or \[4\]\.$"):
        popart.update(state, targets, task, step_size=np.full(3, 0.1))
    for f in (popart.normalize, popart.unnormalize):
        with pytest.raises(ValueError, match=r"task \(4,\) must broadcast to \(5, 9\)\.$"):
            f(state, targets, task[:4])
    kernel, bias = np.zeros((6, NUM_TASKS)), np.zeros(NUM_TASKS)
    for wrong in [(kernel.T, bias), (kernel, bias[:3]), (kernel[0], bias)]:
        with pytest.raises(ValueError, match=r"kernel .* must be \[D, N\] and bias .*\.$"):
            popart.preserve_outputs(state, state, *wrong)
