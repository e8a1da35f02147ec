"""Torsos: from an observation of any space to a vector."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.networks.convolution import Conv, max_pool
from rlsys.networks.dense import Dense
from rlsys.networks.statistics import Statistics, init, normalize
from rlsys.networks.units import relu

TORSOS = ("nature", "shallow", "impala", "grid", "mlp")
STRIDED = ("nature", "shallow")
SMALLEST_STRIDED = 36  # pixels: three VALID convolutions leave one
SMALLEST_GRID = 8  # cells a side: a dense layer learns a smaller one as well, five times as fast
LARGEST_GRID = 20  # cells a side; beyond it bytes are colours, not categories
CATEGORIES = 16  # one-hot depth of a byte in a small grid: MiniGrid has 11 objects, 6 colours
LARGEST_ONE_HOT = 512
SPAN = 4.0  # of bounded vectors, either way: most tasks visit a small part of their bounds


def named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the arrays of an observation, or their spaces, by name, in the order of
    jax.tree.leaves.

    {"a": {"b": x}} becomes {"a/b": x}, an array alone {"obs": x}; "action_mask" is left out.

    Args:
      tree: an array, a space, or a (nested) dict or Dict space of them.
    """
    if not isinstance(tree, Mapping):  # Dict spaces are such
        return {prefix or "obs": tree}
    keys = sorted(key for key in tree if key != "action_mask" or prefix)
    named = [named_leaves(tree[k], f"{prefix}/{k}" if prefix else k) for k in keys]
    return {name: leaf for leaves in named for name, leaf in leaves.items()}


def shape_of(space: gymnasium.Space) -> tuple[int, ...]:
    assert space.shape is not None  # only Dict, Tuple and their like have none
    return space.shape


