"""Replay in host memory: every step once, sequences as windows over them, a sum tree over those.

Each environment has a ring of its last steps. A sequence is a window of one ring (windows.py):
`burn_in` steps, `length` learned steps and one more observation. The recurrent state is kept at
window starts only. What a window holds past its segment's end is masked. Kapturowski et al. 2019,
section 2.3; there, sequences never cross an episode's end.

Sampling is proportional to priority^priority_exponent, importance weights are
(1 / P(i))^importance_exponent (Schaul et al. 2016, https://arxiv.org/abs/1511.05952, section 3);
the learner divides them by the largest of the whole batch.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.memory import check_replay, row_bytes
from rlsys.sum_tree import SumTree
from rlsys.types import CoreState, Sample, Timestep, Trajectory, UserError
from rlsys.windows import Complete, Windows

MIN_PRIORITY = 1e-6  # so that a sequence without error can still be drawn


class Steps(NamedTuple):
    """What is kept of each step, [B, S, ...]: the last S steps of B environments, as rings."""

    timestep: Timestep
    action: Any
    aux: Any


class Sequences(NamedTuple):
    """What is kept of each sequence, [M, ...]."""

    env: Any  # int64
    start: Any  # int64, step of the environment at which learning begins
    end: Any  # int64, step at which learning ends: start + length, or its segment's last
    complete: Any  # int64, step at which it was complete
    uses: Any  # int64, how often it was sampled
    lstm: Any  # recurrent state before the first step of burn-in


def _rings(tree, *shape):
    """Zeros of `shape` for each leaf [B, ...] of tree."""
    return jax.tree.map(lambda x: np.zeros((*shape, *x.shape[1:]), x.dtype), tree)


def _take(rings, rows):
    """Copies whole rows, as fast as memory does."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]).take(rows, axis=0), rings)


def _write(tree, index, values):
    jax.tree.map(lambda to, x: to.__setitem__(index, x), tree, values)


