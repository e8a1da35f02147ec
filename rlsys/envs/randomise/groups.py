"""Groups: environments of one task, each group of which has physics of its own.

EnvPool reads a task's XML when a pool is made, so a draw of physics lasts as long as its pool: for
`redraw_steps` steps, which are many episodes, and not for one episode as in OpenAI et al. 2018,
section 3.3. Then one group is replaced, while the others go on.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.envs.backend import Backend, Played, environment_seeds
from rlsys.envs.options import Task
from rlsys.envs.randomise import adapt
from rlsys.envs.randomise.model import Refused
from rlsys.envs.randomise.physics import draw, numbers_at, physics_of, starting_shares
from rlsys.envs.randomise.ranges import NOTHING
from rlsys.envs.randomise.variants import check_effect, make_variant, plain
from rlsys.types import Timestep, UserError

STREAM = 0x70687973  # of a seed's random numbers, for physics alone: "phys"
LARGEST = 1e8  # of an observation or a reward; MuJoCo itself gives up at 1e10 (mjMAXVAL)
TRIES = 20  # draws in a row that may be refused
EXPLODED = "a number is not finite, or above 1e8"


class Draw(NamedTuple):
    """Records a draw of a group's physics."""

    group: int
    number: int  # of the group's draws since the environments started afresh, from 0
    values: dict[str, float]  # the number that was drawn, by the parameter's name
    refused: str  # why it was set aside; "" of those that are played


class Group:
    """Some environments that share a draw of physics."""

    def __init__(self, index: int, share: int, rows: slice, seed: int, left: int):
        self.index = index  # among all groups
        self.share = share  # among the groups of its seed
        self.rows, self.seed = rows, seed
        self.left = left  # steps until its physics are drawn anew; 0 for never
        self.number = -1  # of its draw
        self.due = False  # it is replaced at the next step
        self.numbers: np.ndarray  # [n] drawn
        # Where ranges are adapted: the boundary that its draw lies on, and what each environment
        # returned in its first episode there, NaN until it has ended.
        self.boundary: adapt.Boundary | None = None
        self.at = 0.0  # the boundary's share
        self.returns: np.ndarray
        self.envs: Any = None  # a back-end's


