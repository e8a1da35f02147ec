"""Ape-X DQN: distributed prioritized experience replay.

Horgan et al. 2018, "Distributed Prioritized Experience Replay", https://arxiv.org/abs/1803.00933.
Section 3: algorithm 1, the actor, and 2, the learner; section 3.1: Ape-X DQN; section 4.1 and
appendix C: the numbers, here the preset "atari".

Departures, and why:
- Replay stores steps, not transitions, so each image is held once though several transitions show
  it. A transition's n-step return is computed when it is drawn.
- The replay ratio is fixed: updates wait for data and data for updates (replay/replay_ratio.py).
  The paper did not fix it; Kapturowski et al. 2019 say it was 1.3.
- A full replay overwrites its oldest steps at once; the paper's removed them every 100 updates.
- Importance weights are divided by the largest of the batch on all devices and processes, so that
  the number of devices does not change the loss. The paper does not name a divisor.
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
from rlsys.config import ReplayConfig, check_positive, check_within, register
from rlsys.learning import hosts, learner
from rlsys.learning.optimizer import centred_rmsprop
from rlsys.learning.q_update import q_metrics, q_state, q_update
from rlsys.losses.n_step import n_step_return
from rlsys.replay.replay import Replay
from rlsys.results import evaluate
from rlsys.running.algorithm import Algorithm, FromSamples
from rlsys.running.session import open_session
from rlsys.types import SAMPLE_SPEC, LearnerState, Sample, Timestep, Trajectory, UserError


@register
@dataclasses.dataclass(frozen=True)
class Config(ReplayConfig):
    """Ape-X on cart-pole; see algorithms/presets.py for others."""

    num_envs: int = 64
    learning_rate: float = 3e-4
    max_gradient_norm: float = 40.0
    batch_size: int = 128
    n: int = 3
    priority_exponent: float = 0.6
    importance_exponent: float = 0.4
    rmsprop_decay: float = 0.95
    """The share of the gradient's mean and variance that RMSProp keeps at each update."""
    rmsprop_eps: float = 1.5e-7
    """RMSProp adds this to the gradient's variance, inside the square root."""

    def __post_init__(self):
        super().__post_init__()
        check_within(self, 0.0, 1.0, "rmsprop_decay")
        check_positive(self, "rmsprop_eps")
        if self.core_size:
            raise UserError(f"core_size must be 0, not {self.core_size}: apex has no memory")
        complete = self.num_envs * (self.n + 1)
        if self.learning_starts < complete:
            raise UserError(
                f"learning_starts {self.learning_starts} must be {complete} or more, when returns "
                f"of {self.n} steps are complete"
            )
        if self.replay_capacity < self.batch_size:
            capacity = self.replay_capacity
            raise UserError(f"a replay of {capacity} is smaller than a batch of {self.batch_size}")

    @property
    def length(self) -> int:
        """Returns the number of learned steps of a sample: 1, as it is a transition."""
        return 1


def td_errors(config: Config, q_a, v_t, steps: Timestep):
    """Compute G_t - Q(S_t, A_t), the errors [B] of B n-step transitions.

    Args:
      q_a: [B] Q(S_t, A_t); gradient flows.
      v_t: [n, B] value of S_{t+1} .. S_{t+n}; only the one that ends the return matters.
      steps: Timestep [n + 1, B], S_t .. S_{t+n}.
    """
    discount_t = config.discount * steps.discount[1:]
    lambda_t = 1.0 - steps.truncated[1:]  # rule 2 in types.py
    return_tm1 = n_step_return(v_t, steps.reward[1:], discount_t, config.n, lambda_t=lambda_t)
    return return_tm1[0] - q_a


def last_of_return(trajectory: Trajectory):
    """Return the Timestep [1, B] of S_{t+n}, or of the episode's last step if it ends before, and
    the CoreState [B] before that step."""
    steps, state = trajectory.steps, trajectory.core_state
    ended = (steps.discount[1:] == 0.0) | steps.truncated[1:]  # [n, B]
    k = jnp.where(ended.any(axis=0), ended.argmax(axis=0) + 1, len(ended))  # [B] last is S_{t+k}

    def from_k(x, size):  # [B, T, ...] -> [B, size, ...]
        return jax.vmap(lambda x, k: jax.lax.dynamic_slice_in_dim(x, k, size))(x, k)

    def before(frames, obs):  # S=frame_stack: [B, S-1, ...], [n+1, B, ...] -> [B, S-1, ...]
        history = jnp.concatenate([frames, jnp.swapaxes(obs, 0, 1)], axis=1)
        return from_k(history, frames.shape[1])

    last = jax.tree.map(lambda x: jnp.swapaxes(from_k(jnp.swapaxes(x, 0, 1), 1), 0, 1), steps)
    frames = jax.tree.map(before, state.frames, networks.without_mask(steps.obs))
    age = jnp.where(steps.first[0], 0, state.age) + k
    return last, state._replace(frames=frames, age=age)


