"""Convolutions, in a form that XLA runs and differentiates fast on CPUs too.

Both forms have the same parameters and results. XLA's convolution on CPUs is slow with strides, in
the gradient of its kernel, and ten times slower inside lax.scan; its matrix products are fast.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlsys.networks.dense import add_bias

FORMS = ("auto", "plain", "cpu")


def on_cpu(form: str) -> bool:
    """Tells whether form, "plain", "cpu" or "auto", asks for the CPU's: "auto" where that is
    default."""
    return form == "cpu" or (form == "auto" and jax.default_backend() == "cpu")


def conv2d(x, kernel, stride: int, padding: str, form: str = "auto"):
    """Cross-correlates images with a kernel.

    Args:
      x: [N, H, W, C] images.
      kernel: [k, k, C, D].
      stride: pixels from one output to the next.
      padding: "SAME" or "VALID".
      form: "plain", "cpu", or "auto": "cpu" where the default device is one.

    Returns:
      [N, H', W', D].
    """
    return (by_columns if on_cpu(form) else plain)(x, kernel, stride, padding)


def vary_alike(*arrays):
    """Inside shard_map: marks each array as varying over the mesh axes that any of them does.

    A custom gradient must vary over the axes that its argument varies over, and scan's carry over
    those of its inputs.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    axes = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(x, tuple(axes - own), to="varying")
        for x, own in zip(arrays, varying, strict=True)
    )


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def by_columns(x, kernel, stride, padding):
    """Returns the plain convolution as one matrix product.

      z[h, w, i] = sum over j of x[h, w + j] kernel[i, j],  y[h, w] = sum over i of z[h + i, w, i]

    Patches of k * k pixels would copy x k^2 times; these columns copy it k times, and y as often.
    Gradients are products of the same kind.
    """
    x, kernel = space_to_depth(x, kernel, stride, padding)
    (k, _, c, d), (n, height, width, _) = kernel.shape, x.shape
    rows, width = height - k + 1, width - k + 1  # of y
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(k)], axis=-1)
    kernel = kernel.transpose(1, 2, 0, 3).reshape(k * c, k * d)
    z = (columns.reshape(-1, k * c) @ kernel).reshape(n, height, width, k * d)
    return sum(z[:, i : i + rows, :, i * d : (i + 1) * d] for i in range(k))


def space_to_depth(x, kernel, s, padding):
    """Returns the padded images of s x s blocks as channels, and the kernel to go over them with
    stride 1.

    A stride of 1 only pads.
    """
    (n, *size, c), (k, _, _, d) = x.shape, kernel.shape
    pads = jax.lax.padtype_to_pads(size, (k, k), (s, s), padding)
    span = -(-k // s)  # blocks that the kernel spans; zeros fill up the last
    blocks = [
        (pixels + low + high - k) // s + span
        for pixels, (low, high) in zip(size, pads, strict=True)
    ]
    edges = [  # what no window reaches is cut off
        (low, s * count - pixels - low, 0)
        for pixels, count, (low, _) in zip(size, blocks, pads, strict=True)
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    x = x.reshape(n, blocks[0], s, blocks[1], s, c).transpose(0, 1, 3, 2, 4, 5)
    fill = (0, s * span - k)
    kernel = jnp.pad(kernel, (fill, fill, (0, 0), (0, 0)))
    kernel = kernel.reshape(span, s, span, s, c, d).transpose(0, 2, 1, 3, 4, 5)
    return x.reshape(n, *blocks, s * s * c), kernel.reshape(span, span, s * s * c, d)


def max_pool(x, size: int, stride: int, form: str = "auto"):
    """Computes nn.max_pool of [N, H, W, C] with padding "SAME".

    The gradient of XLA's own takes longer on CPUs than that of a convolution. This one goes to
    the same of equal pixels, the first: columns are compared before rows.
    """
    if not on_cpu(form):
        return nn.max_pool(x, (size, size), (stride, stride), padding="SAME")
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    for axis, pad in ((2, pads[1]), (1, pads[0])):
        edges = [(0, 0)] * 4
        edges[axis] = pad
        x = jnp.pad(x, edges, constant_values=-jnp.inf)
        last = x.shape[axis] - size + 1  # of the windows' first pixels
        y, *others = (jax.lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(size))
        for other in others:
            y = jnp.where(other > y, other, y)
        x = y
    return x


class Conv(nn.Module):
    """A convolution layer with the parameters of flax's own; form as in conv2d."""

    features: int
    size: int
    stride: int = 1
    padding: str = "SAME"
    form: str = "auto"
    dtype: Any = jnp.float32  # that it computes in

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return add_bias(conv2d(x, kernel, self.stride, self.padding, self.form), bias)
