"""Convolutions."""

import flax.linen as nn
import jax


def conv2d(x, kernel, stride: int, padding: str, form: str = "auto"):
    """Cross-correlates images x [N, H, W, C] with kernel [h, w, C, D] -> [N, H', W', D]."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
