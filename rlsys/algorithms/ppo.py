"""PPO, as in OpenAI's Rapid: actors play, and all devices average one gradient.

Berner et al. 2019, "Dota 2 with Large Scale Deep Reinforcement Learning",
https://arxiv.org/abs/1912.06680, section 3.2 and appendix C. Schulman et al. 2017, "Proximal Policy
Optimization Algorithms", https://arxiv.org/abs/1707.06347, eq. 7: the clipped surrogate. Schulman
et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
https://arxiv.org/abs/1506.02438, eq. 16.

Departures, and why:
- Values of a batch are computed anew before it is learned from, and not taken from the actors. They
  are the same if actors and learner take turns, and fresher if actors are ahead.
- A minibatch takes one of every `minibatches` neighbouring sequences, at random (stratified), so
  the number of devices does not decide which sequences it holds.
- PopArt normalises values, where the paper divides rewards by their running deviation. The purpose
  is the same, and the meaning of a reward does not drift. Values are divided by popart_floor times
  |mean| at least. Without this floor the values' gradient took over the torso and froze the policy
  once a task was solved: its returns hardly differed then, and their deviation was too small.
- Time-outs bootstrap from the true last observation.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.acting.opponents import SelfPlay
from rlsys.algorithms import presets
from rlsys.algorithms.ppo_minibatches import Batch, minibatch, sequences
from rlsys.config import (
    ActorCriticConfig,
    check_at_least,
    check_default,
    check_positive,
    check_within,
    register,
)
from rlsys.envs import both_sides, is_team_game, layout
from rlsys.envs.teams import Layout
from rlsys.learning import learner
from rlsys.learning.learner import learned_mean
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
from rlsys.losses.team_spirit import team_spirit, zero_sum
from rlsys.results import evaluate
from rlsys.running.algorithm import Algorithm, FromUnrolls
from rlsys.running.session import open_session
from rlsys.types import TRAJECTORY_SPEC, LearnerState, Trajectory, UserError, learned_steps


@register
@dataclasses.dataclass(frozen=True)
class Config(ActorCriticConfig):
    """PPO on cart-pole; see algorithms/presets.py for others."""

    plays_games: ClassVar[bool] = True

    horizon_seconds: float = 0.0
    """The horizon H in seconds, by which gamma = 1 - step_seconds / H; if 0, gamma is discount."""
    step_seconds: float = 0.1333
    """The seconds from one agent step to the next; used with horizon_seconds alone."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation."""
    clip_eps: float = 0.2
    """epsilon: the objective does not reward a probability ratio for moving further from 1 than
    this."""
    clip_value: bool = False
    """Clip the value's change by clip_eps too, in units of the targets' deviation with PopArt, and
    of the return without."""
    value_cost: float = 0.5
    """The weight of half the value's squared error in the loss."""
    epochs: int = 4
    """The number of times that each sample is learned from."""
    minibatches: int = 4
    """The number of updates in an epoch."""
    sequence_length: int = 1
    """The number of consecutive steps that are learned from together, beginning with the recurrent
    state that the actor had there."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_gradient_norm: float = 0.5
    clip_entries: bool = False
    """Clip each gradient entry by its own second moment, in place of the norm (OpenAI Five)."""
    clip_sigmas: float = 5.0
    """With clip_entries, each gradient entry is clipped to this many times sqrt(v), where v is
    Adam's second moment."""
    unroll_length: int = 32
    refresh_steps: int = 32
    self_play: SelfPlay = SelfPlay()
    """Whom the learner plays against in games of two players or two teams."""
    team_spirit: float = 0.3
    """Games of two teams: tau at the start of the run. A player learns from tau times the mean of
    its team's rewards plus 1 - tau times its own."""
    team_spirit_end: float = 1.0
    """tau at the end of the run; it changes linearly in between."""
    zero_sum: float = 1.0
    """Games of two teams: the part of the enemies' mean reward that is subtracted from each reward.
    With 1, as for OpenAI Five, whatever the enemies gain costs as much. With less a fight can pay
    for both teams, which may otherwise learn to avoid each other."""

    def __post_init__(self):
        super().__post_init__()
        if self.self_play != SelfPlay() and not any(map(both_sides, self.tasks)):
            raise UserError(
                f"fields of self-play such as past_share are for games of two, not {self.env!r}"
            )
        if self.has_past_selves:
            self.self_play.groups(self.games)
        of_teams = "team_spirit team_spirit_end zero_sum"
        check_within(self, 0.0, 1.0, of_teams)
        if not self.teams:
            check_default(self, of_teams, f"is for games of two teams, not {self.env!r}")
        if any(map(both_sides, self.tasks)) and len(set(map(layout, self.tasks))) > 1:
            raise UserError(
                f"tasks that are learned together with a game of two must be such games, in which "
                f"the policy plays both sides and sides are of one size, not {self.env!r}"
            )
        check_at_least(self, 1, "epochs minibatches sequence_length")
        check_positive(self, "clip_eps step_seconds clip_sigmas adam_eps")
        check_within(self, 0.0, 1.0, "gae_lambda")
        check_within(self, 0.0, float("inf"), "horizon_seconds value_cost")
        if self.clip_entries:
            rest = "is not used with clip_entries, which clips entry by entry"
            check_default(self, "max_gradient_norm", rest)
        else:
            check_default(self, "clip_sigmas", f"{self.clip_sigmas} needs clip_entries: True")
        if self.unroll_length % self.sequence_length:
            raise UserError(
                f"unroll_length {self.unroll_length} is no multiple of sequence_length "
                f"{self.sequence_length}"
            )
        core_size = max(self.core_size, self.value_core_size or 0)
        if core_size and self.sequence_length == 1:
            raise UserError(
                f"an LSTM (core_size {core_size}) learns nothing through time from sequences "
                f"of one step: set sequence_length, to 16 for instance"
            )
        if self.num_sequences % self.minibatches:
            raise UserError(
                f"{self.num_sequences} sequences of {self.sequence_length} steps cannot be split "
                f"evenly into {self.minibatches} minibatches"
            )
        if isinstance(self.horizon_seconds, float) and 0 < self.horizon_seconds < self.step_seconds:
            raise UserError(
                f"horizon_seconds {self.horizon_seconds} must not be shorter than step_seconds "
                f"{self.step_seconds}"
            )

    @property
    def has_past_selves(self) -> bool:
        """Tells whether past selves play against the learner."""
        return any(map(both_sides, self.tasks)) and self.self_play.past_share > 0

    @property
    def games(self) -> int:
        """Returns the number of games that an actor plays at once."""
        return self.num_envs // self.actors // max(layout(task).rows for task in self.tasks)

    @property
    def teams(self) -> Layout | None:
        """Tells how the rows of a game of two teams are ordered; None where no task is such a
        game."""
        found = [layout(task) for task in self.tasks if is_team_game(task.env_id)]
        return found[0] if found else None

    @property
    def num_sequences(self) -> int:
        """Returns the number of sequences of a batch."""
        return self.num_envs * self.unroll_length // self.sequence_length

    @property
    def num_updates(self) -> int:
        """Returns the number of updates on a batch."""
        return self.epochs * self.minibatches


