"""Plays a task's environments in groups, each of which has its own draw of the physics.

EnvPool reads a task's XML only when it makes a pool of environments, so a draw of physics lasts as
long as its pool: for `redraw_steps` steps, which are many episodes. In OpenAI et al. 2018, section
3.3, a draw lasts for one episode. One group at a time is replaced, while the others go on.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.envs.backend import Backend, Played, environment_seeds, join
from rlsys.envs.options import Task
from rlsys.envs.randomise import adapt
from rlsys.envs.randomise.model import Refused
from rlsys.envs.randomise.physics import draw, numbers_at, physics_of, starting_shares
from rlsys.envs.randomise.ranges import NOTHING
from rlsys.envs.randomise.variants import check_effect, make_variant, plain
from rlsys.types import Timestep, UserError

STREAM = 0x70687973  # "phys": sets the random numbers of physics apart from others of a seed
LARGEST = 1e8  # observations and rewards must be smaller; MuJoCo gives up at 1e10 (mjMAXVAL)
TRIES = 20  # so many draws in a row may be refused
EXPLODED = "a number is not finite, or above 1e8"


class Draw(NamedTuple):
    """Records a draw of a group's physics."""

    group: int
    number: int  # counts the group's draws from 0, since the environments started afresh
    values: dict[str, float]  # the drawn number of each parameter, by its name
    refused: str  # why the draw was set aside; "" if it is played


class Group:
    """Some environments that share a draw of physics."""

    def __init__(self, index: int, share: int, rows: slice, seed: int, left: int):
        self.index = index  # the group's number among all groups
        self.share = share  # the group's number among the groups of its seed
        self.rows, self.seed = rows, seed
        self.left = left  # steps until its physics are drawn anew; 0 for never
        self.number = -1  # counts its draws: Draw.number of the latest
        self.due = False  # whether it is replaced at the next step
        self.numbers: np.ndarray  # [n] the latest draw, one number for each parameter
        # Where ranges are adapted: the boundary that its draw lies on, and what each environment
        # returned in its first episode there, NaN until it has ended.
        self.boundary: adapt.Boundary | None = None
        self.at = 0.0  # the boundary's share
        self.returns: np.ndarray
        self.envs: Any = None  # the back-end that plays it


