"""These are the losses of an actor and its critic, and a categorical policy's log probability and
entropy.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", https://doi.org/10.1007/BF00992696; as used by Espeholt et al. 2018, IMPALA,
https://arxiv.org/abs/1802.01561, §4.2.

This file needs jax and nothing else: copy it.
"""

import jax
import jax.numpy as jnp


def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Compute log pi(a), the log probability of an action under a categorical policy.

    Args:
      logits: [..., A] unnormalised log probabilities; -1e9 (or -inf) for illegal actions.
      action: [...] int, the action a.

    Returns:
      [...] log pi(a); gradient flows.

    Raises:
      ValueError: shapes do not agree.
    """
    if jnp.shape(logits)[:-1] != jnp.shape(action) or jnp.ndim(logits) == 0:
        raise ValueError(
            f"logits {jnp.shape(logits)} must be [..., A] for actions [...] {jnp.shape(action)}."
        )
    logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    logit = jnp.take_along_axis(logits, action[..., None], axis=-1)[..., 0]
    # Only one action's log probability: on CPU its gradient takes half the time of log_softmax's.
    return logit - jnp.log(jnp.sum(jnp.exp(logits), axis=-1))


def entropy(logits: jax.Array) -> jax.Array:
    """Compute the entropy of a categorical policy, in nats.

      H = -sum_a pi(a) log pi(a)

    Args:
      logits: [..., A] unnormalised log probabilities; -1e9 (or -inf) for illegal actions.

    Returns:
      [...] H, between 0 and log A; gradient flows. The gradient is
      finite, and 0 for illegal actions.
    """
    log_pi = jax.nn.log_softmax(logits)  # [..., A]
    pi = jnp.exp(log_pi)
    # 0 log 0 is 0, also where the logarithm is -inf.
    return -jnp.sum(pi * jnp.where(pi > 0.0, log_pi, 0.0), axis=-1)


def policy_gradient_loss(log_pi_a: jax.Array, advantage: jax.Array) -> jax.Array:
    """Compute the policy's loss, whose gradient is minus the policy gradient.

      loss = -log pi(a) A

    Args:
      log_pi_a: [...] log pi(a).
      advantage: [...] advantage A of the action, importance-weighted if another policy took it.

    Returns:
      [...] loss of each sample; gradient flows into log_pi_a only.

    Raises:
      ValueError: shapes do not agree.
    """
    _check_shapes(log_pi_a=log_pi_a, advantage=advantage)
    return -log_pi_a * jax.lax.stop_gradient(advantage)


def baseline_loss(v: jax.Array, target: jax.Array) -> jax.Array:
    """Compute the value function's loss, half the squared error.

      loss = 1/2 (target - v)^2

    Args:
      v: [...] V(x).
      target: [...] target of V(x), in the same unit.

    Returns:
      [...] loss of each sample; gradient flows into v only.

    Raises:
      ValueError: shapes do not agree.
    """
    _check_shapes(v=v, target=target)
    return 0.5 * (jax.lax.stop_gradient(target) - v) ** 2


def _check_shapes(**arrays) -> None:
    if len({jnp.shape(x) for x in arrays.values()}) > 1:
        listed = " and ".join(f"{name} {jnp.shape(x)}" for name, x in arrays.items())
        raise ValueError(f"{listed} must have one shape.")