class Aux(NamedTuple):
    """Holds the part of each step that the loss needs."""

    log_mu_a: Any  # [B] log mu(a_t | x_t)
    lstm: Any  # [B, ...] recurrent state before x_t


def act(network, params, timestep, core_state, key, *, greedy: bool = False):
    """Plays a step: returns a_t [B] or [B, D], its Aux, and the CoreState before x_{t+1}."""
    action, mu, state = actor_critic.sample(
        network, params, timestep, core_state, key, greedy=greedy
    )
    return action, Aux(mu.log_prob(action), core_state.lstm), state


def discount(config: Config):
    """Returns gamma, a scalar: 1 - step_seconds / horizon_seconds if a horizon is set (OpenAI et
    al. 2019, "Dota 2", appendix C), or else `discount`."""
    horizon = jnp.maximum(config.horizon_seconds, config.step_seconds)
    from_horizon = 1.0 - config.step_seconds / horizon
    return jnp.where(config.horizon_seconds > 0.0, from_horizon, config.discount)


def team_rewards(config: Config, state: LearnerState, reward):
    """Returns the rewards [T, B] that players of two teams learn from, and tau, the team spirit.

    First they are made zero-sum, or partly so if zero_sum is below 1; this is left out if only one
    team has rows. Then each player shares a part tau of its reward with its team. tau is linear in
    the run's progress (Berner et al. 2019, the appendix on reward weights).
    """
    assert config.teams
    teams = reward.reshape(len(reward), -1, *config.teams)  # [T, games, teams, players]
    if config.teams.teams > 1:
        teams = teams + config.zero_sum * (zero_sum(teams) - teams)
    progress = jnp.clip(state.progress, 0.0, 1.0)
    tau = config.team_spirit + progress * (config.team_spirit_end - config.team_spirit)
    return team_spirit(teams, tau).reshape(reward.shape), tau


