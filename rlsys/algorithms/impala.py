"""IMPALA: actors play, one learner corrects for their lag with V-trace.

Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
Architectures", https://arxiv.org/abs/1802.01561. Section 4: V-trace; table G.1: the numbers, here
the presets "atari...".

Several tasks and PopArt: Hessel et al. 2019, "Multi-task Deep Reinforcement Learning with PopArt",
https://arxiv.org/abs/1809.04474. The policy does not see the task; each task has a value, a mean
and a deviation of its own.

Departures, and why:
- An actor is a thread with many environments, so that inference is batched. It is at most
  unrolls_ahead unrolls ahead. With several tasks the learner takes first what was finished first.
- Time-outs bootstrap from the true last observation; the paper's code took them for terminations.
- PopArt's statistics begin with larger steps, so that they do not remember their arbitrary start,
  and losses use a deviation of at least popart_floor times |mean| (ppo.py says why).
- The presets "cartpole" and "small" average the losses, use Adam, and have PopArt for one task too.
  "cartpole", the default, has vtrace_lambda 0.95 and clips gradients at a norm of 5.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.algorithms import presets
from rlsys.config import (
    ActorCriticConfig,
    check_at_least,
    check_default,
    check_positive,
    check_within,
    register,
)
from rlsys.learning import hosts, learner
from rlsys.learning.learner import learned_mean
from rlsys.learning.optimizer import descend, linear_decay, step_metrics
from rlsys.losses import popart
from rlsys.losses.policy_gradient import baseline_loss, policy_gradient_loss
from rlsys.losses.ppo import MAX_LOG_RATIO
from rlsys.losses.vtrace import vtrace
from rlsys.results import evaluate
from rlsys.running.algorithm import Algorithm, FromUnrolls
from rlsys.running.session import open_session
from rlsys.types import (
    TRAJECTORY_SPEC,
    LearnerState,
    Trajectory,
    UserError,
    learned_steps,
    map_arrays,
)


@register
@dataclasses.dataclass(frozen=True)
class Config(ActorCriticConfig):
    """IMPALA on cart-pole; see algorithms/presets.py for others."""

    env_steps: int = 2_000_000
    num_envs: int = 64
    max_gradient_norm: float = 5.0
    unroll_length: int = 10
    refresh_steps: int = 10
    clip_rho: float = 1.0
    """rho-bar of V-trace: the largest importance ratio in its targets; at least 1, the largest that
    its traces take."""
    clip_pg_rho: float = 1.0
    """The largest importance ratio in the policy gradient."""
    vtrace_lambda: float = 0.95
    """lambda of V-trace: the decay of its traces."""
    baseline_cost: float = 0.5
    """The weight in the loss of half the value's squared error."""
    batch_size: int = 64
    """The number of unrolls that an update learns from, over all devices."""
    sum_losses: bool = False
    """Add up the losses of all steps, as the paper does, rather than average them."""
    optimizer: str = "adam"
    """rmsprop (the paper's) or adam."""
    rmsprop_decay: float = 0.99
    """The decay of RMSProp's mean of squares."""
    # With a small eps, or a small max_gradient_norm, Adam's steps stay as large as ever when the
    # policy is all but perfect: they are then random, and sooner or later break it.
    optimizer_eps: float = 1e-3
    """The optimiser's epsilon; RMSProp adds it inside the square root."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "batch_size")
        check_positive(self, "clip_pg_rho")
        check_within(self, 1.0, float("inf"), "clip_rho")  # rho-bar >= c-bar (section 4.1)
        check_within(self, 0.0, 1.0, "vtrace_lambda rmsprop_decay")
        check_within(self, 0.0, float("inf"), "baseline_cost")
        check_positive(self, "optimizer_eps")
        if self.optimizer not in ("rmsprop", "adam"):
            raise UserError(f"optimizer must be rmsprop or adam, not {self.optimizer!r}")
        if self.optimizer == "adam":
            rest = f"{self.rmsprop_decay} is for optimizer rmsprop, not adam"
            check_default(self, "rmsprop_decay", rest)
        share = self.num_envs // self.actors
        if self.batch_size % share and share % self.batch_size:
            raise UserError(
                f"batch_size {self.batch_size} must divide the {share} environments of an actor or "
                f"be a multiple of them"
            )
        if self.batch_size > self.num_envs:
            raise UserError(
                f"batch_size {self.batch_size} is more than the {self.num_envs} environments"
            )
        if self.unrolls_ahead == 0 and self.actors % self.join:
            raise UserError(
                f"batches of {self.batch_size} unrolls take {self.join} actors of {share} "
                f"environments; in turn that must divide the {self.actors} actors"
            )

    @property
    def join(self) -> int:
        """Returns the number of actors whose unrolls together make a batch, or several."""
        return max(1, self.batch_size * self.actors // self.num_envs)


BATCHES_SPEC = learner.stacked(TRAJECTORY_SPEC)


def act(network, params, timestep, core_state, key, *, greedy: bool = False):
    """Chooses a_t for B environments, mu (the policy that acted, for importance ratios),
    CoreState."""
    return actor_critic.sample(network, params, timestep, core_state, key, greedy=greedy)


def loss(network, config: Config, params, statistics: popart.PopArtState, trajectory: Trajectory):
    """Computes the loss of T steps of B environments -> scalar, (PopArt's new statistics,
    metrics)."""
    steps, a_tm1, task = trajectory.steps, trajectory.action, trajectory.task_id
    # The learner's policy pi and values V along the trajectory that mu, the actor's, played.
    pi, values, _ = actor_critic.policy_and_values(
        network, params, steps, a_tm1, trajectory.core_state
    )
    pi, mu = jax.tree.map(lambda x: x[:-1], pi), trajectory.aux  # both in x_0 .. x_{T-1}
    old = actor_critic.statistics_of(config, statistics)
    v = popart.unnormalize(old, actor_critic.value_of(values, task), task)  # [T + 1, B]

    # Importance ratios pi(a_s | x_s) / mu(a_s | x_s) (section 4.1).
    mask_tm1 = learned_steps(trajectory)  # rules 1 and 3 in types.py
    log_pi_a_tm1 = pi.log_prob(a_tm1)
    log_rho_tm1 = log_pi_a_tm1 - mu.log_prob(a_tm1)
    log_rho_tm1 = jnp.minimum(log_rho_tm1, MAX_LOG_RATIO)  # so that no metric is inf
    rho_tm1 = jnp.exp(log_rho_tm1)
    rho_tm1 = jax.lax.stop_gradient(jnp.where(mask_tm1, rho_tm1, 0.0))
    # V-trace targets v_s, and advantages rho_s (r_s + gamma v_{s+1} - V(x_s)) (eq. 1, section 4.2).
    targets = vtrace(
        v[:-1],
        v[1:],
        steps.reward[1:],
        config.discount * steps.discount[1:],
        rho_tm1,
        lambda_=config.vtrace_lambda * (1.0 - steps.truncated[1:]),  # rule 2 in types.py
        clip_rho=config.clip_rho,
        clip_pg_rho=config.clip_pg_rho,
    )

    # PopArt: targets update each task's statistics, and these then scale advantages and values.
    exact = actor_critic.update_statistics(config, statistics, targets.vs_tm1, task, mask_tm1)
    new = actor_critic.statistics_of(config, exact)
    advantage_tm1 = targets.pg_advantage_tm1 / popart.scale(new)[task][None]
    # The policy's gradient, the values' squared error and the entropy (section 4.2).
    pg_loss = policy_gradient_loss(log_pi_a_tm1, advantage_tm1)
    v_loss = mask_tm1 * baseline_loss(
        popart.normalize(new, v[:-1], task), popart.normalize(new, targets.vs_tm1, task)
    )
    entropy = pi.entropy()
    total = pg_loss + config.baseline_cost * v_loss - config.entropy_cost * mask_tm1 * entropy
    total = jnp.mean(total)
    if config.sum_losses:
        total = total * config.unroll_length * config.batch_size
    metrics = {
        "loss": total,
        "pg_loss": jnp.mean(pg_loss),
        "baseline_loss": jnp.mean(v_loss),
        "entropy": learned_mean(entropy, mask_tm1),
        "v_mean": learned_mean(v[:-1], mask_tm1),
        "rho_mean": learned_mean(rho_tm1, mask_tm1),
        "rho_clipped": learned_mean(rho_tm1 > config.clip_rho, mask_tm1),  # share
        "kl": learned_mean(jnp.expm1(log_rho_tm1) - log_rho_tm1, mask_tm1),
        "moments": actor_critic.moments(config, new, v[:-1], targets.vs_tm1, task, mask_tm1),
    }
    return total, (exact, metrics)


def preserve_outputs(old: popart.PopArtState, new: popart.PopArtState, params, grads):
    """Rescales the value layer for the new statistics, and its gradient.

    The loss is a function of the rescaled layer, but its gradient was taken with respect to the old
    one: it lacks a factor d old / d rescaled = scale(new) / scale(old).
    """
    ratio = popart.scale(new) / popart.scale(old)
    grad = networks.value_layer(grads)
    grad = {"kernel": grad["kernel"] * ratio[None], "bias": grad["bias"] * ratio}
    return actor_critic.preserve_outputs(old, new, params), networks.with_value_layer(grads, grad)


def optimizer(config: Config, rate):
    """Returns Adam, or RMSProp without momentum, on clipped gradients; rate: the learning rate."""
    if config.optimizer == "adam":
        descend = optax.adam(rate, eps=config.optimizer_eps)
    else:  # the mean of squares starts at 1, as in the authors' library
        descend = optax.rmsprop(
            rate, decay=config.rmsprop_decay, eps=config.optimizer_eps, initial_scale=1.0
        )
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), descend)


def update(
    network, config: Config, state: LearnerState, trajectory: Trajectory, *, optimizer=optimizer
):
    """Makes one learner step -> LearnerState, metrics."""
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (_, (statistics, metrics)), grads = grad(state.params, state.popart, trajectory)
    old, new = (actor_critic.statistics_of(config, s) for s in (state.popart, statistics))
    params, grads = preserve_outputs(old, new, state.params, grads)
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    params, opt_state, updates = descend(optimizer(config, rate), grads, state.opt_state, params)
    metrics |= actor_critic.value_metrics(metrics.pop("moments"))
    metrics |= step_metrics(config, rate, grads, updates, params)
    obs = jax.tree.map(lambda x: x[:-1], trajectory.steps.obs)
    params = networks.see(params, obs, learned_steps(trajectory), axis_name=learner.BATCH)
    state = state._replace(
        params=params, opt_state=opt_state, step=state.step + 1, popart=statistics
    )
    return state, metrics


def make_state(network, config: Config) -> LearnerState:
    """Returns the LearnerState before the first update."""
    return actor_critic.make_state(network, config, optimizer(config, config.learning_rate))


def batches(config: Config, trajectory: Trajectory) -> Trajectory:
    """Returns an unroll split into N batches of batch_size environments: [N, T + 1, batch_size,
    ...]."""

    def split(axis, x):
        num = x.shape[axis] // config.batch_size
        x = x.reshape(*x.shape[:axis], num, config.batch_size, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0)

    return map_arrays(functools.partial(split, 1), functools.partial(split, 0), trajectory)


def learn(network, config: Config, state: LearnerState, trajectories: Trajectory):
    """Makes an update on each of N batches in turn -> LearnerState, metrics [N]."""
    return jax.lax.scan(functools.partial(update, network, config), state, trajectories)


def line(config: Config, state: LearnerState, *_: int) -> dict[str, float]:
    """Returns what a line of the log has beside means over updates."""
    return actor_critic.popart_metrics(config, state.popart)


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    names = [task.name for task in config.tasks]
    played = np.zeros(len(names))  # unrolls of each task since the last line of the log
    with open_session(ALGORITHM, config, resume=resume) as session:
        learn_all = session.data_parallel(learn, BATCHES_SPEC)
        while not session.ended:
            for unroll in session.unrolls():
                trajectories = batches(session.local_config, unroll.trajectory)
                session.learn(learn_all, session.place(trajectories, BATCHES_SPEC), unroll)
                played += np.bincount(unroll.trajectory.task_id, minlength=len(names))
            if session.line_due:
                more = line(config, session.state)
                if len(names) > 1:
                    counts = sum(hosts.gather(played))
                    shares = counts / counts.sum()
                    more |= {f"share/{n}": x for n, x in zip(names, shares, strict=True)}
                session.write(more)
                played[:] = 0
            session.save()
    return evaluate.conclude(ALGORITHM, session)


ALGORITHM = Algorithm(
    name="impala",
    Config=Config,
    presets=presets.impala(Config),
    train=train,
    make_network=actor_critic.make_network,
    make_state=make_state,
    make_policies=functools.partial(actor_critic.make_policies, act),
    make_eval_policy=functools.partial(actor_critic.make_eval_policy, act),
    eval_modes=actor_critic.EVAL_MODES,
    score_mode=actor_critic.SCORE_MODE,
    check_mesh=lambda mesh, config: learner.check_batch(mesh, config.batch_size),
    learning=FromUnrolls(
        batches=batches,
        batches_spec=BATCHES_SPEC,
        learn=learn,
        line=line,
        num_updates=lambda config: (
            config.join * config.num_envs / config.actors / config.batch_size
        ),
    ),
)
