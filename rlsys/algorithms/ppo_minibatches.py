"""How an unroll is cut into sequences, and how these are dealt into minibatches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlsys import networks
from rlsys.learning import learner
from rlsys.types import BATCH_MAJOR, TIME_MAJOR, CoreState, LearnerState, Trajectory


class Batch(NamedTuple):
    """S sequences of L steps, ready to learn from."""

    steps: Any  # Timestep [L, S, ...]
    action: Any  # [L, S]
    log_mu_a: Any  # [L, S]
    advantage: Any  # [L, S] normalised over the whole batch; 0 where mask is False
    v_old: Any  # [L, S] values before learning, normalised by PopArt like target
    target: Any  # [L, S]
    mask: Any  # [L, S] bool, True where the step is learned from
    task_id: Any  # [S]
    core_state: Any  # CoreState [S, ...]


BATCH_SPEC = Batch(**dict.fromkeys(Batch._fields, TIME_MAJOR))._replace(
    task_id=BATCH_MAJOR, core_state=BATCH_MAJOR
)


def sequences(network, trajectory: Trajectory, length: int):
    """Says how to cut an unroll into sequences: those of one environment are neighbours.

    Returns:
      a function that cuts [T, B, ...] into [length, S, ...], S = B * T / length; and the CoreState
      [S, ...] before each sequence, as it was when the actor played.
    """
    steps, action, aux = trajectory.steps, trajectory.action, trajectory.aux
    core_state = trajectory.core_state
    (total, batch), past = steps.first[:-1].shape, network.frame_stack - 1
    starts = jnp.arange(0, total, length)  # [K]
    number = batch * len(starts)  # S = B * K

    def cut(x):  # [T, B, ...] -> [L, B * K, ...]
        x = x.reshape(len(starts), length, *x.shape[1:])  # [K, L, B, ...]
        return jnp.moveaxis(x, 0, 2).reshape(length, number, *x.shape[3:])

    def join(x):  # [K, B, ...] -> [B * K, ...]
        return jnp.swapaxes(x, 0, 1).reshape(number, *x.shape[2:])

    def history(frames, obs):  # frames before each start: [B * K, F - 1, ...], F = frame_stack
        x = jnp.concatenate([jnp.swapaxes(frames, 0, 1), obs[:-1]])  # [F - 1 + T, B, ...]
        x = x[starts[:, None] + jnp.arange(past)[None]]  # [K, F - 1, B, ...]
        return join(jnp.swapaxes(x, 1, 2))

    time = jnp.arange(total)[:, None]
    opened = jnp.where(steps.first[:-1], time, -core_state.age[None])  # -age if before x_0
    age = jnp.minimum(time - jax.lax.cummax(opened), past)
    a_tm1 = jnp.concatenate([core_state.a_tm1[None], action[:-1]])
    obs = networks.without_mask(steps.obs)
    state = CoreState(
        jax.tree.map(lambda x: join(x[starts]), aux.lstm),
        join(a_tm1[starts]),
        jax.tree.map(history, core_state.frames, obs),
        join(age[starts]),
    )
    return cut, state


def turns(bits, number, minibatches: int):
    """Tells which of each `minibatches` neighbours one learner step takes; in an epoch each comes
    once.

    Args:
      bits: [groups] uint32, random for each group of neighbours, the same in a whole epoch.
      number: [] int, number of the learner step in its epoch, from 0.

    Returns:
      [groups] int32, from 0 to minibatches - 1.
    """
    begin = (bits % minibatches).astype(jnp.int32)  # % before +, as bits + number may wrap
    return (begin + number) % minibatches


def minibatch(config: Any, state: LearnerState, batch: Batch, done=None) -> Batch:
    """Returns the sequences of this learner step: one of every `minibatches` neighbours, at random.

    In an epoch neighbours come in turn, beginning with a random one. So each comes once, together
    with random ones of the other groups.

    Args:
      done: [] int, the learner steps made on this batch before. None gives the same result from
        state.step alone, unless `minibatches` was changed on resume.
    """
    done = state.step % config.minibatches if done is None else done
    epoch = (state.step - done) // config.minibatches + done // config.minibatches
    number = done % config.minibatches
    groups = batch.task_id.shape[0] // config.minibatches
    rows = learner.global_rows(groups)
    key = jax.random.fold_in(state.key, epoch)
    drawn = jax.random.bits(key, (groups * jax.lax.axis_size(learner.BATCH),))[rows]
    turn = turns(drawn, number, config.minibatches)  # [groups]
    chosen = jnp.arange(groups) * config.minibatches + turn
    *time_major, task_id, core_state = batch
    time_major = jax.tree.map(lambda x: x[:, chosen], time_major)
    return Batch(*time_major, *jax.tree.map(lambda x: x[chosen], (task_id, core_state)))