def prepare(network, config: Config, state: LearnerState, trajectory: Trajectory):
    """Prepares an unroll for updates -> LearnerState with new statistics, (Batch, metrics)."""
    steps, task = trajectory.steps, trajectory.task_id
    _, values, _ = actor_critic.policy_and_values(
        network, state.params, steps, trajectory.action, trajectory.core_state
    )
    # The learner's current values, in units of return.
    old = actor_critic.statistics_of(config, state.popart)
    v = popart.unnormalize(old, actor_critic.value_of(values, task), task)  # [T + 1, B]
    mask, lambda_t = actor_critic.learned_turns(network, trajectory, config.gae_lambda)
    r_t, more = steps.reward[1:], {}
    if config.teams:
        r_t, more["team_spirit"] = team_rewards(config, state, r_t)
    # Generalised advantages (Schulman et al. 2016, eq. 16), and the values' targets.
    advantage = gae(
        v[:-1],
        v[1:],
        r_t,
        discount(config) * steps.discount[1:],
        lambda_=lambda_t,
    )
    target = v[:-1] + advantage
    # PopArt: the targets update each task's statistics; values in units of return stay the same.
    exact = actor_critic.update_statistics(config, state.popart, target, task, mask)
    statistics = actor_critic.statistics_of(config, exact)
    params = actor_critic.preserve_outputs(old, statistics, state.params)

    # Advantages of mean 0 and deviation 1 over all learned steps on all devices.
    advantage = advantage / popart.scale(statistics)[task][None]
    share, mean, v_mean = learner.pmean(
        (jnp.mean(mask), jnp.mean(mask * advantage), jnp.mean(mask * v[:-1]))
    )
    share = jnp.maximum(share, 1e-9)  # it is 0 if every step is masked
    advantage = mask * (advantage - mean / share)
    moments = actor_critic.moments(config, statistics, v[:-1], target, task, mask)
    square, moments = learner.pmean((jnp.mean(advantage**2), moments))
    deviation = jnp.sqrt(square / share)
    advantage = advantage / (deviation + 1e-8)
    metrics = {
        "v_mean": v_mean / share,
        "advantage_deviation": deviation,
        **actor_critic.value_metrics(moments),
        **more,
    }

    # Sequences, each with the recurrent state that it was played from.
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
    """Computes the loss of S sequences of L steps -> scalar, ((), metrics)."""
    action, mask = batch.action, batch.mask
    pi, values, _ = actor_critic.policy_and_values(
        network, params, batch.steps, action[:-1], batch.core_state
    )
    v = actor_critic.value_of(values, batch.task_id)
    log_pi_a = pi.log_prob(action)
    # The clipped surrogate of the ratio pi(a | x) / mu(a | x) (Schulman et al. 2017, eq. 7).
    pg_loss = mask * clipped_surrogate(
        log_pi_a, batch.log_mu_a, batch.advantage, clip_eps=config.clip_eps
    )
    # The values' squared error, clipped too if asked for.
    if config.clip_value:
        v_loss = clipped_value_loss(v, batch.v_old, batch.target, clip_eps=config.clip_eps)
    else:
        v_loss = baseline_loss(v, batch.target)
    v_loss = mask * v_loss
    # The sum of the three (Schulman et al. 2017, eq. 9), as a loss.
    entropy = pi.entropy()
    total = jnp.mean(pg_loss + config.value_cost * v_loss - config.entropy_cost * mask * entropy)
    log_ratio = mask * jnp.minimum(log_pi_a - batch.log_mu_a, MAX_LOG_RATIO)  # its exp is finite
    metrics = {
        "loss": total,
        "pg_loss": jnp.mean(pg_loss),
        "value_loss": jnp.mean(v_loss),
        "entropy": learned_mean(entropy, mask),
        "kl": learned_mean(jnp.expm1(log_ratio) - log_ratio, mask),  # KL(mu || pi), unbiased
        "ratio_clipped": learned_mean(jnp.abs(jnp.expm1(log_ratio)) > config.clip_eps, mask),
    }
    return total, ((), metrics)


