"""Retrace(lambda) computes targets of Q-values from the actions of another policy.

Munos et al. 2016, "Safe and Efficient Off-Policy Reinforcement Learning",
https://arxiv.org/abs/1606.02647, §3, eq. 3 and 4.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def retrace(
    q_tm1: jax.Array,
    a_tm1: jax.Array,
    v_t: jax.Array,
    q_a_t: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    c_t: jax.Array,
    *,
    lambda_: float | jax.Array = 0.95,
) -> jax.Array:
    """Compute the Retrace targets of Q(x_{t-1}, a_{t-1}) for the actions of T steps.

      G_{t-1} = Q(x_{t-1}, a_{t-1}) + delta_t + discount_t lambda_t c_t (G_t - Q(x_t, a_t))
      delta_t = r_t + discount_t V(x_t) - Q(x_{t-1}, a_{t-1}),  V(x_t) = sum_a pi(a | x_t) Q(x_t, a)
      c_t = min(1, pi(a_t | x_t) / mu(a_t | x_t))

    The paper's c is lambda_t c_t here. The last step bootstraps from V(x_T) alone. G_{t-1} adds
    Q(x_{t-1}, a_{t-1}) and delta_t subtracts it, so it cancels and is not computed: the values of
    q_tm1 and a_tm1 are not used, only their shapes are checked.

    No target looks past an episode's last x_t if discount_t is 0 where the episode terminated, and
    lambda_t is 0 where it was cut short, so that the target bootstraps from V(x_t). Rows after the
    end (an auto-reset's dummy step, padding, another episode) have no effect, but must be finite.
    The targets of the dummy steps themselves mean nothing: mask them.

    Args:
      q_tm1: [T, ..., A] Q(x_{t-1}, .), time first.
      a_tm1: [T, ...] int, the action taken in x_{t-1}.
      v_t: [T, ...] V(x_t), the mean of Q(x_t, .) under pi, the policy that is evaluated.
      q_a_t: [T, ...] Q(x_t, a_t) of the action taken in x_t; any finite number in the last row.
      r_t: [T, ...] reward on reaching x_t.
      discount_t: [T, ...] discount on reaching x_t, 0 where the episode terminated.
      c_t: [T, ...] min(1, pi(a_t | x_t) / mu(a_t | x_t)); any finite number in the last row.
      lambda_: decay of traces, a number or [T, ...]; 0 bootstraps at x_t. The default is that of
        Badia et al. 2020, "Never Give Up", https://arxiv.org/abs/2002.06038.

    Returns:
      [T, ...] target_tm1 = G_{t-1}, in units of return; no gradient flows.

    Raises:
      ValueError: shapes do not agree.
    """
    _check_shapes(q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t, lambda_)
    trace_t = lambda_ * c_t  # [T, ...]
    steps = jax.lax.stop_gradient((v_t, q_a_t, r_t, discount_t, trace_t))

    def backwards(g_t, step):
        """Computes G_{t-1} from G_t."""
        v_t, q_a_t, r_t, discount_t, trace_t = step
        g_tm1 = r_t + discount_t * (v_t + trace_t * (g_t - q_a_t))
        return g_tm1, g_tm1

    # The first carry is G_T = Q(x_T, a_T), so the last step gets no correction.
    return jax.lax.scan(backwards, steps[1][-1], steps, reverse=True)[1]


def _check_shapes(q_tm1, a_tm1, v_t, q_a_t, r_t, discount_t, c_t, lambda_) -> None:
    if jnp.shape(q_tm1)[:-1] != r_t.shape or jnp.ndim(q_tm1) == 0:
        raise ValueError(
            f"q_tm1 {jnp.shape(q_tm1)} must be [T, ..., A] for rewards [T, ...] {r_t.shape}."
        )
    others = {"a_tm1": a_tm1, "v_t": v_t, "q_a_t": q_a_t, "discount_t": discount_t, "c_t": c_t}
    if jnp.ndim(lambda_) > 0:
        others["lambda_"] = lambda_
    for name, x in others.items():
        if jnp.shape(x) != r_t.shape:
            raise ValueError(f"{name} {jnp.shape(x)} must have the shape of r_t {r_t.shape}.")
