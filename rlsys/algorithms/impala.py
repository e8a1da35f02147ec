"""IMPALA: actors play, one learner corrects for their lag with V-trace.

Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
Architectures", https://arxiv.org/abs/1802.01561. Section 4: V-trace; table G.1: the numbers, here
the presets "atari...".

Several tasks and PopArt: Hessel et al. 2019, "Multi-task Deep Reinforcement Learning with PopArt",
https://arxiv.org/abs/1809.04474. One policy that is blind to the task, one value and its mean and
deviation for each task.

Departures, and why:
- An actor is a thread with many environments, so that inference is batched; it is at most
  unrolls_ahead unrolls ahead, and of several tasks the learner takes first what was finished first.
- Time-outs bootstrap from the true last observation; the paper's code took them for ends.
- PopArt's statistics begin with larger steps, so that they do not remember their arbitrary start,
  and losses see a deviation of popart_floor of the mean at least (ppo.py says why).
- The small presets average the losses and use Adam.
"""

import contextlib
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.unroll import Unroll
from rlsys.algorithms.impala_config import Config
from rlsys.learning import hosts, learner
from rlsys.learning.optimizer import descend, linear_decay, step_metrics
from rlsys.losses import popart
from rlsys.losses.policy_gradient import baseline_loss, policy_gradient_loss
from rlsys.losses.ppo import MAX_LOG_RATIO
from rlsys.losses.vtrace import vtrace
from rlsys.running import health
from rlsys.running.run import Run
from rlsys.types import TRAJECTORY_SPEC, LearnerState, Trajectory

BATCHES_SPEC = learner.stacked(TRAJECTORY_SPEC)


def act(network, params, timestep, core_state, key, *, greedy: bool = False):
    """a_t for [B] environments; keeps mu, the policy that acted, for the importance ratios."""
    return actor_critic.sample(network, params, timestep, core_state, key, greedy=greedy)


def loss(network, config: Config, params, statistics: popart.PopArtState, trajectory: Trajectory):
    """Of T steps of B environments -> scalar; PopArt's statistics after them, and metrics."""
    steps, a_tm1, task = trajectory.steps, trajectory.action, trajectory.task
    pi, values, _ = actor_critic.policy_and_values(
        network, params, steps, a_tm1, trajectory.core_state
    )
    pi, mu = jax.tree.map(lambda x: x[:-1], pi), trajectory.aux  # in x_0 .. x_{T-1}
    old = actor_critic.statistics_of(config, statistics)
    v = popart.unnormalize(old, actor_critic.value_of(values, task), task)  # [T + 1, B]

    mask_tm1 = ~steps.first[1:]  # rule 1
    log_pi_a_tm1 = pi.log_prob(a_tm1)
    log_rho_tm1 = log_pi_a_tm1 - mu.log_prob(a_tm1)
    log_rho_tm1 = jnp.minimum(log_rho_tm1, MAX_LOG_RATIO)  # lest a metric be inf
    rho_tm1 = jnp.exp(log_rho_tm1)
    rho_tm1 = jax.lax.stop_gradient(jnp.where(mask_tm1, rho_tm1, 0.0))
    targets = vtrace(
        v[:-1],
        v[1:],
        steps.reward[1:],
        config.discount * steps.discount[1:],
        rho_tm1,
        lambda_=config.vtrace_lambda * (1.0 - steps.truncated[1:]),  # rule 2
        clip_rho=config.clip_rho,
        clip_pg_rho=config.clip_pg_rho,
    )

    exact = actor_critic.update_statistics(config, statistics, targets.vs_tm1, task, mask_tm1)
    new = actor_critic.statistics_of(config, exact)
    advantage_tm1 = targets.pg_advantage_tm1 / popart.scale(new)[task][None]
    pg_loss = policy_gradient_loss(log_pi_a_tm1, advantage_tm1)
    v_loss = mask_tm1 * baseline_loss(
        popart.normalize(new, v[:-1], task), popart.normalize(new, targets.vs_tm1, task)
    )
    entropy = mask_tm1 * pi.entropy()
    total = jnp.mean(pg_loss + config.baseline_cost * v_loss - config.entropy_cost * entropy)
    if config.sum_losses:
        total = total * config.unroll_length * config.batch_size
    metrics = {
        "loss": total,
        "pg_loss": jnp.mean(pg_loss),
        "baseline_loss": jnp.mean(v_loss),
        "entropy": jnp.mean(entropy),
        "v_mean": jnp.mean(v),
        "rho_mean": jnp.mean(rho_tm1),
        "rho_clipped": jnp.mean(rho_tm1 > config.clip_rho),  # share
        "kl": jnp.mean(jnp.where(mask_tm1, jnp.expm1(log_rho_tm1) - log_rho_tm1, 0.0)),
        "moments": actor_critic.moments(config, new, v[:-1], targets.vs_tm1, task, mask_tm1),
    }
    return total, (exact, metrics)


def preserve_outputs(old: popart.PopArtState, new: popart.PopArtState, params, grads):
    """Corrects the value layer for the statistics' move, and its gradient with it.

    The loss is a function of the corrected layer; its gradient was taken with respect to the old
    one, whose kernel and bias are the new ones' times scale(new) / scale(old).
    """
    ratio = popart.scale(new) / popart.scale(old)
    grad = networks.value_layer(grads)
    grad = {"kernel": grad["kernel"] * ratio[None], "bias": grad["bias"] * ratio}
    return actor_critic.preserve_outputs(old, new, params), networks.with_value_layer(grads, grad)


