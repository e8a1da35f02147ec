"""PPO, the way Rapid ran it: actors play, all devices average one gradient.

Berner et al. 2019, "Dota 2 with Large Scale Deep Reinforcement Learning",
https://arxiv.org/abs/1912.06680, section 3.2 and appendix C. Schulman et al. 2017, "Proximal Policy
Optimization Algorithms", https://arxiv.org/abs/1707.06347, eq. 7: the clipped surrogate. Schulman
et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
https://arxiv.org/abs/1506.02438, eq. 16.

Departures, and why:
- Values of a batch are computed anew before it is learned from, rather than taken from the actors:
  the same in turn, and fresher where actors are ahead.
- A minibatch takes one of every few neighbouring sequences, chosen at random (stratified): so which
  sequences meet does not depend on the number of devices.
- Values are normalised by PopArt in place of rewards by their running deviation: the same purpose,
  without a reward whose meaning drifts. They are not normalised by less than popart_floor of their
  mean: once a task is solved its returns hardly differ, and the values' gradient, in units of that
  difference, took over the torso and froze the policy.
- Time-outs bootstrap from the true last observation.
"""

import contextlib
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.unroll import Unroll
from rlsys.algorithms.ppo_config import Config
from rlsys.algorithms.ppo_minibatches import Batch, minibatch, sequences
from rlsys.learning import hosts, learner
from rlsys.learning.optimizer import (
    adam_with_clipped_gradients,
    descend,
    linear_decay,
    step_metrics,
)
from rlsys.losses import popart
from rlsys.losses.gae import gae
from rlsys.losses.policy_gradient import baseline_loss
from rlsys.losses.ppo import MAX_LOG_RATIO, clipped_surrogate, clipped_value_loss
from rlsys.running import health
from rlsys.running.run import Run
from rlsys.types import TRAJECTORY_SPEC, LearnerState, Trajectory, UserError


class Aux(NamedTuple):
    """What act keeps of each step."""

    log_mu_a: Any  # [B] log mu(a_t | x_t)
    lstm: Any  # [B, ...] recurrent state before x_t


def act(network, params, timestep, core_state, key, *, greedy: bool = False):
    """a_t for [B] environments."""
    action, mu, state = actor_critic.sample(
        network, params, timestep, core_state, key, greedy=greedy
    )
    return action, Aux(mu.log_prob(action), core_state.lstm), state


def discount(config: Config):
    """gamma, by itself or from the horizon: 1 - T / H."""
    horizon = jnp.maximum(config.horizon_seconds, config.step_seconds)
    from_horizon = 1.0 - config.step_seconds / horizon
    return jnp.where(config.horizon_seconds > 0.0, from_horizon, config.discount)


