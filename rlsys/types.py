"""The data that flow from environment to learner. T steps, B environments (or sequences).

Alignment, said once: `r_t = steps.reward[1:]`, `discount_t = gamma * steps.discount[1:]`,
`v_tm1, v_t = v[:-1], v[1:]`, `a_tm1 = action`.

Three rules serve every algorithm:
1. A step onto `first` is the reset's, not the agent's: it has weight 0 in every loss, return,
   priority and statistic. Before it lies a step with `discount` 0 or `truncated` True.
2. A truncated step keeps its discount (bootstrap from the true last observation) and has
   `lambda_t = 0`, which cuts every kind of multi-step return there.
3. A step that another policy played (an opponent, an idle player's turn) has `learns` False: it is
   not learned from either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class UserError(Exception):
    """The user asked for something that cannot work. The message is one sentence for them."""


class Stopped(Exception):
    """A signal stopped the run before its last step; a checkpoint was saved to go on from."""


class Timestep(NamedTuple):
    """One step of B environments, as they show it."""

    obs: Any  # [B, ...] x_t; a dict of arrays where the task has several
    first: Any  # [B] bool, x_t opens an episode
    reward: Any  # [B] float32 r_t, on reaching x_t
    discount: Any  # [B] float32, 0. where x_t ended its episode, else 1.
    truncated: Any  # [B] bool, x_t is its episode's last by time limit only


class CoreState(NamedTuple):
    """The memory of an agent that is about to see x_t."""

    lstm: Any  # (c, h), each [B, H] float32; () for a feed-forward agent
    a_tm1: Any  # [B] int32 ([B, D] for D-dimensional actions); ignored where x_t is first
    frames: Any  # like obs, [B, S - 1, ...]: x_{t-S+1} .. x_{t-1}, for stacks of S frames
    age: Any  # [B] int32, how many of those belong to x_t's episode, unless x_t is first


class Trajectory(NamedTuple):
    """T consecutive steps of B environments, time first."""

    steps: Any  # Timestep [T + 1, B, ...] x_0 .. x_T and how each was reached
    action: Any  # [T, B] a_t, taken in x_t
    aux: Any  # [T, B, ...] what the algorithm's act() wants kept
    core_state: Any  # [B, ...] CoreState before x_0
    task_id: Any = ()  # [B] int32, which of the run's tasks each plays; () where nobody asks
    learns: Any = ()  # [T, B] bool, the learner's own policy chose a_t; () where it chose all


def map_arrays(
    time_major: Callable, batch_major: Callable, *trajectories: Trajectory
) -> Trajectory:
    """Applies one function to the arrays [T, B, ...] of trajectories, another to those [B, ...]."""
    of_batch = ("core_state", "task_id")
    return Trajectory(
        *(
            jax.tree.map(
                batch_major if name in of_batch else time_major,
                *(getattr(trajectory, name) for trajectory in trajectories),
            )
            for name in Trajectory._fields
        )
    )


def learned_steps(trajectory: Trajectory):
    """Which steps x_{t-1} -> x_t are learned from: [T, B] bool, by rules 1 and 3."""
    mask_tm1 = ~trajectory.steps.first[1:]
    learns = trajectory.learns
    return mask_tm1 if isinstance(learns, tuple) else mask_tm1 & learns


class Policy(NamedTuple):
    """A policy as actors play it: policy(params, timestep, core_state, key) gives the action
    [B, ...], what the algorithm keeps of the step, the next core_state and the next key."""

    apply: Callable  # compiled: (own, params, timestep, core_state, key) -> the four
    own: Any = ()  # arrays that set one actor's policy apart, such as its exploration rates [B]

    def __call__(self, params, timestep: Timestep, core_state: CoreState, key: jax.Array):
        return self.apply(self.own, params, timestep, core_state, key)


class Sample(NamedTuple):
    """B sequences from replay."""

    trajectory: Trajectory  # burn-in, learned steps and one more observation; aux is ()
    mask: Any  # [T, B] bool, True where the step from x_t to x_{t+1} is learned from
    weights: Any  # [B] float32 (1 / P(i))^importance_exponent; the learner divides by the largest


TIME_MAJOR = jax.P(None, "batch")
BATCH_MAJOR = jax.P("batch")
TRAJECTORY_SPEC = Trajectory(  # over devices
    TIME_MAJOR, TIME_MAJOR, TIME_MAJOR, BATCH_MAJOR, BATCH_MAJOR, TIME_MAJOR
)
SAMPLE_SPEC = Sample(TRAJECTORY_SPEC, TIME_MAJOR, BATCH_MAJOR)


class LearnerState(NamedTuple):
    """All that a learner step changes."""

    params: Any
    opt_state: Any
    key: jax.Array
    step: jax.Array  # [] int32, learner steps taken
    progress: Any  # [] float32, share of the run's steps played before those learned from
    target_params: Any = None  # where the algorithm has a target network
    popart: Any = None  # where the algorithm normalises values: statistics of each task