def optimizer(config: Config, rate):
    """RMSProp without momentum or Adam, on clipped gradients, at a learning rate."""
    if config.optimizer == "adam":
        descend = optax.adam(rate, eps=config.optimizer_eps)
    else:  # the mean of squares starts at 1, as that of the authors' library does
        descend = optax.rmsprop(
            rate, decay=config.rmsprop_decay, eps=config.optimizer_eps, initial_scale=1.0
        )
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), descend)


def update(network, config: Config, state: LearnerState, trajectory: Trajectory):
    """One learner step -> LearnerState, metrics."""
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (_, (statistics, metrics)), grads = grad(state.params, state.popart, trajectory)
    old, new = (actor_critic.statistics_of(config, s) for s in (state.popart, statistics))
    params, grads = preserve_outputs(old, new, state.params, grads)
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    params, opt_state, updates = descend(optimizer(config, rate), grads, state.opt_state, params)
    metrics["explained_variance"] = actor_critic.explained_variance(metrics.pop("moments"))
    metrics |= step_metrics(config, rate, grads, updates, params)
    obs = jax.tree.map(lambda x: x[:-1], trajectory.steps.obs)
    params = networks.see(params, obs, ~trajectory.steps.first[1:], axis_name=learner.BATCH)
    state = state._replace(
        params=params, opt_state=opt_state, step=state.step + 1, popart=statistics
    )
    return state, metrics


def make_state(network, config: Config) -> LearnerState:
    """The LearnerState before the first step."""
    return actor_critic.make_state(network, config, optimizer(config, config.learning_rate))


def batches(config: Config, trajectory: Trajectory) -> Trajectory:
    """An unroll in N parts of batch_size environments: [N, T + 1, batch_size, ...], numpy."""

    def split(axis, x):
        size = config.batch_size
        num = len(trajectory.task) // size
        x = x.reshape(*x.shape[:axis], num, size, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0)

    time_major = jax.tree.map(functools.partial(split, 1), trajectory[:3])
    return Trajectory(*time_major, *jax.tree.map(functools.partial(split, 0), trajectory[3:]))


def learn(network, config: Config, state: LearnerState, trajectories: Trajectory):
    """A learner step on each of N batches in turn -> LearnerState, metrics [N]."""
    return jax.lax.scan(functools.partial(update, network, config), state, trajectories)


make_network, make_policies = actor_critic.make_network, actor_critic.policies_of(act)
make_player, EVAL_MODES, SCORE = (
    actor_critic.player_of(act),
    actor_critic.EVAL_MODES,
    actor_critic.SCORE,
)


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    mesh = learner.make_mesh(reserved=config.actor_devices)
    learner.check_batch(mesh, config.batch_size)
    own = hosts.share(config)
    pools = make_envs(own)
    network = make_network(config, pools)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run("impala", config, ["learner", "actors"], resume=resume))
        policies = make_policies(network, config)
        actors = Actors(pools, policies, network.initial, own, run.log.time, own.join)
        stack.callback(actors.close)
        learn_all = learner.data_parallel(functools.partial(learn, network), mesh, BATCHES_SPEC)
        state = make_state(network, config)
        if resume:
            trees, _ = run.restore({"learner": state, "actors": actors.states})
            state, actors.states = trees["learner"], trees["actors"]
            actors.restart(run.number)
        state = learner.place(mesh, state)
        settings = learner.place(mesh, config)  # else its numbers would cross at every step
        metrics: list = []  # of updates, on the device
        played = np.zeros(network.head.num_tasks)  # unrolls of each task since the last log line

        def learn_from(unroll: Unroll):
            nonlocal state
            trajectories = batches(own, unroll.trajectory)
            num_steps = len(trajectories.task)
            with run.log.time("learner"):
                trajectories = learner.place(mesh, trajectories, BATCHES_SPEC)
                jax.block_until_ready(metrics[-1:])  # one unroll's updates wait at most
                state = learner.at(mesh, state, run.env_steps / config.env_steps)
                state, scalars = learn_all(settings, state, trajectories)
            lag = run.learner_steps + np.arange(num_steps) - unroll.learner_step
            metrics.append(scalars | {"params_lag": lag, "staleness": lag / num_steps})
            run.learner_steps += num_steps
            if not config.unrolls_ahead:
                with run.log.time("learner"):
                    jax.block_until_ready(metrics[-1:])
            run.env_steps += unroll.env_steps * hosts.count()
            played[:] += np.bincount(unroll.trajectory.task, minlength=len(played))
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
                more |= actor_critic.popart_metrics(config, state.popart)
                everyones = sum(hosts.gather(played))
                run.write(metrics, more | actor_critic.task_shares(config, everyones))
                metrics.clear()
                played[:] = 0
            if save:
                run.save({"learner": state, "actors": actors.states})
                if not run.ended:
                    actors.restart(run.number)
        params = learner.snapshot(state.params)
    run.conclude(make_player, network, params, EVAL_MODES, SCORE)
    return run.folder