def prepare(network, config: Config, state: LearnerState, trajectory: Trajectory):
    """Advantages and targets of an unroll -> LearnerState, (Batch, metrics)."""
    steps, task = trajectory.steps, trajectory.task
    _, values, _ = actor_critic.policy_and_values(
        network, state.params, steps, trajectory.action, trajectory.core_state
    )
    old = actor_critic.statistics_of(config, state.popart)
    v = popart.unnormalize(old, actor_critic.value_of(values, task), task)  # [T + 1, B]
    advantage = gae(
        v[:-1],
        v[1:],
        steps.reward[1:],
        discount(config) * steps.discount[1:],
        lambda_=config.gae_lambda * (1.0 - steps.truncated[1:]),  # rule 2
    )
    target = v[:-1] + advantage
    mask = ~steps.first[1:]  # rule 1
    exact = actor_critic.update_statistics(config, state.popart, target, task, mask)
    statistics = actor_critic.statistics_of(config, exact)
    params = actor_critic.preserve_outputs(old, statistics, state.params)

    advantage = advantage / popart.scale(statistics)[task][None]
    share, mean = learner.pmean((jnp.mean(mask), jnp.mean(mask * advantage)))
    share = jnp.maximum(share, 1e-9)  # all may be resets
    advantage = mask * (advantage - mean / share)
    moments = actor_critic.moments(config, statistics, v[:-1], target, task, mask)
    square, v_mean, moments = learner.pmean((jnp.mean(advantage**2), jnp.mean(v), moments))
    deviation = jnp.sqrt(square / share)
    advantage = advantage / (deviation + 1e-8)
    metrics = {
        "v_mean": v_mean,
        "advantage_deviation": deviation,
        "explained_variance": actor_critic.explained_variance(moments),
    }

    cut, core_state = sequences(network, trajectory, config.sequence_length)
    batch = Batch(
        jax.tree.map(lambda x: cut(x[:-1]), steps),
        cut(trajectory.action),
        cut(trajectory.aux.log_mu_a),
        cut(advantage),
        cut(popart.normalize(statistics, v[:-1], task)),
        cut(popart.normalize(statistics, target, task)),
        cut(mask),
        jnp.repeat(task, config.unroll_length // config.sequence_length),
        core_state,
    )
    return state._replace(params=params, popart=exact), (batch, metrics)


def loss(network, config: Config, params, batch: Batch):
    """Of S sequences of L steps -> scalar; nothing more, and metrics."""
    action, mask = batch.action, batch.mask
    pi, values, _ = actor_critic.policy_and_values(
        network, params, batch.steps, action[:-1], batch.core_state
    )
    v = actor_critic.value_of(values, batch.task)
    log_pi_a = pi.log_prob(action)
    pg_loss = mask * clipped_surrogate(
        log_pi_a, batch.log_mu_a, batch.advantage, clip_eps=config.clip_eps
    )
    if config.clip_value:
        v_loss = clipped_value_loss(v, batch.v_old, batch.target, clip_eps=config.clip_eps)
    else:
        v_loss = baseline_loss(v, batch.target)
    v_loss = mask * v_loss
    entropy = mask * pi.entropy()
    total = jnp.mean(pg_loss + config.value_cost * v_loss - config.entropy_cost * entropy)
    log_ratio = mask * jnp.minimum(log_pi_a - batch.log_mu_a, MAX_LOG_RATIO)  # its exp is finite
    metrics = {
        "loss": total,
        "pg_loss": jnp.mean(pg_loss),
        "value_loss": jnp.mean(v_loss),
        "entropy": jnp.mean(entropy),
        "kl": jnp.mean(jnp.expm1(log_ratio) - log_ratio),  # of mu from pi, without bias
        "ratio_clipped": jnp.mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip_eps),  # share
    }
    return total, ((), metrics)


def optimizer(config: Config, rate):
    """Adam at a learning rate, on gradients that are clipped by their norm, or entry by entry."""
    if config.clip_entries:
        return adam_with_clipped_gradients(
            rate, eps=config.adam_eps, clip_sigmas=config.clip_sigmas
        )
    clip = optax.clip_by_global_norm(config.max_gradient_norm)
    return optax.chain(clip, optax.adam(rate, eps=config.adam_eps))


def update(network, config: Config, state: LearnerState, batch: Batch):
    """One learner step, on one minibatch -> LearnerState, metrics."""
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (_, (_, metrics)), grads = grad(state.params, minibatch(config, state, batch))
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    params, opt_state, updates = descend(
        optimizer(config, rate), grads, state.opt_state, state.params
    )
    metrics |= step_metrics(config, rate, grads, updates, params)
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1), metrics


BATCHES_SPEC = TRAJECTORY_SPEC


def batches(config: Config, trajectory: Trajectory) -> Trajectory:
    """An unroll as learn takes it: whole."""
    return trajectory


