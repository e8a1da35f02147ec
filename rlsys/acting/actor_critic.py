"""IMPALA and PPO share this: to act by a policy with values, and terms of their losses."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from rlsys import networks
from rlsys.envs.randomise.places import PRIVILEGED
from rlsys.envs.spaces import MASK
from rlsys.learning import learner
from rlsys.learning.state import initial_state
from rlsys.losses import popart
from rlsys.losses.turns import turns
from rlsys.types import LearnerState, Policy, Trajectory, UserError, learned_steps

EVAL_MODES = ("greedy", "sampled")  # play the likeliest action, or draw it as in training
# Training improves the policy that actions are drawn from, and learns its values. The greedy one is
# never trained, and can be far better or worse.
SCORE_MODE = "sampled"


def value_of(values, task):
    """Returns the values of each environment's own task: [T, B, N], [B] -> [T, B]."""
    return jnp.take_along_axis(values, task[None, :, None], axis=-1)[..., 0]


def policy_and_values(network, params, steps, action, core_state):
    """Returns the network's outputs for T steps; arguments as the network takes them.

    Returns:
      the policy's Distribution over legal actions in [T, B] states, values [T, B, N] of N tasks,
      and the CoreState after the steps.
    """
    (pi, values), state = network.apply(params, steps, action, core_state)
    return pi.only(network.legal(steps.obs)), values, state


def learned_turns(network, trajectory: Trajectory, lambda_):
    """Tells which steps are learned from, and the lambda of their returns, by the rules in
    types.py.

    A player who is to move in x_T and has one legal action is taken for one who waits, so that the
    step before it is not learned from.

    Returns:
      mask [T, B] bool, and lambda_t [T, B] at x_1 .. x_T.
    """
    steps, to_move = trajectory.steps, trajectory.learns
    mask, lambda_t = learned_steps(trajectory), lambda_ * (1.0 - steps.truncated[1:])  # rule 2
    if isinstance(to_move, tuple):
        return mask, lambda_t
    # A row that waits has one legal action; whose move x_T is, `learns` does not say.
    legal = network.legal(jax.tree.map(lambda x: x[-1:], steps.obs))
    to_move = jnp.concatenate([to_move, jnp.sum(legal, axis=-1) > 1])
    own = turns(to_move, steps.discount[1:], steps.truncated[1:], lambda_=lambda_t)
    return mask & own.complete, own.lambda_t


def sample(network, params, timestep, core_state, key, *, greedy: bool = False):
    """Chooses a_t for B environments, drawn from the policy; if greedy, the likeliest.

    Returns:
      action [B] or [B, D], the Distribution [B] that it was drawn from, and the CoreState before
      x_{t+1}.
    """
    steps = jax.tree.map(lambda x: x[None], timestep)
    no_action = core_state.a_tm1[None][:0]
    pi, _, state = policy_and_values(network, params, steps, no_action, core_state)
    pi = jax.tree.map(lambda x: x[0], pi)
    action = pi.mode() if greedy else pi.sample(key)
    return action, pi, state._replace(a_tm1=action)


def preserve_outputs(old: popart.PopArtState, new: popart.PopArtState, params):
    """Returns params rescaled so that values in units of return stay the same."""
    layer = networks.value_layer(params)
    kernel, bias = popart.preserve_outputs(old, new, layer["kernel"], layer["bias"])
    return networks.with_value_layer(params, {"kernel": kernel, "bias": bias})


def statistics_of(config: Any, state: popart.PopArtState) -> popart.PopArtState:
    """Returns PopArt's statistics as losses use them: with their floor."""
    return popart.with_floor(state, config.popart_floor) if config.popart else state


def update_statistics(config: Any, old: popart.PopArtState, targets, task, mask):
    """Returns PopArt's statistics, updated by value targets [T, B] of all devices; `old` without
    PopArt.

    Steps are larger at first, so that the statistics do not remember their arbitrary start.
    """
    if not config.popart:
        return old
    step_size = jnp.maximum(config.popart_step_size, 1.0 / (old.count + 1.0))
    return popart.update(
        old, targets, task, step_size=step_size, mask=mask, axis_name=learner.BATCH
    )


def moments(config: Any, statistics: popart.PopArtState, v, target, task, mask):
    """Returns the means, by name, that value_metrics needs: over one device's shard of a batch, to
    be averaged over devices.

    Args:
      statistics: PopArt's, as losses use them.
      v, target: [T, B] values and their targets, in units of return.
      task: [B] int.
      mask: [T, B] bool, True where the step counts.

    Returns:
      scalars by name.
    """
    size, weight = target / popart.scale(statistics)[task][None], mask.astype(jnp.float32)
    v, target = (popart.normalize(statistics, x, task) for x in (v, target))
    error = target - v
    if not config.popart:  # else the mean is 0; squares of a large one would lose the deviation
        sums = jnp.mean(weight * target), jnp.mean(weight * error), jnp.mean(weight)
        of_target, of_error, share = learner.pmean(sums)
        share = jnp.maximum(share, 1e-9)
        target, error = target - of_target / share, error - of_error / share
    terms = {
        "share": weight,
        "error": weight * error,
        "error_square": weight * error**2,
        "target": weight * target,
        "target_square": weight * target**2,
        "size_square": weight * size**2,
    }
    return {name: jnp.mean(x) for name, x in terms.items()}