def is_image(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def is_grid(space: gymnasium.Space) -> bool:
    """Tells whether neighbours in the array are neighbours in the world: [H, W] or [H, W, C]."""
    return (
        isinstance(space, spaces.Box | spaces.MultiBinary)
        and len(shape_of(space)) in (2, 3)
        and min(shape_of(space)[:2]) >= 4
    )


def pick_torso(space: gymnasium.Space, name: str | None) -> str:
    """Returns the torso for one leaf of an observation; a name applies to images and grids only."""
    if not is_grid(space):
        return "mlp"
    if name is not None:
        return name
    shape = shape_of(space)
    if len(shape) == 3 and min(shape[:2]) >= SMALLEST_STRIDED:
        return "nature"
    return "grid" if min(shape[:2]) >= SMALLEST_GRID else "mlp"


def symlog(x):
    """Computes sign(x) log(1 + |x|): leaves small numbers as they are and tames large ones.

    Hafner et al. 2023, "Mastering Diverse Domains through World Models",
    https://arxiv.org/abs/2301.04104, eq. 9. x: [...].
    """
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def encode(
    space: gymnasium.Space,
    x,
    statistics: Statistics | None = None,
    *,
    pixel_offset: float = 0.0,
    pixel_scale: float = 255.0,
):
    """Returns an observation as float32 of order 1, by its space.

    Categories become one-hot on a new last axis: Discrete and MultiDiscrete, integers known to lie
    within [0, 32), and the bytes of small grids (MiniGrid's object, colour and state). Numbers are
    normalised by their statistics. Without these, bytes become (x - pixel_offset) / pixel_scale,
    other bounded numbers are divided by their bound (vectors: to +-SPAN), and unbounded ones
    squashed by symlog.

    Args:
      space: gymnasium space of one observation.
      x: [N, ...] observations; images may hold more channels (stacked frames) than the space.
      statistics: of numbers (see is_number), or None.
      pixel_offset: the grey that becomes 0, that of the background for instance.
      pixel_scale: difference of two greys that becomes 1.

    Returns:
      [N, ...] float32, of categories [N, ..., depth].
    """
    if isinstance(space, spaces.Discrete):
        if space.n > LARGEST_ONE_HOT:
            return (x - space.start).astype(jnp.float32) / space.n
        return one_hot(x - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return one_hot(x, int(space.nvec.max()))
    if not isinstance(space, spaces.Box):  # MultiBinary
        return x.astype(jnp.float32)
    if not is_number(space):
        return one_hot(x, int(space.high.max()) + 1 if _has_few(space) else CATEGORIES)
    x = x.astype(jnp.float32)
    if statistics is not None:
        return normalize(statistics, x)
    if space.dtype == np.uint8:
        return (x - pixel_offset) / pixel_scale
    bounded, scale = _bounds(space)
    return jnp.where(bounded[None], x / scale[None], symlog(x))


def is_number(space: gymnasium.Space) -> bool:
    """Tells whether encode takes the entries of an array for numbers, rather than for
    categories."""
    if not isinstance(space, spaces.Box):
        return False
    small_grid = is_image(space) and max(space.shape[:2]) <= LARGEST_GRID
    return not _has_few(space) and not small_grid


def _has_few(space: spaces.Box) -> bool:
    """Tells whether the entries are integers within [0, 32)."""
    is_integer = np.issubdtype(space.dtype, np.integer)
    return bool(is_integer and space.low.min() >= 0 and space.high.max() < 32)


def first_statistics(space: Any, pixel_offset: float, pixel_scale: float) -> Statistics:
    """Returns statistics of numbers that have not been seen, which scale them as encode does
    without; those without bounds stay as they are."""
    if space.dtype == np.uint8:
        return init(np.full(space.shape, pixel_offset), np.full(space.shape, pixel_scale))
    bounded, scale = _bounds(space)
    return init(np.zeros(space.shape), np.where(bounded, scale, 1.0))


def _bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Tells which entries of a Box are bounded, and what to divide them by (1 where they are
    not)."""
    bound = np.maximum(np.abs(space.low.astype(np.float64)), np.abs(space.high.astype(np.float64)))
    bounded = bound < 1e6
    scale = np.where(bounded & (bound > 0), bound, 1.0).astype(np.float32)
    return bounded, scale / SPAN if len(space.shape) == 1 else scale


def one_hot(x, depth: int):
    """Returns one-hot integers on a new last axis; those past the last category count as the
    last."""
    return jax.nn.one_hot(jnp.minimum(x, depth - 1), depth)


class Nature(nn.Module):
    """Mnih et al. 2015, "Human-level control through deep RL", methods: three convolutions."""

    conv: str
    dtype: Any = jnp.float32
    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (32, 8, 4),
        (64, 4, 2),
        (64, 3, 1),
    )  # features, size, stride

    @nn.compact
    def __call__(self, x):
        for features, size, stride in self.LAYERS:
            x = relu(self, Conv(features, size, stride, "VALID", self.conv, self.dtype)(x))
        return x


class Shallow(Nature):
    """Mnih et al. 2013, "Playing Atari with deep RL": IMPALA's shallow network."""

    LAYERS: ClassVar[tuple[tuple[int, int, int], ...]] = ((16, 8, 4), (32, 4, 2))


class Impala(nn.Module):
    """Espeholt et al. 2018, "IMPALA", fig. 3: the deep residual network, 15 convolutions."""

    conv: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for features in (16, 32, 32):
            x = Conv(features, 3, form=self.conv, dtype=self.dtype)(x)
            x = max_pool(x, 3, 2, self.conv)
            for _ in range(2):
                y = Conv(features, 3, form=self.conv, dtype=self.dtype)(relu(self, x))
                x = x + Conv(features, 3, form=self.conv, dtype=self.dtype)(relu(self, y))
        return relu(self, x)


class Grid(nn.Module):
    """Two 3x3 convolutions that keep the size of a small grid."""

    conv: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for features in (16, 32):
            x = relu(self, Conv(features, 3, form=self.conv, dtype=self.dtype)(x))
        return x


class Torso(nn.Module):
    """Encodes every leaf of the observation, concatenates, and ends in one dense layer, or in none
    if hidden_size is 0.

    Images and grids pass through convolutions first, so that with one image this is the
    published network.
    """

    observation_space: gymnasium.Space
    name_of_torso: str | None
    hidden_size: int
    conv: str
    dtype: Any = jnp.float32
    pixel_offset: float = 0.0
    pixel_scale: float = 255.0

    @nn.compact
    def __call__(self, leaves: Sequence[Any], statistics: Sequence[Statistics | None]):
        """Features of N observations.

        Args:
          leaves: arrays [N, ...] in the order of named_leaves.
          statistics: of each array, or None where it is not normalised.

        Returns:
          [N, hidden_size] of dtype; all features, [N, D], if hidden_size is 0.
        """
        layers = {"nature": Nature, "shallow": Shallow, "impala": Impala, "grid": Grid}
        pixels = {"pixel_offset": self.pixel_offset, "pixel_scale": self.pixel_scale}
        features = []
        named = named_leaves(self.observation_space).values()
        for space, x, own in zip(named, leaves, statistics, strict=True):
            x = encode(space, x, own, **pixels).astype(self.dtype)
            torso = pick_torso(space, self.name_of_torso)
            if torso != "mlp":
                x = layers[torso](self.conv, self.dtype)(x.reshape(*x.shape[:3], -1))
            features.append(x.reshape(x.shape[0], -1))
        x = jnp.concatenate(features, axis=-1)
        return relu(self, Dense(self.hidden_size, self.dtype)(x)) if self.hidden_size else x
