"""The functions h and h_inv squash values and undo it, so that large returns can be learned.

  h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x

Pohlen et al. 2018, "Observe and Look Further", https://arxiv.org/abs/1805.11593, prop. A.2.

Both are written without the subtractions that would lose float32's digits near 0, so the gradients
at 0 are right too.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def h(x: jax.Array, eps: float = 1e-3) -> jax.Array:
    """Squash values, elementwise.

      h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x

    It is computed by sqrt(|x| + 1) - 1 = |x| / (sqrt(|x| + 1) + 1).

    Args:
      x: [...] values, in units of return.
      eps: weight of the linear part, which keeps h_inv Lipschitz; at least 0.

    Returns:
      [...] rescaled values; gradient flows.
    """
    return x / (jnp.sqrt(jnp.abs(x) + 1.0) + 1.0) + eps * x


def h_inv(x: jax.Array, eps: float = 1e-3) -> jax.Array:
    """Undo h, elementwise.

      h_inv(x) = sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / (2 eps))^2 - 1)

    It is computed by w = sign(x) ((s - 1) / (2 eps) - 1) = 2 x / (s + 1 + 2 eps), with s the square
    root above. Then the inverse is sign(x) ((|w| + 1)^2 - 1) = w (|w| + 2), and eps may be 0.

    Args:
      x: [...] rescaled values.
      eps: the eps that h was given.

    Returns:
      [...] values in units of return; gradient flows.
    """
    s = jnp.sqrt(1.0 + 4.0 * eps * (jnp.abs(x) + 1.0 + eps))
    w = 2.0 * x / (s + 1.0 + 2.0 * eps)
    return w * (jnp.abs(w) + 2.0)
