"""R2D2: recurrent replay distributed DQN.

Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning",
https://openreview.net/forum?id=r1lyTjAqYX. Section 2.3: sequences, stored state, burn-in, priority;
table 2: the numbers, here the preset "atari".

Departures, and why:
- Sequences may cross episodes (cross_episodes), so that short episodes fill them. State, targets
  and priorities do not leak from one to the next (tests/test_r2d2.py). Off in "atari".
- The first window of an episode learns its opening: the paper does not say what is burnt in there.
- Replay ratio is held: updates wait for data and data for updates (replay/replay_ratio.py). The
  paper's ran free, at 0.8.
- Continuous actions are discretised (rlsys/acting/epsilon_greedy.py).
"""

import contextlib
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsys import envs, networks, streams
from rlsys.acting import epsilon_greedy
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.epsilon_greedy import Aux, greedy, q_of
from rlsys.acting.unroll import Unroll
from rlsys.algorithms.r2d2_config import Config
from rlsys.learning import hosts, learner
from rlsys.learning.optimizer import linear_decay, step_metrics
from rlsys.losses.n_step import n_step_return
from rlsys.losses.q_learning import identity
from rlsys.losses.r2d2 import sequence_loss, sequence_priority
from rlsys.losses.value_rescaling import h, h_inv
from rlsys.replay.replay import Replay
from rlsys.replay.replay_ratio import ReplayRatio
from rlsys.running import health
from rlsys.running.run import Run
from rlsys.types import SAMPLE_SPEC, LearnerState, Sample, Timestep, Trajectory


def td_errors(config: Config, q_a, q_star_t, steps: Timestep):
    """Compute h(n-step return) - Q(x_{t-1}, a_{t-1}), the errors [T, B] of T transitions.

    Args:
      q_a: [T, B] Q(x_{t-1}, a_{t-1}); gradient flows.
      q_star_t: [T, B] Q^-(x_t, argmax_a Q(x_t, a)), which the return bootstraps from.
      steps: Timestep [T + 1, B].
    """
    rescale, restore = (h, h_inv) if config.value_rescaling else (identity, identity)
    return_tm1 = n_step_return(
        restore(q_star_t),
        steps.reward[1:],
        config.discount * steps.discount[1:],
        config.n,
        lambda_t=1.0 - steps.truncated[1:],  # rule 2
    )
    return rescale(return_tm1) - q_a


def q_values(network, params, burn_in: int, trajectory: Trajectory):
    """Q(x_t, .) after a burn-in that no gradient flows through: [length + 1, B, A]."""
    steps, action, state = trajectory.steps, trajectory.action, trajectory.core_state
    if burn_in:
        early = jax.tree.map(lambda x: x[:burn_in], steps)
        _, state = network.apply(jax.lax.stop_gradient(params), early, action[: burn_in - 1], state)
        state = state._replace(a_tm1=action[burn_in - 1])
    late = jax.tree.map(lambda x: x[burn_in:], steps)
    return network.apply(params, late, action[burn_in:], state)[0]


def loss(network, config: Config, params, target_params, sample: Sample):
    """Of B sequences -> scalar; priorities [B] and metrics."""
    if not config.stored_state:
        core_state = sample.trajectory.core_state
        core_state = core_state._replace(lstm=jax.tree.map(jnp.zeros_like, core_state.lstm))
        sample = sample._replace(trajectory=sample.trajectory._replace(core_state=core_state))
    q = q_values(network, params, config.burn_in, sample.trajectory)
    q_target = q_values(network, target_params, config.burn_in, sample.trajectory)
    steps = jax.tree.map(lambda x: x[config.burn_in :], sample.trajectory.steps)
    mask = sample.mask[config.burn_in :]

    q_a = q_of(q[:-1], sample.trajectory.action[config.burn_in :])
    q_star = q_of(q_target, greedy(q, steps.obs))
    td_error = td_errors(config, q_a, q_star[1:], steps)
    priorities = sequence_priority(td_error, mask, eta=config.priority_eta)
    value = sequence_loss(td_error, mask, sample.weights)
    metrics = {
        "loss": value,
        "td_error": jnp.mean(mask * jnp.abs(td_error)),
        "q_mean": jnp.mean(q),
        "q_abs_max": jnp.mean(jnp.max(jnp.abs(q), axis=(0, *range(2, q.ndim)))),
        "learned_share": jnp.mean(mask),
        "importance_weight": jnp.mean(sample.weights),
    }
    return value, (priorities, metrics)


