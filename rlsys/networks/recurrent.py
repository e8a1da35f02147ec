"""The recurrent core: an LSTM that forgets at the first step of each episode."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def orthogonal_gates(key, shape, dtype=jnp.float32):
    """Four orthogonal [H, H] matrices side by side."""
    init = nn.initializers.orthogonal()
    keys = jax.random.split(key, 4)
    return jnp.concatenate([init(k, (shape[0], shape[1] // 4), dtype) for k in keys], axis=-1)


class Lstm(nn.Module):
    """LSTM over T steps: flax's OptimizedLSTMCell with its state zeroed where first is True.

      i, f, o = sigmoid(.), g = tanh(.) of x_t W + h_{t-1} U + b, in the order i, f, g, o
      c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)

    x W is one matrix product for all steps; only the product with U is inside the scan.
    """

    size: int

    @nn.compact
    def __call__(self, x, first, state):
        """x [T, B, D], first [T, B], state (c, h) each [B, H] -> h [T, B, H], state."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4 * self.size))
        recurrent = self.param("recurrent_kernel", orthogonal_gates, (self.size, 4 * self.size))
        bias = self.param("bias", nn.initializers.zeros, (4 * self.size,))
        gates = x @ kernel + bias[None, None]  # [T, B, 4H]
        # Made of data, never a literal: shard_map refuses a scan whose carry starts elsewhere.
        zero = jnp.zeros_like(gates[0, :, : self.size])

        def step(state, inputs):
            gates, first = inputs
            c, h = jax.tree.map(lambda s: jnp.where(first[:, None], zero, s), state)
            i, f, g, o = jnp.split(gates + h @ recurrent, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        state = jax.tree.map(lambda s: jnp.where(first[0, :, None], zero, s), state)
        state, h = jax.lax.scan(step, state, (gates, first))
        return h, state