def loss(network, config: Config, params, target_params, sample: Sample):
    """Computes the loss of B transitions -> scalar, (priorities [B], metrics)."""
    trajectory = sample.trajectory
    steps, a_tm1 = trajectory.steps, trajectory.action

    def q_values(params, steps, core_state):  # [1, B, A], of one step
        return network.apply(params, steps, a_tm1[:0], core_state)[0]

    # q(S_t, A_t, theta), by a dueling network (section 3.1).
    first = jax.tree.map(lambda x: x[:1], steps)
    q = q_values(params, first, trajectory.core_state)
    q_a = q_of(q, a_tm1[:1])[0]

    # Double Q: theta chooses the action in S_{t+n}, theta^- says what it is worth.
    last, core_state = last_of_return(trajectory)
    a_star = greedy(q_values(params, last, core_state), network.legal(last.obs))
    v = q_of(q_values(target_params, last, core_state), a_star)[0]

    # G_t = R_{t+1} + .. + gamma^(n-1) R_{t+n} + gamma^n v, and delta = G_t - q(S_t, A_t, theta).
    td_error = td_errors(config, q_a, jnp.broadcast_to(v, a_tm1.shape[:2]), steps)

    # l_t = 1/2 delta^2, weighted by importance; the new priority is |delta| (algorithm 2).
    td_error = jnp.where(sample.mask[0], td_error, 0.0)  # rules 1 and 3 in types.py
    value = jnp.mean(sample.weights * 0.5 * td_error**2)
    priorities = jnp.abs(td_error)
    metrics = {
        "loss": value,
        "td_error": jnp.mean(priorities),
        "importance_weight": jnp.mean(sample.weights),
        **q_metrics(q, network.legal(first.obs), sample.mask[:1]),
    }
    return value, (priorities, metrics)


def optimizer(config: Config, rate):
    """Returns centred RMSProp without momentum on clipped gradients; rate: the learning rate."""
    clip = optax.clip_by_global_norm(config.max_gradient_norm)
    rmsprop = centred_rmsprop(rate, decay=config.rmsprop_decay, eps=config.rmsprop_eps)
    return optax.chain(clip, rmsprop)


def update(network, config: Config, state: LearnerState, sample: Sample, *, optimizer=optimizer):
    """Makes one learner step -> LearnerState, (priorities [B], metrics)."""
    learned = slice(config.length)
    return q_update(network, config, state, sample, loss=loss, optimizer=optimizer, learned=learned)


def make_state(network, config: Config) -> LearnerState:
    """Returns the LearnerState before the first update, with a target network."""
    return q_state(network, config, optimizer)


def make_replay(config: Config, network) -> Replay:
    """Returns a Replay of sequences: one learned step, and n - 1 more for its return."""
    flag, number = np.zeros(1, bool), np.zeros(1, np.float32)
    return Replay(
        Timestep(networks.sample_obs(network.observation_space), flag, number, number, flag),
        network.initial(1),
        Aux(number, number, ()),
        num_envs=config.num_envs,
        capacity=config.replay_capacity,
        length=1,
        stride=1,
        lookahead=config.n - 1,
        cross_episodes=True,
        priority_exponent=config.priority_exponent,
        importance_exponent=config.importance_exponent,
        seed=streams.sequence(config.seed, "replay", hosts.index()),
    )


def initial_priorities(config: Config, trajectory: Trajectory, mask):
    """Computes the priorities of W sequences [n + 1, W], by the actor's Q-values (algorithm 1):
    [W]."""
    aux = trajectory.aux
    td_error = td_errors(config, aux.q_a[0], aux.q_max[1:], trajectory.steps)
    return jnp.abs(jnp.where(mask[0], td_error, 0.0))


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
    name="apex",
    Config=Config,
    presets=presets.apex(Config),
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
        window=lambda config: config.n,
    ),
)
