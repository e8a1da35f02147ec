"""Policies with values, as IMPALA and PPO have them: to act, and the terms of their losses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlsys import envs, networks
from rlsys.learning import learner
from rlsys.learning.state import initial_state
from rlsys.losses import policy_gradient, popart
from rlsys.types import LearnerState, Policy

ILLEGAL = -1e9  # logit of an illegal action: finite, so that 0 times its logarithm is 0
EVAL_MODES = ("greedy", "sampled")  # play the likeliest action, or draw it as in training
# The objective improves the policy that actions are drawn from, and values are learned of it; the
# greedy one is never trained, and can be far better or worse.
SCORE_MODE = "sampled"
_scale = jax.jit(popart.scale)  # op by op its bounds would cross to the devices each time


def legal_logits(logits, obs):
    """logits [..., A] or [..., D, K], those of illegal actions lowered until they have no chance.

    Where an observation names no action at all (some tasks do at an episode's end), all stay.
    """
    mask = networks.legal(obs)
    if mask is None:
        return logits
    mask = mask | ~mask.any(axis=-1, keepdims=True)
    return jnp.where(mask, logits, ILLEGAL)


def log_prob(logits, action):
    """log pi(a): [T, B, A], [T, B] or [T, B, D, K], [T, B, D] -> [T, B]."""
    log_pi_a = policy_gradient.log_prob(logits, action)
    return log_pi_a.reshape(*logits.shape[:2], -1).sum(axis=-1)


def entropy(logits):
    """The entropy of the whole action: [T, B, A] or [T, B, D, K] -> [T, B]."""
    return policy_gradient.entropy(logits).reshape(*logits.shape[:2], -1).sum(axis=-1)


def value_of(values, task):
    """Each environment's own of the values of N tasks: [T, B, N], [B] -> [T, B]."""
    return jnp.take_along_axis(values, task[None, :, None], axis=-1)[..., 0]


def sample(network, params, timestep, core_state, key, *, greedy: bool = False):
    """a_t for B environments, drawn from the policy or its likeliest.

    Returns:
      action [B] or [B, D], logits [B, A] or [B, D, K], and the CoreState before x_{t+1}.
    """
    steps = jax.tree.map(lambda x: x[None], timestep)
    (logits, _), state = network.apply(params, steps, core_state.a_tm1[None][:0], core_state)
    logits = legal_logits(logits, steps.obs)[0]
    action = jnp.argmax(logits, axis=-1) if greedy else jax.random.categorical(key, logits)
    return action, logits, state._replace(a_tm1=action)


def preserve_outputs(old: popart.PopArtState, new: popart.PopArtState, params):
    """params whose values do not change with PopArt's statistics."""
    layer = networks.value_layer(params)
    kernel, bias = popart.preserve_outputs(old, new, layer["kernel"], layer["bias"])
    return networks.with_value_layer(params, {"kernel": kernel, "bias": bias})


def statistics_of(config: Any, state: popart.PopArtState) -> popart.PopArtState:
    """PopArt's statistics as the loss sees them."""
    return popart.with_floor(state, config.popart_floor) if config.popart else state


def update_statistics(config: Any, old: popart.PopArtState, targets, task, mask):
    """PopArt's statistics after value targets [T, B] of all devices; as they were, without PopArt.

    Steps are larger at first, so that the statistics do not remember their arbitrary start.
    """
    if not config.popart:
        return old
    step_size = jnp.maximum(config.popart_step_size, 1.0 / (old.count + 1.0))
    return popart.update(
        old, targets, task, step_size=step_size, mask=mask, axis_name=learner.BATCH
    )


def moments(config: Any, statistics: popart.PopArtState, v, target, task, mask):
    """Means over a shard of a batch that explained_variance needs, and that may be averaged over
    devices, by name.

    Args:
      statistics: PopArt's, as the loss sees them.
      v, target: [T, B] values and their targets, in units of return.
      task: [B] int.
      mask: [T, B] bool, True where the step counts.
    """
    floor = config.popart_floor * target / popart.scale(statistics)[task][None]
    v, target = (popart.normalize(statistics, x, task) for x in (v, target))
    error, weight = target - v, mask.astype(jnp.float32)
    terms = {
        "share": weight,
        "error": weight * error,
        "error_square": weight * error**2,
        "target": weight * target,
        "target_square": weight * target**2,
        "floor": weight * floor**2,
    }
    return {name: jnp.mean(x) for name, x in terms.items()}


def explained_variance(moments: dict[str, jax.Array]):
    """1 - var(target - v) / var(target): 1 for perfect values, 0 for a constant, less for worse.

    The targets' deviation counts as popart_floor of their root mean square at least: where returns
    hardly differ, values are not asked to tell them apart. The result is held above -1, so that a
    mean over many updates still says something.
    """
    share = jnp.maximum(moments["share"], 1e-9)

    def variance(name):
        return moments[f"{name}_square"] / share - (moments[name] / share) ** 2

    of_target = jnp.maximum(variance("target"), moments["floor"] / share)
    return jnp.maximum(1.0 - variance("error") / jnp.maximum(of_target, 1e-12), -1.0)


def make_state(network, config: Any, optimizer) -> LearnerState:
    """The LearnerState before the first update, with PopArt's statistics."""
    statistics = popart.init(network.head.num_tasks)
    return initial_state(network, config, optimizer, popart=statistics)


def popart_metrics(config: Any, statistics: popart.PopArtState) -> dict[str, float]:
    """The mean and deviation of each task's value targets, by name of the metric."""
    if not config.popart:
        return {}
    mean, scale = jax.device_get((statistics.mean, _scale(statistics)))
    names = [task.name for task in envs.tasks(config.env, config.env_options)]
    return {f"popart_mean/{n}": m for n, m in zip(names, mean, strict=True)} | {
        f"popart_scale/{n}": s for n, s in zip(names, scale, strict=True)
    }


def make_network(config: Any, observation_space, action_space) -> networks.AgentNetwork:
    """The network for observations and actions of these spaces, which all tasks share."""
    return networks.policy_value_network(
        observation_space,
        action_space,
        num_tasks=len(envs.tasks(config.env, config.env_options)),
        **config.network,
    )


@functools.cache
def make_policy(act: Callable, network, *, greedy: bool = False) -> Policy:
    """An algorithm's act as actors call it; compiled once for all tasks."""

    @jax.jit
    def policy(own, params, timestep, core_state, key):
        del own
        key, act_key = jax.random.split(key)
        return *act(network, params, timestep, core_state, act_key, greedy=greedy), key

    return Policy(policy)


def make_policies(act: Callable, network, config: Any) -> list[Policy]:
    """The policy of each actor of this process."""
    return [make_policy(act, network)] * config.actors


def make_eval_policy(act: Callable, network, config: Any, num_envs: int, mode: str) -> Policy:
    """The policy that evaluation plays with in num_envs environments; mode is one of EVAL_MODES."""
    return make_policy(act, network, greedy=mode == "greedy")
