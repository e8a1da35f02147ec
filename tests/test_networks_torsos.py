"""Torsos: what goes in, by the observation's space, and the published architectures."""

import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlsys import networks
from rlsys.networks.torsos import Impala, Nature, encode

CELLS = spaces.Dict(
    direction=spaces.Discrete(4),
    image=spaces.Box(0, 255, (7, 7, 3), np.uint8),
    action_mask=spaces.MultiBinary(2),
)


def test_torsos_are_the_published_ones():
    x = np.zeros((1, 84, 84, 4), np.float32)
    kernels = lambda net: [  # noqa: E731
        leaf.shape
        for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(net.init, jax.random.key(0), x))
        if "kernel" in str(path)
    ]
    assert kernels(Nature("auto")) == [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)]
    deep = kernels(Impala("auto"))
    assert len(deep) == 15
    assert [sum(shape[-1] == n for shape in deep) for n in (16, 32)] == [5, 10]
    out = jax.eval_shape(lambda: Impala("auto").init_with_output(jax.random.key(0), x)[0])
    assert out.shape == (1, 11, 11, 32)


def test_encoding_by_space():
    def check(space, x, expected):
        np.testing.assert_allclose(encode(space, np.asarray(x)[None])[0], expected, atol=1e-6)

    eye = np.eye(16)
    check(spaces.Discrete(3, start=1), 2, [0, 1, 0])
    check(spaces.Discrete(4000), 1000, 0.25)
    check(spaces.MultiDiscrete([2, 3]), [1, 2], [[0, 1, 0], [0, 0, 1]])
    check(spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1])
    check(spaces.Box(0, 2, (2,), np.int32), [2, 0], [[0, 0, 1], [1, 0, 0]])
    check(spaces.Box(0, 100, (2,), np.int32), [50, 0], [2.0, 0])
    check(spaces.Box(0, 255, (2,), np.uint8), np.array([51, 255], np.uint8), [0.2, 1])
    big = np.iinfo(np.int32)
    board = spaces.Box(big.min, big.max, (2,), np.int32)
    check(board, [2047, -1], [np.log(2048), -np.log(2)])
    box = spaces.Box(np.array([-4, -np.inf, 0]).astype("f"), np.array([2, np.inf, 0]).astype("f"))
    check(box, [2.0, -np.e + 1, 0.0], [2.0, -1, 0])
    grid = spaces.Box(-2, 2, (5, 4), np.float32)
    check(grid, np.ones((5, 4), np.float32), np.full((5, 4), 0.5))
    image = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    cells = np.arange(60).reshape(4, 5, 3).astype(np.uint8)
    check(image, cells, eye[np.minimum(cells, 15)])
    photo = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    check(photo, np.full((84, 84, 4), 51, np.uint8), np.full((84, 84, 4), 0.2))


@pytest.mark.parametrize(
    ("space", "torso", "expected"),
    [
        (spaces.Box(0, 255, (84, 84, 1), np.uint8), None, "Nature_0"),
        (spaces.Box(0, 255, (84, 84, 1), np.uint8), "impala", "Impala_0"),
        (CELLS, None, None),
        (CELLS, "grid", "Grid_0"),
        (CELLS, "mlp", None),
        (spaces.Box(0, 1, (10, 9)), None, "Grid_0"),
        (spaces.Box(0, 1, (10, 5)), None, None),
        (spaces.Box(0, 1, (20, 2)), None, None),
        (spaces.Discrete(16), None, None),
    ],
)
def test_torso_is_picked_by_shape_unless_named(space, torso, expected):
    network = networks.q_network(
        space, spaces.Discrete(2), torso=torso, hidden_size=4, core_size=4, head_size=4
    )
    params = jax.eval_shape(lambda: networks.init(network, jax.random.key(0)))["params"]
    assert set(params["torso"]) == {"Dense_0"} | ({expected} if expected else set())


@pytest.mark.parametrize("core_size", [0, 4])
def test_without_a_dense_layer_the_convolutions_feed_core_and_head(core_size):
    """R2D2: DQN's convolutions, an LSTM beside which stand a_{t-1} and r_t, two hidden layers."""
    network = networks.q_network(
        spaces.Box(0, 255, (84, 84, 1), np.uint8), spaces.Discrete(18),
        hidden_size=0, core_size=core_size, head_size=8, frame_stack=4,
    )  # fmt: skip
    params = jax.eval_shape(lambda: networks.init(network, jax.random.key(0)))["params"]
    assert set(params["torso"]) == {"Nature_0"}
    if core_size:
        assert params["core"]["kernel"].shape == (7 * 7 * 64 + 18 + 1, 4 * core_size)
    hidden = params["head"]["Dense_0"]["kernel"].shape
    assert hidden == (core_size or 7 * 7 * 64, 2 * 8)
