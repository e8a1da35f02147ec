"""A dense layer that computes in bfloat16 on request."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Dense(nn.Module):
    """flax's layer, with its parameters, but for the bias: see add_bias."""

    features: int
    dtype: Any = jnp.float32  # of the product's factors and of the result
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        """x [..., D] -> [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return add_bias(x.astype(self.dtype) @ kernel.astype(self.dtype), bias)


def add_bias(x, bias):
    """Computes x [..., D] + bias [D], in the dtype of x.

    The bias's gradient is a sum over all of x, and float32 whatever x is: in bfloat16, as flax has
    it, a sum stops growing at 256 times its parts.
    """
    bias = bias.reshape(*[1] * (x.ndim - 1), -1)
    return (x.astype(jnp.float32) + bias).astype(x.dtype)