def value_metrics(moments: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes how well values predict their targets, over all steps that moments were taken of.

    Returns:
      scalars by name: explained_variance, 1 - var(target - v) / var(target), which is 1 for perfect
      values, 0 for a constant and less for worse, but -1 at least, so that one bad update does not
      outweigh all others in a mean; and value_error, the deviation of target - v divided by the
      root mean square of the targets, but 10 at most, as where all targets are 0.
    """
    share = jnp.maximum(moments["share"], 1e-9)

    def variance(name):
        return moments[f"{name}_square"] / share - (moments[name] / share) ** 2

    error = jnp.maximum(variance("error"), 0.0)
    size = jnp.maximum(moments["size_square"] / share, 1e-24)
    # Targets that differ by less than a millionth of their size differ by rounding alone.
    explained = 1.0 - error / jnp.maximum(variance("target"), 1e-12 * size)
    return {
        "explained_variance": jnp.maximum(explained, -1.0),
        "value_error": jnp.minimum(jnp.sqrt(error / size), 10.0),
    }


def make_state(network, config: Any, optimizer) -> LearnerState:
    """Returns the LearnerState before the first update, with PopArt's statistics."""
    statistics = popart.init(network.head.num_tasks)
    return initial_state(network, config, optimizer, popart=statistics)


# Compiled, as each call would else copy its bounds to the devices.
@functools.partial(jax.jit, static_argnames="floor")
def _scale(statistics: popart.PopArtState, floor: float):
    return popart.scale(popart.with_floor(statistics, floor))


def popart_metrics(config: Any, statistics: popart.PopArtState) -> dict[str, float]:
    """Returns the mean of each task's value targets, and what its values are divided by, in units
    of return."""
    if not config.popart:
        return {}
    mean, scale = jax.device_get((statistics.mean, _scale(statistics, config.popart_floor)))
    names = [task.name for task in config.tasks]
    return {f"popart_mean/{n}": m for n, m in zip(names, mean, strict=True)} | {
        f"popart_scale/{n}": s for n, s in zip(names, scale, strict=True)
    }


def make_network(config: Any, observation_space, action_space) -> networks.AgentNetwork:
    """Returns the network for observations and actions of these spaces, which all tasks share.

    Raises:
      UserError: the policy cannot draw such actions, the network does not fit the spaces, or the
        observation lacks what is privileged or has nothing else.
    """
    if networks.is_continuous(action_space) != (config.policy == "gaussian"):
        raise UserError(f"a {config.policy} policy cannot draw actions of {action_space}")
    return networks.policy_value_network(
        observation_space,
        action_space,
        num_tasks=len(config.tasks),
        separate=config.separate_networks,
        policy_keys=policy_keys(config, observation_space),
        value_core_size=config.value_core_size,
        **config.network,
    )


def policy_keys(config: Any, observation_space: Any) -> list[str] | None:
    """Returns the names of the arrays that the policy reads; None where nothing is privileged.

    Raises:
      UserError: the observation lacks what is privileged, or has nothing else.
    """
    dicts = isinstance(observation_space, spaces.Dict)
    known = [key for key in observation_space.keys() if key != MASK] if dicts else []
    hidden = [*config.privileged]
    if config.randomise.show_value:
        hidden += [key for key in known if key.startswith(PRIVILEGED)]
    if not hidden:
        return None
    for key in config.privileged:
        if key not in known:
            near = difflib.get_close_matches(key, known, cutoff=0.0)
            words = f"the nearest: {', '.join(near)}" if known else "it is one array without names"
            raise UserError(
                f"privileged names {key!r}, which the observation does not have; {words}"
            )
    kept = [key for key in known if key not in hidden]
    if not kept:
        raise UserError(f"privileged leaves the policy nothing of {', '.join(known)}")
    return kept


@functools.cache
def make_policy(act: Callable, network, *, greedy: bool = False) -> Policy:
    """Returns an algorithm's act as a Policy for actors; compiled once for all tasks."""

    @jax.jit
    def policy(own, params, timestep, core_state, key):
        del own
        key, act_key = jax.random.split(key)
        return *act(network, params, timestep, core_state, act_key, greedy=greedy), key

    return Policy(policy)


def make_policies(act: Callable, network, config: Any) -> list[Policy]:
    """Returns the policy of each actor of this process."""
    return [make_policy(act, network)] * config.actors


def make_eval_policy(act: Callable, network, config: Any, num_envs: int, mode: str) -> Policy:
    """Returns the policy that evaluation plays with in num_envs environments; mode is one of
    EVAL_MODES."""
    return make_policy(act, network, greedy=mode == "greedy")
