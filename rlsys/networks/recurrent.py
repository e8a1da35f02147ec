"""The recurrent core: an LSTM that forgets at the first step of each episode."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlsys.networks.convolution import vary_alike


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def lstm_scan(gates, keep, recurrent, c, h, dtype=jnp.float32):
    """Runs an LSTM over T steps (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et
    al. 2000).

      z_t = gates_t + keep_t h_{t-1} U,  i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of z_t's parts
      c_t = f keep_t c_{t-1} + i g,  h_t = o tanh(c_t)

    Its gradient is written out so that dU is one matrix product over all steps, where that of
    lax.scan adds up T small ones.

    Args:
      gates: [T, B, 4H] the inputs' part of z.
      keep: [T, B, 1] 0. where the state before is to be forgotten, else 1.
      recurrent: U [H, 4H].
      c, h: [B, H].
      dtype: of the factors of the products with U. All else is float32: c adds up small parts over
        many steps, which bfloat16 would lose.

    Returns:
      h_t [T, B, H]; c_{T-1} and h_{T-1} [B, H].
    """
    return _forward(gates, keep, recurrent, c, h, dtype)[0]


def _product(x, y, dtype):
    """Computes x y of factors rounded to dtype, added up in float32."""
    return jnp.matmul(x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


def _forward(gates, keep, recurrent, c, h, dtype):
    def step(state, inputs):
        gates, keep = inputs
        c, h = state[0] * keep, state[1] * keep
        z = gates + _product(h, recurrent, dtype)
        i, f, _, o = jnp.split(nn.sigmoid(z), 4, axis=-1)
        g = jnp.tanh(jnp.split(z, 4, axis=-1)[2])
        c = f * c + i * g
        tanh_c = jnp.tanh(c)
        h = o * tanh_c
        return (c, h), (h, c, (i, f, g, o, tanh_c))

    last, (hs, cs, parts) = jax.lax.scan(step, (c, h), (gates, keep))
    c_tm1 = jnp.concatenate([c[None], cs[:-1]]) * keep
    h_tm1 = jnp.concatenate([h[None], hs[:-1]]) * keep
    return (hs, *last), (parts, keep, recurrent, c_tm1, h_tm1)


def _backward(dtype, residuals, gradients):
    parts, keep, recurrent, c_tm1, h_tm1 = residuals
    dhs, dc, dh = gradients

    def step(carry, inputs):
        dc, dh = carry
        dh_t, (i, f, g, o, tanh_c), c_tm1, keep = inputs
        dh = dh + dh_t
        dc = dc + dh * o * (1 - tanh_c**2)
        di, df, dg, do = dc * g, dc * c_tm1, dc * i, dh * tanh_c
        dz = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)]
        dz = jnp.concatenate(dz, axis=-1)
        return (dc * f * keep, _product(dz, recurrent.T, dtype) * keep), dz

    (dc, dh), dz = jax.lax.scan(step, (dc, dh), (dhs, parts, c_tm1, keep), reverse=True)
    size = h_tm1.shape[-1]
    dU = _product(h_tm1.reshape(-1, size).T, dz.reshape(-1, 4 * size), dtype)
    return dz, jnp.zeros_like(keep), dU, dc, dh


lstm_scan.defvjp(_forward, _backward)


def orthogonal_gates(key, shape, dtype=jnp.float32):
    """Returns four orthogonal [H, H] matrices side by side."""
    init = nn.initializers.orthogonal()
    keys = jax.random.split(key, 4)
    return jnp.concatenate([init(k, (shape[0], shape[1] // 4), dtype) for k in keys], axis=-1)


class Lstm(nn.Module):
    """LSTM over T steps: flax's OptimizedLSTMCell with its state zeroed where first is True.

    The product of the inputs and their kernel is one for all steps. Gates are in the order i, f, g,
    o. Products are of factors in dtype; parameters, state and result are float32.
    """

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, first, state):
        """x [T, B, D], first [T, B], state (c, h) each [B, H] -> h [T, B, H], state."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4 * self.size))
        recurrent = self.param("recurrent_kernel", orthogonal_gates, (self.size, 4 * self.size))
        bias = self.param("bias", nn.initializers.zeros, (4 * self.size,))
        gates = x.astype(self.dtype) @ kernel.astype(self.dtype)
        gates = gates.astype(jnp.float32) + bias[None, None]  # [T, B, 4H]
        keep = 1.0 - first[..., None].astype(gates.dtype)
        hs, c, h = lstm_scan(*vary_alike(gates, keep, recurrent, *state), self.dtype)
        return hs, (c, h)
