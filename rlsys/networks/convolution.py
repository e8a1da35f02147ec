"""Convolutions, in a form that XLA differentiates fast on CPUs too.

Both forms have the same parameters and results. XLA's CPU convolution is good forward and for the
gradient of its input, but not for that of its kernel and not with strides; so there, strides are
turned into channels (space to depth) and the kernel's gradient is one matrix product.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

FORMS = ("auto", "plain", "cpu")


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
    if form == "auto":
        form = "cpu" if jax.default_backend() == "cpu" else "plain"
    if form == "plain":
        return plain(x, kernel, stride, padding)
    if padding == "VALID" and stride > 1 and kernel.shape[0] % stride == 0:
        x, kernel = space_to_depth(x, kernel, stride)
        stride = 1
    return with_matrix_gradient(*vary_alike(x, kernel), stride, padding)


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


def space_to_depth(x, kernel, s):
    """Images of s x s blocks as channels, and the kernel to go over them with stride 1."""
    (n, height, width, c), (k, _, _, d) = x.shape, kernel.shape
    height, width = ((size - k) // s + k // s for size in (height, width))  # blocks that are read
    x = x[:, : height * s, : width * s].reshape(n, height, s, width, s, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, s * s * c)
    kernel = kernel.reshape(k // s, s, k // s, s, c, d).transpose(0, 2, 1, 3, 4, 5)
    return x, kernel.reshape(k // s, k // s, s * s * c, d)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def with_matrix_gradient(x, kernel, stride, padding):
    """The plain convolution, its kernel's gradient taken as (output's gradient)^T patches."""
    return plain(x, kernel, stride, padding)


def _forward(x, kernel, stride, padding):
    return plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, dy):
    x, kernel = residuals
    (k, _, c, d), (height, width) = kernel.shape, dy.shape[1:3]
    (dx,) = jax.linear_transpose(lambda x: plain(x, kernel, stride, padding), x)(dy)
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (k, k), (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (stride * (size - 1) + 1 for size in (height, width))
    patches = [
        x[:, i : i + rows : stride, j : j + columns : stride] for i in range(k) for j in range(k)
    ]
    patches = jnp.concatenate(patches, axis=-1).reshape(-1, k * k * c)  # [N*H'*W', k*k*C]
    dkernel = (dy.reshape(-1, d).T @ patches).T
    return dx, dkernel.reshape(kernel.shape)


with_matrix_gradient.defvjp(_forward, _backward)


class Conv(nn.Module):
    """A convolution layer with the parameters of flax's own; form as in conv2d."""

    features: int
    size: int
    stride: int = 1
    padding: str = "SAME"
    form: str = "auto"

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv2d(x, kernel, self.stride, self.padding, self.form) + bias[None, None, None]
