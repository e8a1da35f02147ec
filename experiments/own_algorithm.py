"""An algorithm of one's own: an actor-critic with n-step returns learns Catch.

make train ALGO=experiments.own_algorithm

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning",
https://arxiv.org/abs/1602.01783, section 4. Actors play in turn with the learner here, so that each
step is learned from by the policy that played it.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from rlsys import networks
from rlsys.acting import actor_critic
from rlsys.config import RunConfig, check_at_least, register
from rlsys.learning import learner
from rlsys.learning.optimizer import descend, linear_decay, step_metrics
from rlsys.learning.state import initial_state
from rlsys.losses.n_step import n_step_return
from rlsys.losses.policy_gradient import baseline_loss, policy_gradient_loss
from rlsys.results import evaluate
from rlsys.running.algorithm import Algorithm, FromUnrolls
from rlsys.running.presets import Presets
from rlsys.running.session import open_session
from rlsys.types import TRAJECTORY_SPEC, LearnerState, Trajectory, learned_steps


@register
@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """An actor-critic on Catch."""

    env: str = "Catch-v0"
    env_steps: int = 200_000
    num_envs: int = 64
    unroll_length: int = 10
    refresh_steps: int = 10
    unrolls_ahead: int = 0
    learning_rate: float = 3e-3
    n: int = 5
    """The number of rewards in a return before it goes on with a value."""
    value_cost: float = 0.5
    """The weight of the value's squared error, halved, in the loss."""
    entropy_cost: float = 0.01
    """The weight of the policy's entropy in the loss."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "n")


def make_network(config: Config, observation_space, action_space):
    """The network of a policy and its value."""
    return networks.policy_value_network(observation_space, action_space, **config.network)


def act(network, params, timestep, core_state, key, *, greedy: bool = False):
    """a_t for [B] environments; the loss needs nothing more of the step."""
    action, _, state = actor_critic.sample(
        network, params, timestep, core_state, key, greedy=greedy
    )
    return action, (), state


def loss(network, config: Config, params, trajectory: Trajectory):
    """The loss of T steps of B environments -> scalar; nothing more, and metrics."""
    steps, a_tm1 = trajectory.steps, trajectory.action
    pi, values, _ = actor_critic.policy_and_values(
        network, params, steps, a_tm1, trajectory.core_state
    )
    pi, v = jax.tree.map(lambda x: x[:-1], pi), values[..., 0]  # [T, B], [T + 1, B]
    return_tm1 = n_step_return(
        v[1:],
        steps.reward[1:],
        config.discount * steps.discount[1:],
        config.n,
        lambda_t=1.0 - steps.truncated[1:],  # rule 2
    )
    mask_tm1 = learned_steps(trajectory)  # rules 1 and 3
    pg_loss = mask_tm1 * policy_gradient_loss(pi.log_prob(a_tm1), return_tm1 - v[:-1])
    v_loss = mask_tm1 * baseline_loss(v[:-1], return_tm1)
    entropy = mask_tm1 * pi.entropy()
    total = jnp.mean(pg_loss + config.value_cost * v_loss - config.entropy_cost * entropy)
    of_learned = {"entropy": learner.learned_mean(entropy, mask_tm1)}
    return total, ((), {"loss": total, "v_mean": jnp.mean(v), **of_learned})


def optimizer(config: Config, rate):
    """Adam at a learning rate, on gradients that are clipped by their norm."""
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(rate))


def make_state(network, config: Config) -> LearnerState:
    """The LearnerState before the first update."""
    return initial_state(network, config, optimizer(config, config.learning_rate))


def learn(network, config: Config, state: LearnerState, trajectory: Trajectory):
    """One update on an unroll -> LearnerState, metrics [1]."""
    grad = learner.value_and_grad(functools.partial(loss, network, config))
    (_, (_, metrics)), grads = grad(state.params, trajectory)
    rate = linear_decay(config.learning_rate, config.learning_rate_decay, state.progress)
    params, opt_state, updates = descend(
        optimizer(config, rate), grads, state.opt_state, state.params
    )
    metrics |= step_metrics(config, rate, grads, updates, params)
    obs = jax.tree.map(lambda x: x[:-1], trajectory.steps.obs)  # for --normalize-observations
    params = networks.see(params, obs, learned_steps(trajectory), axis_name=learner.BATCH)
    state = state._replace(params=params, opt_state=opt_state, step=state.step + 1)
    return state, {name: x[None] for name, x in metrics.items()}


def train(config: Config, *, resume: bool = False) -> Path:
    """Trains, evaluates and returns the run's folder; resume goes on with the run in run_dir."""
    with open_session(ALGORITHM, config, resume=resume) as session:
        learn_all = session.data_parallel(learn, TRAJECTORY_SPEC)
        while not session.ended:
            for unroll in session.unrolls():
                trajectory = session.place(unroll.trajectory, TRAJECTORY_SPEC)
                session.learn(learn_all, trajectory, unroll)
            if session.line_due:
                session.write({})
            session.save()
    return evaluate.conclude(ALGORITHM, session)


ALGORITHM = Algorithm(
    name=__name__,
    Config=Config,
    presets=Presets({"small": Config()}, suits={}),
    train=train,
    make_network=make_network,
    make_state=make_state,
    make_policies=functools.partial(actor_critic.make_policies, act),
    make_eval_policy=functools.partial(actor_critic.make_eval_policy, act),
    eval_modes=actor_critic.EVAL_MODES,
    score_mode=actor_critic.SCORE_MODE,
    check_mesh=lambda mesh, config: learner.check_batch(mesh, config.num_envs),
    learning=FromUnrolls(
        batches=lambda config, trajectory: trajectory,
        batches_spec=TRAJECTORY_SPEC,
        learn=learn,
        num_updates=lambda config: 1,
    ),
)
