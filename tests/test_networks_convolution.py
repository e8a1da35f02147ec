"""Both forms of the convolution agree, values and gradients."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from gymnasium import spaces
from jax.sharding import PartitionSpec as P

from rlsys import networks
from rlsys.networks.convolution import Conv, conv2d, max_pool
from rlsys.networks.torsos import Impala, Nature
from rlsys.types import UserError


def assert_close(a, b):
    """Within 1e-5 of the largest number in b."""
    assert np.abs(b).max() > 0
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("padding", ["SAME", pytest.param("VALID", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("height", "width", "channels", "size", "stride"),
    [
        (20, 24, 4, 8, 4),
        pytest.param(21, 19, 3, 4, 2, marks=pytest.mark.slow),
        pytest.param(9, 9, 8, 3, 1, marks=pytest.mark.slow),
        (12, 7, 2, 3, 2),
        (7, 7, 5, 1, 1),
    ],
)
def test_forms_agree_in_values_and_gradients(height, width, channels, size, stride, padding):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, channels, 6)).astype(np.float32)
    results = {}
    for form in ("plain", "cpu"):
        y, vjp = jax.vjp(lambda x, k, form=form: conv2d(x, k, stride, padding, form), x, kernel)
        dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
        results[form] = (y, *vjp(dy))
    for a, b in zip(results["cpu"], results["plain"], strict=True):
        assert_close(a, b)


def test_layer_equals_flaxs_with_the_same_parameters():
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype(np.float32)
    layer, flaxs = Conv(4, 3), nn.Conv(4, (3, 3))
    params = jax.jit(layer.init)(jax.random.key(0), x)
    expected = jax.jit(flaxs.init)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    params = jax.tree.map(lambda p: p + 0.1, params)
    assert_close(layer.apply(params, x), flaxs.apply(params, x))


@pytest.mark.parametrize(("torso", "side"), [(Nature, 84), (Impala, 44)])
def test_whole_torsos_agree(torso, side):
    rng = np.random.default_rng(0)
    x = rng.random((2, side, side, 4)).astype(np.float32)
    shapes = jax.eval_shape(torso("plain").init, jax.random.key(0), x)
    params = jax.tree.map(lambda p: 0.1 * rng.normal(size=p.shape).astype(np.float32), shapes)
    results = []
    for form in ("cpu", "plain"):
        loss = lambda p, form=form: (torso(form).apply(p, x) ** 2).mean()  # noqa: E731
        results.append(jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params)))
    for a, b in zip(*results, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("side", [(12, 9), (11, 12)])
@pytest.mark.parametrize(
    ("size", "stride"),
    [(3, 2), *(pytest.param(x, y, marks=pytest.mark.slow) for x, y in ((2, 2), (3, 1)))],
)
def test_pooling_equals_flaxs_where_pixels_are_equal_too(side, size, stride):
    x = np.random.default_rng(0).integers(-2, 1, (3, *side, 4)).astype(np.float32)
    y, vjp = jax.vjp(lambda x: max_pool(x, size, stride, "cpu"), x)
    expected, flaxs = jax.vjp(lambda x: max_pool(x, size, stride, "plain"), x)
    np.testing.assert_array_equal(y, expected)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    assert_close(*vjp(dy), *flaxs(dy))


@pytest.mark.parametrize("stride", [1, 2])
def test_forms_agree_under_vmap_over_kernels_and_inside_shard_map(stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 9, 9, 3)).astype(np.float32)
    kernels = rng.normal(size=(2, 4, 4, 3, 5)).astype(np.float32)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradient(form, axis_name=None):
        def loss(kernel, x):
            value = (conv2d(x, kernel, stride, "VALID", form) ** 2).mean()
            return jax.lax.pmean(value, axis_name) if axis_name else value

        return jax.vmap(jax.grad(loss), (0, None))

    over_devices = jax.shard_map(
        gradient("cpu", "batch"), mesh=mesh, in_specs=(P(), P("batch")), out_specs=P()
    )
    expected = gradient("plain")(kernels, x)
    assert_close(gradient("cpu")(kernels, x), expected)
    assert_close(jax.jit(over_devices)(kernels, x), expected)


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match=r"'pla'.*plain"):
        networks.q_network(spaces.Discrete(2), spaces.Discrete(2), conv="pla")