class Replay:
    """Holds the last `capacity` steps of environments that step together."""

    def __init__(
        self,
        timestep: Timestep,
        core_state: CoreState,
        aux: Any,
        *,
        num_envs: int,
        capacity: int,
        length: int,
        stride: int,
        burn_in: int = 0,
        cross_episodes: bool = False,
        priority_exponent: float = 0.9,
        importance_exponent: float = 0.6,
        seed: int | np.random.SeedSequence = 0,
    ):
        """The first three are examples of what add will bring: shapes [B, ...] and dtypes count.

        Args:
          timestep: of the environments.
          core_state: of the agent.
          aux: of the actor: a NamedTuple that is kept to compute initial priorities from, but for
            its field lstm, the recurrent state before each step, which is kept at window starts.
          num_envs: B.
          capacity: steps held, of all environments together.
          length: learned steps of a sequence.
          stride: steps from one sequence's start to the next.
          burn_in: steps before the learned ones, for the recurrent state.
          cross_episodes: let a sequence run on into the next episode.

        Raises:
          UserError: it takes more memory than there is, or does not hold two sequences of each
            environment.
        """
        self.num_envs = num_envs
        self._length, self._stride, self._burn_in = length, stride, burn_in
        self._priority_exponent = priority_exponent
        self._importance_exponent = importance_exponent
        self._random = np.random.default_rng(seed)

        self._frames = core_state.frames
        depth = max([0, *(x.shape[1] for x in jax.tree.leaves(core_state.frames))])
        self._before = max(depth, 1)  # steps needed before a window: frames, at least a_{t-1}
        self._size = capacity // self.num_envs  # S
        window = self._before + burn_in + length + 1
        if self._size < 2 * window:
            raise UserError(
                f"a replay of {capacity} steps holds {self._size} of each of {self.num_envs} "
                f"environments, but two sequences need {2 * window}"
            )
        self._capacity = num_envs * (self._size // stride + 1)  # M
        steps = Steps(timestep, core_state.a_tm1, aux._replace(lstm=()))
        number = np.zeros(1, np.int64)
        sequence = Sequences(number, number, number, number, number, core_state.lstm)
        self._made_with = {
            "capacity": capacity, "num_envs": num_envs, "length": length, "stride": stride,
            "burn_in": burn_in, "cross_episodes": cross_episodes,
        }  # fmt: skip
        self._windows = Windows(
            num_envs, core_state.lstm,
            length=length, stride=stride, burn_in=burn_in, cross_episodes=cross_episodes,
        )  # fmt: skip
        self.nbytes = self._size * num_envs * row_bytes(steps) + SumTree.nbytes(self._capacity)
        self.nbytes += self._capacity * row_bytes(sequence)
        self.memory = check_replay(self.nbytes, capacity)

        self._steps = _rings(steps, num_envs, self._size)
        self._now = 0  # steps that each environment has taken
        self._sequences = _rings(sequence, self._capacity)  # number i lies at i mod M
        self._oldest = self._newest = 0  # numbers of the sequences that are there
        self._priorities = SumTree(self._capacity)
        self._sampled = np.zeros(3)  # since `metrics`: count, sums of age and of uses

    def __len__(self) -> int:
        """Number of sequences held."""
        return self._newest - self._oldest

    def add(self, trajectory: Trajectory) -> tuple[np.ndarray, Trajectory, np.ndarray]:
        """Adds T steps of every environment; x_T comes with the next call, as its x_0.

        Args:
          trajectory: [T + 1, B, ...]; aux as in the example given at the start.

        Returns:
          numbers [W] of the sequences that are now complete, which are not sampled before
          set_priorities has given them their first; their learned steps, a Trajectory
          [length + 1, W', ...] without observations; its mask [length, W']. W' is the next multiple
          of B, for few compiled shapes; what it is filled up with is masked.
        """
        trajectory = jax.tree.map(np.asarray, trajectory)
        lstm, aux = trajectory.aux.lstm, trajectory.aux._replace(lstm=())
        num_steps = len(trajectory.action)
        slots = (self._now + np.arange(num_steps)) % self._size
        steps = Steps(jax.tree.map(lambda x: x[:-1], trajectory.steps), trajectory.action, aux)
        _write(self._steps, np.s_[:, slots], jax.tree.map(lambda x: x.swapaxes(0, 1), steps))
        newest = self._newest
        for t in range(num_steps):
            state = jax.tree.map(lambda x, t=t: x[t], lstm)
            for windows in self._windows.advance(self._now, trajectory.steps.first[t], state):
                self._append(windows)
            self._now += 1
        self._drop_overwritten()

        numbers = np.arange(max(newest, self._oldest), self._newest)
        filled = np.resize(numbers, -(-len(numbers) // self.num_envs) * self.num_envs)
        rows, learned = self._rows(filled, np.arange(self._length + 1))
        window = _take(self._steps._replace(timestep=self._steps.timestep._replace(obs=())), rows)
        mask = learned[:-1] & ~window.timestep.first[1:]
        mask[:, len(numbers) :] = False
        return numbers, Trajectory(window.timestep, window.action[:-1], window.aux, ()), mask

    def sample(self, batch_size: int) -> tuple[np.ndarray, Sample]:
        """Draws sequences [B] in proportion to priority^priority_exponent, with replacement.

        Returns:
          their numbers, for set_priorities; and the Sample, of burn_in + length + 1 steps.
        """
        mass = self._random.random(batch_size) * self._priorities.total
        index = self._priorities.find(mass)
        numbers = self._oldest + (index - self._oldest) % self._capacity
        np.add.at(self._sequences.uses, index, 1)
        age = (self._now - self._sequences.complete[index]) * self.num_envs
        self._sampled += batch_size, age.sum(), self._sequences.uses[index].sum()
        weights = (self._priorities.total / self._priorities[index]) ** self._importance_exponent

        rows, learned = self._rows(numbers, np.arange(-self._burn_in, self._length + 1))
        steps = _take(self._steps._replace(aux=()), rows)
        mask = learned[:-1] & ~steps.timestep.first[1:]  # rule 1
        trajectory = Trajectory(
            steps.timestep, steps.action[:-1], (), self._core_state(numbers, index)
        )
        return numbers, Sample(trajectory, mask, np.float32(weights))

    def set_priorities(self, numbers: np.ndarray, priorities: np.ndarray) -> None:
        """Gives sequences their priority, before the exponent; those overwritten are left out."""
        priorities = np.maximum(np.asarray(priorities, np.float64), MIN_PRIORITY)
        if not np.isfinite(priorities).all():
            raise ValueError(f"priorities must be finite numbers: {priorities}")
        held = numbers >= self._oldest
        self._priorities.set(
            numbers[held] % self._capacity, priorities[held] ** self._priority_exponent
        )

    def metrics(self) -> dict[str, float]:
        """Means over the samples since the last call: their age and how often each was used."""
        samples, self._sampled = self._sampled, np.zeros(3)
        count = max(samples[0], 1)
        return {
            "replay/sequences": float(len(self)),
            "replay/sample_age": samples[1] / count,  # environment steps since it was complete
            "replay/sample_uses": samples[2] / count,
        }

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays (only what is in use of them) and counters, for a checkpoint."""
        steps = jax.tree.map(lambda x: x[:, : self._now], self._steps)
        sequences = jax.tree.map(lambda x: x[: self._newest], self._sequences)
        priorities = self._priorities[np.arange(min(self._newest, self._capacity))]
        windows = (self._windows.segment, self._windows.start, self._windows.lstm)
        tree = (steps, sequences, windows, priorities)
        arrays = {
            jax.tree_util.keystr(path, simple=True, separator="."): x
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }
        counters = {"now": self._now, "oldest": self._oldest, "newest": self._newest}
        random = self._random.bit_generator.state
        return arrays, {**counters, "made_with": self._made_with, "random": random}

    def restore(self, arrays: dict[str, np.ndarray], counters: dict[str, Any]) -> None:
        """Takes on what `state` gave.

        Raises:
          UserError: it is of a Replay that was made with other arguments.
        """
        if counters["made_with"] != self._made_with:
            raise UserError(
                f"the replay was saved with {counters['made_with']}, and cannot be restored with "
                f"{self._made_with}"
            )
        priorities = np.zeros(min(counters["newest"], self._capacity))
        windows = (self._windows.segment, self._windows.start, self._windows.lstm)
        tree = (self._steps, self._sequences, windows, priorities)
        for path, to in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            saved = np.asarray(arrays[name])
            to[tuple(slice(n) for n in saved.shape)] = saved
        self._now, self._oldest = counters["now"], counters["oldest"]
        self._newest = counters["newest"]
        self._random.bit_generator.state = counters["random"]
        self._priorities.set(np.arange(len(priorities)), priorities)

    def _append(self, windows: Complete) -> None:
        """Makes sequences of complete windows [W]; without priority, they are not sampled yet."""
        number = self._newest + np.arange(len(windows.env))
        now, uses = np.full_like(number, self._now), np.zeros_like(number)
        sequences = Sequences(windows.env, windows.start, windows.end, now, uses, windows.lstm)
        _write(self._sequences, number % self._capacity, sequences)
        self._priorities.set(number % self._capacity, np.zeros(len(number)))
        self._newest += len(number)

    def _drop_overwritten(self) -> None:
        """Forgets sequences of which a step, or the entry itself, has been overwritten."""
        # A sequence that was complete at step c begins at c - length - 1 at the earliest, and
        # numbers are given in the order of c.
        reach = self._before + self._burn_in + self._length + 1
        oldest = max(self._oldest, self._newest - self._capacity)
        while oldest < self._newest and (
            self._sequences.complete[oldest % self._capacity] - reach < self._now - self._size
        ):
            oldest += 1
        dropped = np.arange(max(self._oldest, self._newest - self._capacity), oldest)
        self._priorities.set(dropped % self._capacity, np.zeros(len(dropped)))
        self._oldest = oldest

    def _rows(self, numbers: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where steps lie, and if they are learned: both [T, N].

        Args:
          numbers: [N] of sequences.
          offsets: [T] of steps from the sequences' starts.

        What lies past a segment's end is another episode's, or older, and never learned.
        """
        index = numbers % self._capacity
        start, end = self._sequences.start[index], self._sequences.end[index]
        at = start + offsets[:, None]
        rows = self._sequences.env[index] * self._size + at % self._size
        return rows, (at >= start) & (at < end)

    def _core_state(self, numbers: np.ndarray, index: np.ndarray) -> CoreState:
        """What the agent remembered before the first step of burn-in, [N, ...]."""
        before = np.arange(-self._burn_in - self._before, -self._burn_in)
        rows, _ = self._rows(numbers, before)
        obs, frames = self._steps.timestep.obs, self._frames
        if isinstance(frames, dict):
            obs = {name: obs[name] for name in frames}
        frames = jax.tree.map(
            lambda x, ring: _take(ring, rows[len(rows) - x.shape[1] :]).swapaxes(0, 1), frames, obs
        )
        first = _take(self._steps.timestep.first, rows)[::-1]  # from x_{t-1} backwards
        age = np.where(first.any(axis=0), first.argmax(axis=0) + 1, len(first))
        lstm = jax.tree.map(lambda x: x[index], self._sequences.lstm)
        return CoreState(lstm, _take(self._steps.action, rows[-1]), frames, np.int32(age))