def optimizer(config: Config, rate):
    """Returns Adam on gradients that are clipped by their norm or entry by entry.

    Args:
      rate: the learning rate.
    """
    if config.clip_entries:
        return adam_with_clipped_gradients(
            rate, eps=config.adam_eps, clip_sigmas=config.clip_sigmas
        )
    clip = optax.clip_by_global_norm(config.max_gradient_norm)
    return optax.chain(clip, optax.adam(rate, eps=config.adam_eps))


def update(
    network, config: Config, state: LearnerState, batch: Batch, done=None, *, optimizer=optimizer
):
    """Makes one learner step, on one minibatch -> LearnerState, metrics. done: see minibatch."""
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (_, (_, metrics)), grads = grad(state.params, minibatch(config, state, batch, done))
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    params, opt_state, updates = descend(
        optimizer(config, rate), grads, state.opt_state, state.params
    )
    metrics |= step_metrics(config, rate, grads, updates, params)
    if config.clip_entries:  # then no gradient is clipped by its norm
        del metrics["gradient_clipped"]
    return state._replace(params=params, opt_state=opt_state, step=state.step + 1), metrics


def learn(network, config: Config, state: LearnerState, trajectory: Trajectory):
    """Makes all N updates on an unroll -> LearnerState, metrics [N]."""
    state, (batch, metrics) = prepare(network, config, state, trajectory)
    state, losses = jax.lax.scan(
        lambda state, done: update(network, config, state, batch, done),
        state,
        jnp.arange(config.num_updates),
    )
    obs = jax.tree.map(lambda x: x[:-1], trajectory.steps.obs)
    params = networks.see(state.params, obs, learned_steps(trajectory), axis_name=learner.BATCH)
    metrics = losses | jax.tree.map(lambda x: jnp.full(config.num_updates, x), metrics)
    return state._replace(params=params), metrics


def make_state(network, config: Config) -> LearnerState:
    """Makes the LearnerState before the first update."""
    return actor_critic.make_state(network, config, optimizer(config, config.learning_rate))


def check_mesh(mesh, config: Config) -> None:
    """Raises UserError unless each device gets whole games, and can split its share of a batch into
    equal minibatches."""
    if config.teams and config.num_envs % (mesh.size * config.teams.rows):
        rows = config.teams.rows
        raise UserError(
            f"{config.num_envs // rows} games of {rows} players cannot be shared evenly by "
            f"{mesh.size} devices: num_envs must be a multiple of {mesh.size * rows}"
        )
    learner.check_batch(mesh, config.num_envs)
    if config.num_sequences % (mesh.size * config.minibatches):
        raise UserError(
            f"{config.num_sequences} sequences of {config.sequence_length} steps cannot be split "
            f"evenly into {config.minibatches} minibatches on {mesh.size} devices"
        )


def line(config: Config, state: LearnerState, played: int, updates: int) -> dict[str, float]:
    """Returns what a line of the log has beside means over updates.

    played, updates: environment steps and updates with this config.
    """
    learned = updates * config.num_sequences * config.sequence_length / config.minibatches
    reuse = {"sample_reuse": learned / max(played, 1)}
    return reuse | actor_critic.popart_metrics(config, state.popart)


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    with open_session(ALGORITHM, config, resume=resume) as session:
        learn_all = session.data_parallel(learn, TRAJECTORY_SPEC)
        while not session.ended:
            for unroll in session.unrolls():
                trajectory = session.place(unroll.trajectory, TRAJECTORY_SPEC)
                session.learn(learn_all, trajectory, unroll)
            if session.line_due:
                session.write(line(config, session.state, *session.since_change))
            session.save()
    return evaluate.conclude(ALGORITHM, session)


ALGORITHM = Algorithm(
    name="ppo",
    Config=Config,
    presets=presets.ppo(Config),
    train=train,
    make_network=actor_critic.make_network,
    make_state=make_state,
    make_policies=functools.partial(actor_critic.make_policies, act),
    make_eval_policy=functools.partial(actor_critic.make_eval_policy, act),
    eval_modes=actor_critic.EVAL_MODES,
    score_mode=actor_critic.SCORE_MODE,
    check_mesh=check_mesh,
    learning=FromUnrolls(
        batches=lambda config, trajectory: trajectory,
        batches_spec=TRAJECTORY_SPEC,
        learn=learn,
        line=line,
        num_updates=lambda config: config.num_updates,
    ),
)
