"""Distributions over actions: what a policy says of one state, as arrays with any leading axes.

Each is a NamedTuple of arrays [..., ...], so that it passes through jit, scan, vmap and memory like
any tree, and each has the same methods:

  sample(key), mode()      an action of each state
  log_prob(action)         [...] log pi(a), of the whole action
  entropy()                [...] in nats, of the whole action
  kl(other)                [...] KL(self || other) = E_self[log self - log other], in nats
  only(mask)               the distribution that never takes an action where mask is False

policy() picks one by the action space; nothing outside this file knows which.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from rlsys.losses import policy_gradient
from rlsys.types import UserError

ILLEGAL = -1e9  # logit of an illegal action: finite, so that 0 times its logarithm is 0
FIRST_DEVIATION = 1.0  # of a Gaussian policy that has not learned, in half ranges of the action


class Distribution(Protocol):
    """A policy's distribution over actions in each of [...] states."""

    def sample(self, key: jax.Array) -> jax.Array: ...
    def mode(self) -> jax.Array: ...
    def log_prob(self, action: jax.Array) -> jax.Array: ...
    def entropy(self) -> jax.Array: ...
    def kl(self, other: Any) -> jax.Array: ...
    def only(self, mask: jax.Array | None) -> Any: ...


class Categorical(NamedTuple):
    """One choice of A."""

    logits: Any  # [..., A] unnormalised log probabilities; ILLEGAL where there is no chance

    def sample(self, key):
        """Returns [...] int32 drawn actions."""
        return jax.random.categorical(key, self.logits)

    def mode(self):
        """Returns [...] int32 the likeliest action, the first of equals."""
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action):
        return policy_gradient.log_prob(self.logits, action)

    def entropy(self):
        return policy_gradient.entropy(self.logits)

    def kl(self, other):
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        d = jnp.where(p > 0.0, log_p - log_q, 0.0)
        # sum p d, and q - p in each term, which add up to 0: so no term is negative when rounded.
        return jnp.sum(p * (d + jnp.expm1(-d)), axis=-1)

    def only(self, mask):
        return self._replace(logits=legal_logits(self.logits, mask))


class MultiCategorical(NamedTuple):
    """D independent choices of K each.

    Where the sizes differ K is the largest, and the logits past a dimension's own size are ILLEGAL.
    """

    logits: Any  # [..., D, K]

    def sample(self, key):
        """Returns [..., D] int32 drawn actions."""
        return self._each.sample(key)

    def mode(self):
        """Returns [..., D] int32 the likeliest action."""
        return self._each.mode()

    def log_prob(self, action):
        return self._each.log_prob(action).sum(axis=-1)

    def entropy(self):
        return self._each.entropy().sum(axis=-1)

    def kl(self, other):
        return self._each.kl(Categorical(other.logits)).sum(axis=-1)

    def only(self, mask):
        return self._replace(logits=legal_logits(self.logits, mask))

    @property
    def _each(self) -> Categorical:
        return Categorical(self.logits)


