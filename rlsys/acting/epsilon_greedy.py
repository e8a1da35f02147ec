"""Acting by Q-values: greedily, or at random with a probability epsilon that differs from
environment to environment.

Horgan et al. 2018, "Distributed Prioritized Experience Replay", https://arxiv.org/abs/1803.00933,
section 4.1: the ladder of epsilons. Continuous actions are discretised, and Q of an action is the
mean of its dimensions' Q (Seyde et al. 2023, "Solving Continuous Control via Q-Learning",
https://arxiv.org/abs/2210.12566).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsys import networks
from rlsys.learning import hosts
from rlsys.types import Policy, Timestep

EVAL_MODES = ("greedy", "ladder")  # play the best action, or explore as in training
# Q-learning learns the values of the greedy policy; the ladder's random actions only explore.
SCORE_MODE = "greedy"


class Aux(NamedTuple):
    """act keeps this of each step, for a sequence's initial priority and recurrent state."""

    q_a: Any  # [B] Q(x_t, a_t)
    q_max: Any  # [B] max_a Q(x_t, a)
    lstm: Any  # [B, ...] recurrent state before x_t


def q_of(q: jax.Array, action: jax.Array) -> jax.Array:
    """Computes Q of actions: [T, B, A], [T, B] or [T, B, D, K], [T, B, D] -> [T, B]."""
    taken = jnp.take_along_axis(q, action[..., None], axis=-1)
    return taken.reshape(*q.shape[:2], -1).mean(axis=-1)


def greedy(q: jax.Array, legal: Any) -> jax.Array:
    """Returns the legal action of the largest Q: [..., A] -> [...]. legal: as network.legal gives
    it."""
    return jnp.argmax(q if legal is None else jnp.where(legal, q, -jnp.inf), axis=-1)


def act(network, params, timestep: Timestep, core_state, key, epsilon):
    """Chooses a_t for B environments: a random legal action with probability epsilon [B], else
    greedy."""
    steps = jax.tree.map(lambda x: x[None], timestep)
    q, state = network.apply(params, steps, core_state.a_tm1[None][:0], core_state)
    explore_key, action_key = jax.random.split(key)
    legal = network.legal(steps.obs)
    best = greedy(q, legal)
    logits = jnp.zeros_like(q)
    logits = logits if legal is None else jnp.where(legal, logits, -jnp.inf)
    explore = jax.random.uniform(explore_key, epsilon.shape) < epsilon
    explore = explore.reshape(1, -1, *(1 for _ in best.shape[2:]))
    action = jnp.where(explore, jax.random.categorical(action_key, logits), best)
    aux = Aux(q_of(q, action)[0], q_of(q, best)[0], core_state.lstm)
    return action[0], aux, state._replace(a_tm1=action[0])


def ladder(config: Any, num_envs: int) -> np.ndarray:
    """Computes epsilon [num_envs], from the largest down (Horgan et al. 2018, section 4.1).

    epsilon_i = base^(1 + exponent i / (num_envs - 1)), i = 0 .. num_envs - 1
    """
    i = np.arange(num_envs) / max(num_envs - 1, 1)
    return (config.epsilon_base ** (1 + config.epsilon_exponent * i)).astype(np.float32)


@functools.cache
def make_policy(network) -> Callable:
    """Returns act as actors call it, with epsilon [B] as first argument; compiled once."""

    @jax.jit
    def policy(epsilon, params, timestep, core_state, key):
        key, act_key = jax.random.split(key)
        return *act(network, params, timestep, core_state, act_key, epsilon), key

    return policy


def make_policies(network, config: Any) -> list[Policy]:
    """Returns the policy of each actor of this process, with its epsilons of the ladder."""
    epsilons = np.split(ladder(config, config.num_envs), config.actors * hosts.count())
    mine = epsilons[hosts.local_slice(config.actors)]
    return [Policy(make_policy(network), epsilon) for epsilon in mine]


def make_eval_policy(network, config: Any, num_envs: int, mode: str) -> Policy:
    """Returns the policy that evaluation plays with in num_envs environments; mode is one of
    EVAL_MODES."""
    greedily = mode == "greedy"
    epsilon = np.zeros(num_envs, np.float32) if greedily else ladder(config, num_envs)
    return Policy(make_policy(network), epsilon)


def make_network(config: Any, observation_space, action_space) -> networks.AgentNetwork:
    """Returns the network of Q-values for observations and actions of these spaces."""
    return networks.q_network(observation_space, action_space, **config.network)