def learn(network, config: Config, state: LearnerState, trajectory: Trajectory):
    """All learner steps on an unroll, N of them -> LearnerState, metrics [N]."""
    state, (batch, metrics) = prepare(network, config, state, trajectory)
    num_steps = config.epochs * config.minibatches
    state, losses = jax.lax.scan(
        lambda state, _: update(network, config, state, batch), state, length=num_steps
    )
    obs = jax.tree.map(lambda x: x[:-1], trajectory.steps.obs)
    mask = ~trajectory.steps.first[1:]
    params = networks.see(state.params, obs, mask, axis_name=learner.BATCH)
    state = state._replace(params=params)
    return state, losses | jax.tree.map(lambda x: jnp.full(num_steps, x), metrics)


def make_state(network, config: Config) -> LearnerState:
    """The LearnerState before the first step."""
    return actor_critic.make_state(network, config, optimizer(config, config.learning_rate))


def check_batch(mesh, config: Config) -> None:
    """Raises UserError unless each device can cut its share of a batch into minibatches."""
    learner.check_batch(mesh, config.num_envs)
    if config.num_sequences % (mesh.size * config.minibatches):
        raise UserError(
            f"{config.num_sequences} sequences of {config.sequence_length} steps cannot be split "
            f"evenly into {config.minibatches} minibatches on {mesh.size} devices"
        )


make_network, make_policies = actor_critic.make_network, actor_critic.policies_of(act)
make_player, EVAL_MODES, SCORE = (
    actor_critic.player_of(act),
    actor_critic.EVAL_MODES,
    actor_critic.SCORE,
)


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    mesh = learner.make_mesh(reserved=config.actor_devices)
    check_batch(mesh, config)
    own = hosts.share(config)
    pools = make_envs(own)
    network = make_network(config, pools)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run("ppo", config, ["learner", "actors"], resume=resume))
        policies = make_policies(network, config)
        actors = Actors(pools, policies, network.initial, own, run.log.time)
        stack.callback(actors.close)
        learn_all = learner.data_parallel(functools.partial(learn, network), mesh, TRAJECTORY_SPEC)
        state = make_state(network, config)
        if resume:
            trees, _ = run.restore({"learner": state, "actors": actors.states})
            state, actors.states = trees["learner"], trees["actors"]
            actors.restart(run.number)
        state = learner.place(mesh, state)
        settings = learner.place(mesh, config)  # else its numbers would cross at every step
        metrics: list = []  # of updates, on the device

        def learn_from(unroll: Unroll):
            nonlocal state
            with run.log.time("learner"):
                trajectory = learner.place(mesh, unroll.trajectory, TRAJECTORY_SPEC)
                jax.block_until_ready(metrics[-1:])  # one unroll's updates wait at most
                state = learner.at(mesh, state, run.env_steps / config.env_steps)
                state, scalars = learn_all(settings, state, trajectory)
                if not config.unrolls_ahead:
                    jax.block_until_ready(scalars)
            num_steps = config.epochs * config.minibatches
            lag = run.learner_steps + np.arange(num_steps) - unroll.learner_step
            metrics.append(scalars | {"params_lag": lag, "staleness": lag / num_steps})
            run.learner_steps += num_steps
            run.env_steps += unroll.env_steps * hosts.count()
            run.log.episodes(actors.pop_episodes())

        while not run.ended:
            unroll = actors.get(state.params, run.learner_steps)
            learn_from(unroll)
            write, save = run.due()
            if save:
                for unroll in actors.drain(state.params, run.learner_steps):
                    learn_from(unroll)
            if write:
                with run.log.time("learner"):
                    jax.block_until_ready(metrics)
                    more = health.dead_units(network, state.params, unroll.trajectory)
                reuse = run.learner_steps * config.num_sequences * config.sequence_length
                more |= {"sample_reuse": reuse / config.minibatches / run.env_steps}
                run.write(metrics, more | actor_critic.popart_metrics(config, state.popart))
                metrics.clear()
            if save:
                run.save({"learner": state, "actors": actors.states})
                if not run.ended:
                    actors.restart(run.number)
        params = learner.snapshot(state.params)
    run.conclude(make_player, network, params, EVAL_MODES, SCORE)
    return run.folder