class Gaussian(NamedTuple):
    """D independent real numbers, in the units of the environment's action.

    Environments clip an action to its bounds; its probability is that of the number as drawn.
    """

    mean: Any  # [..., D]
    log_deviation: Any  # [..., D]

    def sample(self, key):
        """Returns [..., D] float32 drawn actions."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_deviation) * noise

    def mode(self):
        """Returns [..., D] float32 the mean."""
        return self.mean

    def log_prob(self, action):
        z = (action - self.mean) * jnp.exp(-self.log_deviation)
        return jnp.sum(-0.5 * z**2 - self.log_deviation - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self):
        return jnp.sum(self.log_deviation + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other):
        # With r the ratio of deviations: r^2 / 2 - 1/2 - log r, written so that equal ones give 0.
        log_r = self.log_deviation - other.log_deviation
        z = (self.mean - other.mean) * jnp.exp(-other.log_deviation)
        return jnp.sum(0.5 * jnp.expm1(2.0 * log_r) - log_r + 0.5 * z**2, axis=-1)

    def only(self, mask):
        """Returns itself: no part of a continuous action can be illegal.

        Raises:
          UserError: there is a mask.
        """
        if mask is not None:
            raise UserError("an observation's action_mask cannot rule out continuous actions")
        return self


def legal_logits(logits, mask):
    """Returns logits [..., A] or [..., D, K], those of illegal actions lowered until they have no
    chance.

    Where a mask allows no action at all (some tasks' masks do at an episode's end), all stay.

    Args:
      mask: bool, of the shape of logits, True where an action is legal; None if all are.
    """
    if mask is None:
        return logits
    mask = mask | ~mask.any(axis=-1, keepdims=True)
    return jnp.where(mask, logits, ILLEGAL)


def action_shape(space: gymnasium.Space) -> tuple[int, ...]:
    """Returns the shape of what a network says of one state's actions: (A,), or (D, K) of
    D-dimensional ones, where K is the largest size; (D,) of continuous ones.

    Raises:
      UserError: the space is none of Discrete, MultiDiscrete and Box of one axis.
    """
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return (len(space.nvec), int(space.nvec.max()))
    if is_continuous(space) and len(space.shape or ()) == 1:
        return tuple(space.shape or ())
    raise UserError(f"actions must be Discrete, MultiDiscrete([k, ...]) or Box [D], not {space}")


def is_continuous(space: gymnasium.Space) -> bool:
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


def valid_actions(space: gymnasium.Space) -> np.ndarray | None:
    """Returns [D, K] bool, False past the size of each dimension; None where all sizes are K."""
    if not isinstance(space, spaces.MultiDiscrete) or len(set(space.nvec.tolist())) == 1:
        return None
    return np.arange(space.nvec.max())[None] < space.nvec[:, None]


def policy(space: gymnasium.Space, outputs: jax.Array, param: Callable[..., Any]) -> Distribution:
    """Returns the distribution over the actions of a space that a network's outputs stand for.

    A Gaussian's deviation is a parameter of its own, the same in all states. Where the bounds are
    known, an output of -1 stands for an action's lowest value and 1 for its highest.

    Args:
      space: of the actions.
      outputs: [..., prod(action_shape(space))].
      param: the flax module's own, which declares a parameter by its name, first value and shape.
    """
    shape = action_shape(space)
    outputs = outputs.reshape(*outputs.shape[:-1], *shape)
    if is_continuous(space):
        middle, half = (_lead(x, outputs.ndim) for x in _range(space))
        first = jax.nn.initializers.constant(math.log(FIRST_DEVIATION))
        log_deviation = _lead(param("log_deviation", first, shape), outputs.ndim) + jnp.log(half)
        return Gaussian(middle + half * outputs, jnp.broadcast_to(log_deviation, outputs.shape))
    if len(shape) == 1:
        return Categorical(outputs)
    valid = valid_actions(space)
    if valid is not None:
        outputs = jnp.where(_lead(valid, outputs.ndim), outputs, ILLEGAL)
    return MultiCategorical(outputs)


def encode_action(space: gymnasium.Space, action: jax.Array) -> jax.Array:
    """Returns actions as a network sees them: one-hot, or continuous ones as -1 to 1 of their
    range; those without bounds are cut to -1 to 1.

    Args:
      action: [T, B] or [T, B, D], of the space.

    Returns:
      [T, B, F] float32.
    """
    if is_continuous(space):
        middle, half = (_lead(x, action.ndim) for x in _range(space))
        return jnp.clip((action - middle) / half, -1.0, 1.0)
    one_hot = jax.nn.one_hot(action, action_shape(space)[-1])
    return one_hot.reshape(*action.shape[:2], -1)


def sample_action(space: gymnasium.Space) -> np.ndarray:
    """Returns a batch of one action of zeros: [1] or [1, D], int32, or float32 of continuous
    ones."""
    if is_continuous(space):
        return np.zeros((1, *action_shape(space)), np.float32)
    return np.zeros((1, *action_shape(space)[:-1]), np.int32)


def _range(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the middle and half the range of each dimension, [D] float32; 0 and 1 where it has no
    bounds."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < 1e6) & (np.abs(high) < 1e6) & (high > low)
    middle = np.where(bounded, (low + high) / 2, 0.0).astype(np.float32)
    return middle, np.where(bounded, (high - low) / 2, 1.0).astype(np.float32)


def _lead(x, ndim: int):
    """Returns x with axes of 1 before its own, so that it has ndim."""
    return x.reshape(*[1] * (ndim - x.ndim), *x.shape)
