"""R2D2: recurrent replay distributed DQN.

Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning",
https://openreview.net/forum?id=r1lyTjAqYX. Section 2.3: sequences, priority; section 3: stored
state, burn-in; table 2: the numbers, here the preset "atari".

Departures, and why:
- Sequences may cross episodes (cross_episodes), so that short episodes fill them. State, targets
  and priorities do not leak from episode to episode (tests/test_r2d2.py). Off in "atari".
- An episode's first window learns from its first step on; the paper does not say what burns it in.
- The replay ratio is fixed: updates wait for data and data for updates (replay/replay_ratio.py).
  The paper did not fix it; it was 0.8.
- Importance weights are divided by the largest of the batch on all devices and processes, so that
  the number of devices does not change the loss.
- Returns end with their sequence: the last n - 1 learned steps add up fewer than n rewards.
- Continuous actions are discretised (rlsys/envs/wrappers/actions.py).
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlsys import networks, streams
from rlsys.acting import epsilon_greedy
from rlsys.acting.epsilon_greedy import Aux, greedy, q_of
from rlsys.algorithms import presets
from rlsys.config import ReplayConfig, check_at_least, check_positive, check_within, register
from rlsys.envs import Options
from rlsys.learning import hosts, learner
from rlsys.learning.learner import learned_mean
from rlsys.learning.q_update import q_metrics, q_state, q_update
from rlsys.losses.n_step import n_step_return
from rlsys.losses.q_learning import identity
from rlsys.losses.r2d2 import sequence_loss, sequence_priority
from rlsys.losses.value_rescaling import h, h_inv
from rlsys.replay.replay import Replay
from rlsys.results import evaluate
from rlsys.running.algorithm import Algorithm, FromSamples
from rlsys.running.session import open_session
from rlsys.types import SAMPLE_SPEC, LearnerState, Sample, Timestep, Trajectory, UserError


@register
@dataclasses.dataclass(frozen=True)
class Config(ReplayConfig):
    """R2D2 on a small task that needs memory; see algorithms/presets.py for others."""

    env_options: Options = Options(observe=(0, 2))
    env_steps: int = 1_500_000
    num_envs: int = 64
    discount: float = 0.997
    learning_rate: float = 2e-4
    max_gradient_norm: float = 40.0
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    core_size: int = 64
    checkpoint_every: int = 500_000
    burn_in: int = 10
    """The number of steps before the learned ones, which warm up the recurrent state."""
    length: int = 20
    """The number of learned steps of a sequence."""
    stride: int = 10
    """Steps from one sequence's start to the next."""
    cross_episodes: bool = True
    """Let sequences run on into the next episode."""
    stored_state: bool = True
    """Begin burn-in with the actor's recurrent state rather than zeros."""
    value_rescaling: bool = True
    """Learn h(Q), with h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x, rather than Q."""
    priority_eta: float = 0.9
    """A sequence's priority is eta max|delta| + (1 - eta) mean|delta|."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 0, "burn_in")
        check_within(self, 0.0, 1.0, "priority_eta")
        check_positive(self, "adam_eps")
        complete = self.num_envs * (self.length + 1)
        if self.learning_starts < complete:
            raise UserError(
                f"learning_starts {self.learning_starts} must be {complete} or more, when "
                f"sequences are complete"
            )
        if not 1 <= self.stride <= self.length:
            raise UserError(
                f"stride {self.stride} must lie between 1 and the length of the learned steps, "
                f"{self.length}"
            )
        if self.n > self.length:
            raise UserError(
                f"n {self.n} must not be above length {self.length}: returns end with the sequence"
            )
        if self.replay_capacity < self.batch_size * self.length:
            raise UserError(
                f"a replay of {self.replay_capacity} steps is smaller than a batch of "
                f"{self.batch_size} x {self.length} = {self.batch_size * self.length}"
            )


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
        lambda_t=1.0 - steps.truncated[1:],  # rule 2 in types.py
    )
    return rescale(return_tm1) - q_a


def q_values(network, params, burn_in: int, trajectory: Trajectory):
    """Computes Q(x_t, .) after a burn-in that no gradient flows through: [length + 1, B, A]."""
    steps, action, state = trajectory.steps, trajectory.action, trajectory.core_state
    if burn_in:
        early = jax.tree.map(lambda x: x[:burn_in], steps)
        _, state = network.apply(jax.lax.stop_gradient(params), early, action[: burn_in - 1], state)
        state = state._replace(a_tm1=action[burn_in - 1])
    late = jax.tree.map(lambda x: x[burn_in:], steps)
    return network.apply(params, late, action[burn_in:], state)[0]


def loss(network, config: Config, params, target_params, sample: Sample):
    """Computes the loss of B sequences -> scalar, (priorities [B], metrics)."""
    # The recurrent state that replay holds, or zeros (section 3).
    if not config.stored_state:
        core_state = sample.trajectory.core_state
        core_state = core_state._replace(lstm=jax.tree.map(jnp.zeros_like, core_state.lstm))
        sample = sample._replace(trajectory=sample.trajectory._replace(core_state=core_state))
    # Each network warms up a state of its own by burn-in, without gradient (section 3).
    q = q_values(network, params, config.burn_in, sample.trajectory)
    q_target = q_values(network, target_params, config.burn_in, sample.trajectory)
    steps = jax.tree.map(lambda x: x[config.burn_in :], sample.trajectory.steps)
    mask = sample.mask[config.burn_in :]

    # Double Q: theta chooses the action, theta^- says what it is worth.
    q_a = q_of(q[:-1], sample.trajectory.action[config.burn_in :])
    q_star = q_of(q_target, greedy(q, network.legal(steps.obs)))
    # delta = h(sum gamma^k r + gamma^n h^-1(Q)) - Q, of n-step returns (section 2.3).
    td_error = td_errors(config, q_a, q_star[1:], steps)
    # Priority eta max |delta| + (1 - eta) mean |delta|; errors squared, weighted by importance.
    priorities = sequence_priority(td_error, mask, eta=config.priority_eta)
    value = sequence_loss(td_error, mask, sample.weights)
    acted = jax.tree.map(lambda x: x[:-1], steps.obs)
    metrics = {
        "loss": value,
        "td_error": learned_mean(jnp.abs(td_error), mask),
        "learned_share": jnp.mean(mask),
        "importance_weight": jnp.mean(sample.weights),
        **q_metrics(q[:-1], network.legal(acted), mask),
    }
    return value, (priorities, metrics)


def optimizer(config: Config, rate):
    """Returns Adam on clipped gradients; rate: the learning rate."""
    clip = optax.clip_by_global_norm(config.max_gradient_norm)
    return optax.chain(clip, optax.adam(rate, eps=config.adam_eps))


def update(network, config: Config, state: LearnerState, sample: Sample, *, optimizer=optimizer):
    """Makes one learner step -> LearnerState, (priorities [B], metrics)."""
    learned = slice(config.burn_in, config.burn_in + config.length)
    return q_update(network, config, state, sample, loss=loss, optimizer=optimizer, learned=learned)


def make_state(network, config: Config) -> LearnerState:
    """Returns the LearnerState before the first update, with a target network."""
    return q_state(network, config, optimizer)


def make_replay(config: Config, network) -> Replay:
    """Returns a Replay for what act and the environments give."""
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
    """Computes the priorities of W sequences [length + 1, W], by the actor's own Q-values: [W]."""
    q_a, q_max = trajectory.aux.q_a[:-1], trajectory.aux.q_max[1:]
    td_error = td_errors(config, q_a, q_max, trajectory.steps)
    return sequence_priority(td_error, mask, eta=config.priority_eta)