def optimizer(config: Config, rate):
    """Adam on clipped gradients, at a learning rate."""
    clip = optax.clip_by_global_norm(config.max_gradient_norm)
    return optax.chain(clip, optax.adam(rate, eps=config.adam_eps))


def update(network, config: Config, state: LearnerState, sample: Sample):
    """One learner step -> LearnerState, (priorities [B], metrics)."""
    weights = sample.weights / learner.pmax(jnp.max(sample.weights))
    sample = sample._replace(weights=weights)
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (value, (priorities, metrics)), grads = grad(state.params, state.target_params, sample)
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    updates, opt_state = optimizer(config, rate).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    target_params = optax.periodic_update(params, state.target_params, step, config.target_update)
    metrics |= step_metrics(config, rate, grads, updates, params)
    # Priorities cross to the host at every update, and tell it when learning has failed.
    failed = ~jnp.isfinite(value + metrics["gradient_norm"] + metrics["params_norm"])
    priorities = jnp.where(failed, jnp.nan, priorities)
    return state._replace(
        params=params, opt_state=opt_state, step=step, target_params=target_params
    ), (priorities, metrics)


def make_network(config: Config, pools: list[envs.Envs]):
    """The network for the observations and actions of the task's environments."""
    return networks.q_network(
        *envs.shared_spaces(pools),
        torso=config.torso,
        hidden_size=config.hidden_size,
        core_size=config.core_size,
        head_size=config.head_size,
        frame_stack=config.frame_stack,
        bfloat16=config.bfloat16,
    )


def make_state(network, config: Config) -> LearnerState:
    """The LearnerState before the first step."""
    params = networks.init(network, streams.key(config.seed, "parameters"))
    key = streams.key(config.seed, "minibatches")
    opt_state = optimizer(config, config.learning_rate).init(params)
    step, progress = jnp.zeros((), jnp.int32), jnp.zeros(())
    target_params = jax.tree.map(jnp.copy, params)
    return LearnerState(params, opt_state, key, step, progress, target_params)


def make_replay(config: Config, network) -> Replay:
    """A Replay for what act and the environments bring."""
    flag, number = np.zeros(1, bool), np.zeros(1, np.float32)
    core_state = network.initial(1)
    return Replay(
        Timestep(networks.sample_obs(network.observation_space), flag, number, number, flag),
        core_state,
        Aux(number, number, core_state.lstm),
        num_envs=config.num_envs,
        capacity=config.replay_capacity,
        length=config.length,
        stride=config.stride,
        burn_in=config.burn_in,
        cross_episodes=config.cross_episodes,
        priority_exponent=config.priority_exponent,
        importance_exponent=config.importance_exponent,
        seed=streams.sequence(config.seed, "replay", hosts.index()),
    )


def initial_priorities(config: Config, trajectory: Trajectory, mask):
    """Priorities [W] by the actor's own Q-values, of learned steps [length + 1, W]."""
    q_a, q_max = trajectory.aux.q_a[:-1], trajectory.aux.q_max[1:]
    td_error = td_errors(config, q_a, q_max, trajectory.steps)
    return sequence_priority(td_error, mask, eta=config.priority_eta)