class Groups(Backend):
    """Plays B environments of a task in groups. The rows of a group stand side by side.

    When a group's physics are to be drawn anew, its running episodes end as truncated, and its next
    step is a reset. Such episodes are left out of all statistics; running_episodes() tells them on
    their last step. The same happens to a group in which a simulation explodes: a number is not
    finite, or above LARGEST. The rows that exploded then show their last sound observation again. A
    draw on a boundary (adapt.py) is kept until each of its environments has ended an episode; an
    explosion ends the episodes of its whole group, which then count as failures.

    Attributes:
      drawn: [B, n] float32, the physics behind the last Timestep's observations. Each number says
        where the draw lies in its range, from -1, the lowest, to 1, the highest.
      drawn_names: the parameters' names.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        num_threads: int = 0,
        render: bool = False,
    ):
        """Makes the environments; make.make explains the arguments.

        Raises:
          UserError: the task's physics cannot be changed, a word fits nothing, or the drawn numbers
            do nothing to the task.
        """
        self._num_threads = num_threads
        self._physics = physics_of(plain(task), render)
        self.drawn_names = tuple(x.name for x in self._physics.parameters)
        self._draws: list[Draw] = []
        self._trials: list[adapt.Trial] = []
        self._ranges: adapt.Ranges | None = None
        if task.randomise.adapt:
            self._ranges = adapt.begin(starting_shares(self._physics))
        self._groups: list[Group] = []
        check_effect(plain(task))
        super().__init__(task, num_envs, seed, render=render)
        one = self._groups[0].envs
        self.observation_space, self.action_space = one.observation_space, one.action_space
        self.raw_observation_space = one.raw_observation_space
        self.raw_action_space = one.raw_action_space

    def _begin(self, seed: int | Sequence[int]) -> None:
        environment_seeds(self.num_envs, seed)  # raises if the seed cannot be used
        self.close()
        self._groups = []
        self._draws.clear()  # they were not played
        self._trials.clear()
        seeds, given = [seed] if isinstance(seed, int) else list(seed), self._task.randomise
        share = self.num_envs // len(seeds)
        num_groups = given.num_variants(share)
        for i, own in enumerate(seeds):
            for k, part in enumerate(np.array_split(np.arange(share) + i * share, num_groups)):
                left = -(-given.redraw_steps * (k + 1) // num_groups)  # one group after another
                rows = slice(int(part[0]), int(part[-1]) + 1)
                self._groups.append(Group(len(self._groups), k, rows, own, left))
        self.drawn = np.zeros((self.num_envs, len(self._physics.parameters)), np.float32)
        for group in self._groups:
            self._replace(group)
        self._unplayed = list(self._groups)
        self._started = False
        # [B] bool, the episodes that the last step cut; None where it cut none.
        self._cut: np.ndarray | None = None

    def _replace(self, group: Group) -> None:
        """Draws new physics for a group, and makes its environments with them.

        Raises:
          UserError: so many draws in a row as TRIES says are refused.
        """
        _close(group)
        reason = ""
        for _ in range(TRIES):
            group.number += 1
            key = (STREAM, group.share, group.number)
            sequence = np.random.SeedSequence(group.seed, spawn_key=key)
            u = self._shares(group, sequence)
            group.numbers = numbers_at(self._physics.parameters, u)
            try:
                group.envs = self._make_envs(group, int(sequence.spawn(1)[0].generate_state(1)[0]))
            except Refused as error:
                reason = str(error)
                self._draws.append(self._record(group, reason))
                continue
            self.drawn = self.drawn.copy()  # somebody may keep the last Timestep's
            self.drawn[group.rows] = 2 * u - 1
            return
        raise UserError(
            f"{TRIES} draws of the physics of {self.name!r} in a row cannot be played: {reason}"
        )

    def _shares(self, group: Group, sequence: np.random.SeedSequence) -> np.ndarray:
        """Draws shares [n] for a group; where ranges are adapted, perhaps on a boundary."""
        if self._ranges is None:
            return draw(self._physics.parameters, sequence)
        u = np.random.default_rng(sequence).random(len(self._physics.parameters) + 2)
        given = self._task.randomise
        shares, boundary = adapt.draw(self._ranges, u, boundary_share=given.boundary_share)
        group.boundary = boundary
        group.at = self._ranges.shares[boundary.parameter][boundary.side] if boundary else 0.0
        group.returns = np.full(group.rows.stop - group.rows.start, np.nan)
        return shares

    def _make_envs(self, group: Group, seed: int) -> Backend:
        """Makes the environments of a group.

        Raises:
          Refused: they cannot be made.
        """
        size = group.rows.stop - group.rows.start
        # One thread a group leaves cores idle while the last groups end: pairs of environments
        # share the cores better.
        cores = len(os.sched_getaffinity(0))
        fitting = max(1, cores // len(self._groups), min(cores, size // 2))
        threads = self._num_threads or fitting
        render = self._can_render and group.index == 0
        task = self._task._replace(randomise=NOTHING)
        return make_variant(
            task, self._physics, group.numbers, size, seed, num_threads=threads, render=render
        )

    def _record(self, group: Group, refused: str = "") -> Draw:
        values = dict(zip(self.drawn_names, group.numbers.tolist(), strict=True))
        return Draw(group.index, group.number, values, refused)

    def _reset(self) -> Any:
        """Starts new episodes everywhere; a group that explodes at once is replaced."""
        parts = [self._reset_group(group) for group in self._groups]
        for group in self._unplayed:
            self._draws.append(self._record(group))
        self._unplayed = []
        return join(parts)

    def _reset_group(self, group: Group) -> Any:
        """Starts new episodes in a group and returns their observations; the group is replaced
        until these are sound.

        Raises:
          UserError: so many draws in a row as TRIES says explode at once.
        """
        for _ in range(TRIES):
            obs = group.envs.reset().obs
            if all_well(obs):
                return obs
            size = group.rows.stop - group.rows.start
            self._explode(group, np.ones(size, bool), np.zeros(size))
            self._replace(group)
        raise UserError(f"{TRIES} draws of the physics of {self.name!r} in a row explode at once")

    def _step(self, action: np.ndarray) -> Played:
        playing = [x for x in self._groups if not x.due]
        envs = [x.envs for x in playing]
        if playing:
            envs[0].send_together(envs, [x.rows for x in playing], action)
        if len(playing) < len(self._groups):
            played = join([self._replaced(x) if x.due else x.envs.receive() for x in self._groups])
        else:
            played = envs[0].receive_together(envs)
        if not (all_well(played.obs) and all_well(played.reward)):
            played = self._set_aside(played, _well(played.obs) & _well(played.reward))
        for group in self._groups:
            group.left -= 1  # below 0 if a boundary kept the draw, or if it is never drawn anew
            late = group.left < 0 and self._ranges is not None
            if (group.left == 0 or late) and group.boundary is None:
                group.due = True
        self._cut = None
        if due := [x for x in self._groups if x.due]:
            self._cut = np.zeros(self.num_envs, bool)
            for group in due:
                self._cut[group.rows] = True
            self._cut &= ~(played.terminated | played.truncated | played.first)
        return played

    def _replaced(self, group: Group) -> Played:
        """Plays the first step of a group with new physics, which is a reset."""
        self._replace(group)
        obs = self._reset_group(group)
        self._draws.append(self._record(group))
        group.due, group.left = False, self._task.randomise.redraw_steps
        zeros = np.zeros(group.rows.stop - group.rows.start, np.float32)
        successes = None if self._successes is None else zeros
        return Played(obs, zeros == 0, zeros, zeros > 0, zeros > 0, successes)

    def _set_aside(self, played: Played, well: np.ndarray) -> Played:
        """Marks the groups in which a row exploded, to be replaced at the next step; such a row
        shows its last observation again, and gets reward 0.

        Args:
          well: [B] bool, False where a row exploded.
        """
        cut = ~(well & (played.terminated | played.truncated))
        for group in self._groups:
            if not well[group.rows].all():
                self._explode(group, cut[group.rows], self._return[group.rows])
                group.due = True

        def keep(now: Any, before: Any) -> Any:
            return np.where(well.reshape(-1, *[1] * (now.ndim - 1)), now, before)

        return Played(
            jax.tree.map(keep, played.obs, self._obs),
            played.first,
            np.where(well, played.reward, np.float32(0)),
            played.terminated & well,
            played.truncated & well,
            played.successes,
        )

    def _explode(self, group: Group, cut: np.ndarray, returns: np.ndarray) -> None:
        """Records that a group's draw is set aside. On a boundary the episodes that this cuts count
        as failures: where rewards are negative, a short episode would else be a success, and were
        they not counted, a boundary would be judged by what did not explode there.

        Args:
          cut: [n] bool, True where an environment's episode is cut.
          returns: [n] of the running episodes.
        """
        self._draws.append(self._record(group, EXPLODED))
        if group.boundary is not None:
            low = self._task.randomise.adapt_threshold_low
            assert low is not None, "Randomise has checked it"
            self._count(group, cut, np.minimum(returns, low))

    def step(self, action: np.ndarray) -> Timestep:
        if self._started and self._cut is not None:  # until now running_episodes() told of it
            self._return[self._cut] = 0
            self._length[self._cut] = 0
        timestep = super().step(action)
        if self._cut is None:
            return timestep
        return timestep._replace(truncated=timestep.truncated | self._cut)

    def _finish(self, ended: np.ndarray) -> None:
        for group in self._groups:
            if group.boundary is not None:
                self._count(group, ended[group.rows], self._return[group.rows])
        super()._finish(ended)

    def _count(self, group: Group, ended: np.ndarray, returns: np.ndarray) -> None:
        """Takes the return of each environment's first episode on a boundary, and tells the trial
        once all have one. Were later ones counted, or were the draw to end before, short
        episodes would be overcounted."""
        assert group.boundary is not None
        new = ended & np.isnan(group.returns)
        group.returns[new] = returns[new]
        if not np.isnan(group.returns).any():
            trial = adapt.Trial(group.boundary, group.at, tuple(group.returns.tolist()))
            self._trials.append(trial)
            group.boundary = None

    def set_ranges(self, ranges: adapt.Ranges) -> None:
        self._ranges = ranges

    def pop_trials(self) -> list[adapt.Trial]:
        trials, self._trials = self._trials, []
        return trials

    def pop_draws(self) -> list[Draw]:
        """Returns the draws that began to be played, or were refused, since the last call."""
        draws, self._draws = self._draws, []
        return draws

    def _draw(self) -> np.ndarray | None:
        return self._groups[0].envs._draw()

    @property
    def steps_per_second(self) -> float | None:
        return self._groups[0].envs.steps_per_second

    def close(self) -> None:
        for group in self._groups:
            _close(group)


def all_well(x: Any) -> bool:
    """Returns whether all floats of arrays are finite and smaller than LARGEST."""
    arrays = [x] if isinstance(x, np.ndarray) else jax.tree.leaves(x)
    floats = (array.ravel() for array in arrays if array.dtype.kind == "f")
    # Where the sum of squares is small enough, which takes one product to see, so are all numbers.
    with np.errstate(over="ignore", invalid="ignore"):
        return all(x @ x < LARGEST**2 or np.abs(x).max() < LARGEST for x in floats)  # NaN: False


def _well(x: Any) -> np.ndarray:
    """Returns [B] bool, whether all floats of a row are finite and smaller than LARGEST."""
    found: Any = True
    for array in jax.tree.leaves(x):
        if array.dtype.kind == "f":
            found &= (np.abs(array) < LARGEST).reshape(len(array), -1).all(-1)
    return np.broadcast_to(found, len(jax.tree.leaves(x)[0]))


def _close(group: Group) -> None:
    if group.envs is not None:
        group.envs.close()
    group.envs = None
