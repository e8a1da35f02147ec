"""V-trace computes value targets and advantages from the actions of another policy.

Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted
Actor-Learner Architectures", https://arxiv.org/abs/1802.01561, §4.

This file needs jax and nothing else: copy it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class VTrace(NamedTuple):
    """Holds the targets and the advantages that V-trace computes for T steps."""

    vs_tm1: jax.Array  # [T, ...] v_s, the target of V(x_s), with x_s = x_{t-1}
    pg_advantage_tm1: jax.Array  # [T, ...] min(clip_pg_rho, rho_s) times a_s's advantage


def vtrace(
    v_tm1: jax.Array,
    v_t: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    rho_tm1: jax.Array,
    *,
    lambda_: float | jax.Array = 1.0,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
) -> VTrace:
    """Compute the V-trace targets of T steps (eq. 1) and the advantages of their actions (§4.2).

      v_s = V(x_s) + sum_{t=s}^{T-1} gamma^{t-s} (prod_{i=s}^{t-1} c_i) delta_t
      delta_t = min(clip_rho, rho_t) (r_t + gamma V(x_{t+1}) - V(x_t))
      c_i = lambda_i min(1, rho_i)
      pg_advantage_s = min(clip_pg_rho, rho_s) (r_s + gamma q_{s+1} - V(x_s))
      q_{s+1} = lambda_s v_{s+1} + (1 - lambda_s) V(x_{s+1})

    Indices above are the paper's: r_t, gamma and lambda_t belong to the step from x_t to x_{t+1}.
    Those below are of the arguments. If lambda is 1, as in the paper, q is v. If rho is 1,
    pg_advantage is the advantage of GAE, whatever lambda is.

    No target looks past an episode's last x_t if discount_t is 0 where the episode terminated, and
    lambda_t is 0 where it was cut short, so that the return bootstraps from x_t itself. Rows after
    the end have no effect, but must be finite. Set rho_tm1 to 0 at a step that is to be left out
    (an auto-reset's dummy step): it then has no error and no advantage, and no trace passes it.

    Args:
      v_tm1: [T, ...] V(x_{t-1}), time first.
      v_t: [T, ...] V(x_t); the last step bootstraps from v_t[-1].
      r_t: [T, ...] reward on reaching x_t.
      discount_t: [T, ...] discount on reaching x_t, 0 where the episode terminated.
      rho_tm1: [T, ...] pi(a_{t-1} | x_{t-1}) / mu(a_{t-1} | x_{t-1}), at least 0; may be inf.
      lambda_: decay lambda_t of traces, a number or [T, ...]; 0 bootstraps at x_t.
      clip_rho: rho-bar, the largest rho in a target; it decides which policy's value is learned.
        The paper assumes that it is at least c-bar (§4.1), which is 1 here.
      clip_pg_rho: the largest rho in an advantage.

    Returns:
      VTrace, both [T, ...] in units of return; no gradient flows through either.

    Raises:
      ValueError: shapes do not agree.
    """
    _check_shapes(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_)
    lambda_t = jnp.broadcast_to(lambda_, r_t.shape)
    steps = jax.lax.stop_gradient((v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_t))
    clip_rho, clip_pg_rho = jax.lax.stop_gradient((clip_rho, clip_pg_rho))

    def backwards(error_t, step):
        """Computes v_s - V(x_s) from v_{s+1} - V(x_{s+1})."""
        v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_t = step
        td_error = r_t + discount_t * v_t - v_tm1
        beyond = discount_t * lambda_t * error_t
        error_tm1 = jnp.minimum(clip_rho, rho_tm1) * td_error + jnp.minimum(1.0, rho_tm1) * beyond
        pg_advantage_tm1 = jnp.minimum(clip_pg_rho, rho_tm1) * (td_error + beyond)
        return error_tm1, VTrace(v_tm1 + error_tm1, pg_advantage_tm1)

    # One scan does all: on CPU each further pass over [T, ...] costs more than the scan itself. The
    # first carry is made from data, since shard_map refuses a literal.
    return jax.lax.scan(backwards, jnp.zeros_like(steps[0][0]), steps, reverse=True)[1]


def _check_shapes(v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_) -> None:
    others = {"v_tm1": v_tm1, "v_t": v_t, "discount_t": discount_t, "rho_tm1": rho_tm1}
    if jnp.ndim(lambda_) > 0:
        others["lambda_"] = lambda_
    for name, x in others.items():
        if jnp.shape(x) != r_t.shape:
            raise ValueError(f"{name} {jnp.shape(x)} must have the shape of r_t {r_t.shape}.")
