"""The n-step return adds n rewards and then bootstraps from a value.

Sutton & Barto 2018, "Reinforcement Learning: An Introduction",
http://incompleteideas.net/book/the-book-2nd.html, §7.1, eq. 7.1; as used by Kapturowski et al.
2019, R2D2, https://openreview.net/forum?id=r1lyTjAqYX, §2.3.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def n_step_return(
    v_t: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    n: int,
    *,
    lambda_t: float | jax.Array = 1.0,
) -> jax.Array:
    """Compute, for each of T steps, n rewards and the value after them, discounted.

      G^(1)_t = r_t + discount_t v_t
      G^(k)_t = r_t + discount_t ((1 - lambda_t) v_t + lambda_t G^(k-1)_{t+1})

    If no episode ends on the way, G^(n)_t = sum_{i<n} gamma^i r_{t+i} + gamma^n v_{t+n-1}. The last
    n - 1 steps of the array take as many rewards as there are, then bootstrap from the last v.

    No return looks past an episode's last x_t if discount_t is 0 where the episode terminated, and
    lambda_t is 0 where it was cut short, so that the return bootstraps from x_t itself. Rows after
    the end (an auto-reset's dummy step, padding, another episode) have no effect, but must be
    finite. The returns of the dummy steps themselves mean nothing: mask them.

    Args:
      v_t: [T, ...] value of x_t, time first: V(x_t), or Q(x_t, a) of the action to be evaluated.
      r_t: [T, ...] reward on reaching x_t.
      discount_t: [T, ...] discount on reaching x_t, 0 where the episode terminated.
      n: number of steps, at least 1, static.
      lambda_t: 1 to go on past x_t, 0 to bootstrap there; a number or [T, ...].

    Returns:
      [T, ...] return_tm1 = G^(n)_t of x_{t-1}, in units of return; no gradient flows.

    Raises:
      ValueError: n is below 1, or shapes do not agree.
    """
    _check_shapes(v_t, r_t, discount_t, lambda_t)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")

    length, more = r_t.shape[0], min(n, r_t.shape[0]) - 1
    # Past the array's end come steps that return its last v. Each round slices padded arrays, as
    # XLA on CPU is 3 times slower at shifting the last round's result.
    beyond = jnp.broadcast_to(v_t[-1:], (more, *v_t.shape[1:]))  # [n - 1, ...]
    one_step = jnp.concatenate([r_t + discount_t * v_t, beyond])  # [T + n - 1, ...]
    stay = jnp.concatenate([r_t + discount_t * (1.0 - lambda_t) * v_t, beyond])
    go_on = jnp.concatenate([discount_t * lambda_t, jnp.zeros_like(beyond)])
    g_t = one_step[more:]
    for i in reversed(range(more)):
        g_t = stay[i : i + length] + go_on[i : i + length] * g_t
    return jax.lax.stop_gradient(g_t)


def _check_shapes(v_t, r_t, discount_t, lambda_t) -> None:
    others = {"v_t": v_t, "discount_t": discount_t}
    if jnp.ndim(lambda_t) > 0:
        others["lambda_t"] = lambda_t
    for name, x in others.items():
        if jnp.shape(x) != r_t.shape:
            raise ValueError(f"{name} {jnp.shape(x)} must have the shape of r_t {r_t.shape}.")