act, make_policies = epsilon_greedy.act, epsilon_greedy.make_policies
make_player, EVAL_MODES, SCORE = (
    epsilon_greedy.make_player,
    epsilon_greedy.EVAL_MODES,
    epsilon_greedy.SCORE,
)


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    mesh = learner.make_mesh(reserved=config.actor_devices)
    learner.check_batch(mesh, config.batch_size)
    own = hosts.share(config)
    pools = make_envs(own)
    network = make_network(config, pools)
    replay, ratio = make_replay(own, network), ReplayRatio(config)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(
            Run("r2d2", config, ["learner", "actors", "replay"], resume=resume)
        )
        run.log.say(replay.memory)
        policies = make_policies(network, config)
        actors = Actors(pools, policies, network.initial, own, run.log.time)
        stack.callback(actors.close)
        learn = learner.data_parallel(
            functools.partial(update, network), mesh, SAMPLE_SPEC, (learner.SHARDED, jax.P())
        )
        first_priorities = jax.jit(functools.partial(initial_priorities, config))
        state = make_state(network, config)
        if resume:
            trees, meta = run.restore({"learner": state, "actors": actors.states, "replay": None})
            state, actors.states = trees["learner"], trees["actors"]
            replay.restore(trees.pop("replay"), meta["replay"])
            ratio.restore(meta["replay_ratio"])
            actors.restart(run.number)
        state = learner.place(mesh, state)
        settings = learner.place(mesh, config)  # else its numbers would cross at every step
        running: Any = None  # (numbers, priorities) of an update that have not come back
        metrics: list = []  # of updates, on the device

        def learn_from(unroll: Unroll):
            nonlocal state, running
            state = learner.at(mesh, state, run.env_steps / config.env_steps)
            with run.log.time("replay"):
                numbers, learned, mask = replay.add(unroll.trajectory)
                priorities = first_priorities(*jax.device_put((learned, mask)))
                priorities = np.asarray(priorities)[: len(numbers)]
                learner.check_finite(priorities, run.learner_steps)
                replay.set_priorities(numbers, priorities)
            run.env_steps += config.unroll_length * config.num_envs
            run.log.episodes(actors.pop_episodes())
            due, learned_steps = ratio.due(run.env_steps), 0
            for _ in range(due):
                with run.log.time("replay"):  # while the update before this one runs
                    numbers, sample = replay.sample(own.batch_size)
                    learned_steps += int(sample.mask.sum())
                finish_update()
                with run.log.time("learner"):
                    sample = learner.place(mesh, sample, SAMPLE_SPEC)
                    state, (priorities, scalars) = learn(settings, state, sample)
                run.learner_steps += 1
                running = numbers, priorities
                metrics.append(scalars)
            finish_update()
            if due:
                ratio.learned(due, hosts.all_sum(learned_steps))

        def finish_update():
            nonlocal running
            if running:
                numbers, priorities = running
                with run.log.time("learner"):
                    priorities = learner.local_shard(priorities)
                learner.check_finite(priorities, run.learner_steps)
                replay.set_priorities(numbers, priorities)
            running = None

        while not run.ended:
            unroll = actors.get(state.params, run.learner_steps)
            learn_from(unroll)
            write, save = run.due()
            if save:
                for unroll in actors.drain(state.params, run.learner_steps):
                    learn_from(unroll)
            if write:
                more = {"replay_ratio": ratio.learned_steps / run.env_steps}
                more |= {"params_lag": run.learner_steps - unroll.learner_step}
                with run.log.time("learner"):
                    more |= health.dead_units(network, state.params, unroll.trajectory)
                run.write(metrics, replay.metrics() | more)
                metrics.clear()
            if save:
                arrays, counters = replay.state()
                trees = {"learner": state, "actors": actors.states, "replay": arrays}
                run.save(trees, {"replay": counters, "replay_ratio": ratio.state()})
                if not run.ended:
                    actors.restart(run.number)
        params = learner.snapshot(state.params)
    run.conclude(make_player, network, params, EVAL_MODES, SCORE)
    return run.folder