class Groups(Backend):
    """Plays B environments of a task in groups. The rows of a group stand side by side.

    A group whose physics are due to be drawn anew ends its running episodes as truncated, and its
    next step is a reset; such episodes are counted nowhere. The same holds where a simulation
    explodes: of those rows the last observation that was well is shown again. A draw on a boundary
    (adapt.py) is not due before each of its environments has ended an episode.

    Attributes:
      drawn: [B, n] float32, the physics that made the last Timestep's observations, each number on
        the scale of its range, from -1 to 1.
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
          UserError: the task's physics cannot be changed, a word fits nothing, or what is drawn
            does nothing to the task.
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
        environment_seeds(self.num_envs, seed)  # checks it
        self.close()
        self._groups = []
        self._draws.clear()  # nobody has played them
        self._trials.clear()
        seeds, given = [seed] if isinstance(seed, int) else list(seed), self._task.randomise
        share = self.num_envs // len(seeds)
        num_groups = min(given.variants, share)
        for i, own in enumerate(seeds):
            for k, part in enumerate(np.array_split(np.arange(share) + i * share, num_groups)):
                left = -(-given.redraw_steps * (k + 1) // num_groups)  # not all at once
                rows = slice(int(part[0]), int(part[-1]) + 1)
                self._groups.append(Group(len(self._groups), k, rows, own, left))
        self.drawn = np.zeros((self.num_envs, len(self._physics.parameters)), np.float32)
        for group in self._groups:
            self._replace(group)
        self._unplayed = list(self._groups)
        self._started = False

    def _replace(self, group: Group) -> None:
        """Makes a group's environments anew, with new physics.

        Raises:
          UserError: TRIES draws in a row are refused.
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
            self.drawn = self.drawn.copy()  # the last Timestep's may be kept by somebody
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
        threads = self._num_threads or max(1, len(os.sched_getaffinity(0)) // len(self._groups))
        render = self._can_render and group.index == 0
        task = self._task._replace(randomise=NOTHING)
        return make_variant(
            task, self._physics, group.numbers, size, seed, num_threads=threads, render=render
        )

    def _record(self, group: Group, refused: str = "") -> Draw:
        values = dict(zip(self.drawn_names, group.numbers.tolist(), strict=True))
        return Draw(group.index, group.number, values, refused)

    def _reset(self) -> Any:
        """Starts new episodes everywhere; a group that explodes on the spot is replaced."""
        parts = [self._reset_group(group) for group in self._groups]
        for group in self._unplayed:
            self._draws.append(self._record(group))
        self._unplayed = []
        return _join(parts)

    def _reset_group(self, group: Group) -> Any:
        """Starts new episodes in a group and returns their observations; replaces it until they are
        well.

        Raises:
          UserError: TRIES draws in a row explode.
        """
        for _ in range(TRIES):
            obs = group.envs.reset().obs
            if _well(obs).all():
                return obs
            self._draws.append(self._record(group, EXPLODED))
            self._replace(group)
        raise UserError(f"{TRIES} draws of the physics of {self.name!r} in a row explode at once")

    def _step(self, action: np.ndarray) -> Played:
        for group in self._groups:
            if not group.due:
                group.envs.send(action[group.rows])
        parts = [self._replaced(x) if x.due else x.envs.receive() for x in self._groups]
        played = Played(*(_join([getattr(x, name) for x in parts]) for name in Played._fields))
        self._cut = np.zeros(self.num_envs, bool)
        well = _well(played.obs) & _well(played.reward)
        if not well.all():
            played = self._set_aside(played, well)
        for group in self._groups:
            group.left -= 1
            late = group.left < 0 and self._ranges is not None
            if (group.left == 0 or late) and group.boundary is None:
                group.due = True
            self._cut[group.rows] |= group.due
        self._cut &= ~(played.terminated | played.truncated | played.first)
        return played

    def _replaced(self, group: Group) -> Played:
        """Plays the first step of a group with new physics, which is a reset."""
        self._replace(group)
        obs = self._reset_group(group)
        self._draws.append(self._record(group))
        group.due, group.left = False, self._task.randomise.redraw_steps
        zeros = np.zeros(group.rows.stop - group.rows.start, np.float32)
        return Played(obs, zeros == 0, zeros, zeros > 0, zeros > 0)

    def _set_aside(self, played: Played, well: np.ndarray) -> Played:
        """Has the groups of rows that are not well replaced at the next step, and shows of these
        rows what they showed before."""
        for group in self._groups:
            if not well[group.rows].all():
                self._draws.append(self._record(group, EXPLODED))
                group.due = True

        def keep(now: Any, before: Any) -> Any:
            return np.where(well.reshape(-1, *[1] * (now.ndim - 1)), now, before)

        return Played(
            jax.tree.map(keep, played.obs, self._obs),
            played.first,
            np.where(well, played.reward, np.float32(0)),
            played.terminated & well,
            played.truncated & well,
        )

    def step(self, action: np.ndarray) -> Timestep:
        started = self._started
        timestep = super().step(action)
        if not (started and self._cut.any()):
            return timestep
        self._return[self._cut] = 0
        self._length[self._cut] = 0
        return timestep._replace(truncated=timestep.truncated | self._cut)

    def _finish(self, ended: np.ndarray) -> None:
        for group in self._groups:
            if group.boundary is not None:
                self._count(group, ended[group.rows])
        super()._finish(ended)

    def _count(self, group: Group, ended: np.ndarray) -> None:
        """Takes the return of each environment's first episode on a boundary, and tells the trial
        once all have one. Were later ones counted, or were the draw to end before, short
        episodes would be overcounted."""
        assert group.boundary is not None
        new = ended & np.isnan(group.returns)
        group.returns[new] = self._return[group.rows][new]
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


def _join(parts: list[Any]) -> Any:
    """Joins arrays, or trees of them, along the environments."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _well(x: Any) -> np.ndarray:
    """Returns [B] whether all numbers of a row are finite, and smaller than LARGEST."""
    found: Any = True
    for array in jax.tree.leaves(x):
        if array.dtype.kind == "f":
            found &= (np.abs(array) < LARGEST).reshape(len(array), -1).all(-1)
    return np.broadcast_to(found, len(jax.tree.leaves(x)[0]))


def _close(group: Group) -> None:
    if group.envs is not None:
        group.envs.close()
    group.envs = None
