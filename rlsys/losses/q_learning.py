"""n-step double Q-learning learns from the temporal-difference errors that are computed here.

Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning",
https://openreview.net/forum?id=r1lyTjAqYX, §2.3. Double Q-learning is van Hasselt et al. 2016,
https://arxiv.org/abs/1509.06461, eq. 4.

This file needs jax and nothing else: copy it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def identity(x: jax.Array) -> jax.Array:
    """Return x as it is: the h and h_inv of values that are not rescaled, [...] -> [...]."""
    return x


def n_step_double_q(
    q_tm1: jax.Array,
    a_tm1: jax.Array,
    q_target_t: jax.Array,
    a_star_t: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    n: int,
    *,
    lambda_t: float | jax.Array = 1.0,
    h: Callable[[jax.Array], jax.Array] = identity,
    h_inv: Callable[[jax.Array], jax.Array] = identity,
) -> jax.Array:
    """Compute the errors delta_{t-1} of Q(x_{t-1}, a_{t-1}) in n-step double Q-learning.

      delta_{t-1} = target_{t-1} - Q(x_{t-1}, a_{t-1})
      target_{t-1} = h(G^(n)_t),  v_t = h_inv(Q^-(x_t, a*_t)),  a*_t = argmax_a Q(x_t, a)
      G^(1)_t = r_t + discount_t v_t
      G^(k)_t = r_t + discount_t ((1 - lambda_t) v_t + lambda_t G^(k-1)_{t+1})

    If no episode ends on the way, G^(n)_t = sum_{i<n} gamma^i r_{t+i} + gamma^n v_{t+n-1}. The last
    n - 1 steps of the array take as many rewards as there are, then bootstrap from the last v.
    n_step.py has G alone; this file repeats its recursion so that either can be copied alone.

    No return looks past an episode's last x_t if discount_t is 0 where the episode terminated, and
    lambda_t is 0 where it was cut short, so that the return bootstraps from x_t itself. Rows after
    the end (an auto-reset's dummy step, padding, another episode) have no effect, but must be
    finite. The errors of the dummy steps themselves mean nothing: mask them.

    Args:
      q_tm1: [T, ..., A] Q(x_{t-1}, .) of the online network, time first.
      a_tm1: [T, ...] int, the action taken in x_{t-1}.
      q_target_t: [T, ..., A] Q^-(x_t, .) of the target network.
      a_star_t: [T, ...] int, the greedy (legal) action of the online network in x_t.
      r_t: [T, ...] reward on reaching x_t.
      discount_t: [T, ...] discount on reaching x_t, 0 where the episode terminated.
      n: number of steps of the return, at least 1, static.
      lambda_t: 1 to go on past x_t, 0 to bootstrap there; a number or [T, ...].
      h: function from a return to the scale of Q and Q^-, e.g. value_rescaling.h.
      h_inv: the inverse of h.

    Returns:
      [T, ...] target minus prediction: positive where Q(x_{t-1}, a_{t-1}) is too low. Gradient
      flows into q_tm1 at a_tm1 only; targets are constants.

    Raises:
      ValueError: n is below 1, or shapes do not agree.
    """
    _check_shapes(q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t, lambda_t)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")

    v_t = h_inv(_pick(q_target_t, a_star_t))  # [T, ...]
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
    return jax.lax.stop_gradient(h(g_t)) - _pick(q_tm1, a_tm1)


def _pick(q: jax.Array, a: jax.Array) -> jax.Array:
    """Pick the Q-value of one action: [..., A], [...] -> [...]."""
    return jnp.take_along_axis(q, a[..., None], axis=-1)[..., 0]


def _check_shapes(q_tm1, a_tm1, q_target_t, a_star_t, r_t, discount_t, lambda_t) -> None:
    if q_tm1.shape != q_target_t.shape or q_tm1.shape[:-1] != r_t.shape:
        raise ValueError(
            f"q_tm1 {q_tm1.shape} and q_target_t {q_target_t.shape} must be [T, ..., A]"
            f" for rewards [T, ...] {r_t.shape}."
        )
    others = {"a_tm1": a_tm1, "a_star_t": a_star_t, "discount_t": discount_t}
    if jnp.ndim(lambda_t) > 0:
        others["lambda_t"] = lambda_t
    for name, x in others.items():
        if jnp.shape(x) != r_t.shape:
            raise ValueError(f"{name} {jnp.shape(x)} must have the shape of r_t {r_t.shape}.")