act = epsilon_greedy.act


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    with open_session(ALGORITHM, config, resume=resume) as session:
        learn = session.data_parallel(update, SAMPLE_SPEC, (learner.SHARDED, learner.REPLICATED))
        (sampler,) = session.samplers
        while not session.ended:
            for unroll in session.unrolls():
                sampler.add(unroll.trajectory)
                for sample in sampler.due(session.env_steps):
                    priorities = session.update(learn, session.place(sample, SAMPLE_SPEC))
                    sampler.give(functools.partial(learner.local_shard, priorities))
            if session.line_due:
                session.write({})
            session.save()
    return evaluate.conclude(ALGORITHM, session)


ALGORITHM = Algorithm(
    name="r2d2",
    Config=Config,
    presets=presets.r2d2(Config),
    train=train,
    make_network=epsilon_greedy.make_network,
    make_state=make_state,
    make_policies=epsilon_greedy.make_policies,
    make_eval_policy=epsilon_greedy.make_eval_policy,
    eval_modes=epsilon_greedy.EVAL_MODES,
    score_mode=epsilon_greedy.SCORE_MODE,
    check_mesh=lambda mesh, config: learner.check_batch(mesh, config.batch_size),
    learning=FromSamples(
        make_replay=make_replay,
        update=update,
        initial_priorities=initial_priorities,
        window=lambda config: config.burn_in + config.length,
    ),
)
