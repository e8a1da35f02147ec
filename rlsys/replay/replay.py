"""Replay keeps each step once, in host memory; its sequences are windows over steps.

Each environment has a ring of its last S steps. A sequence is a window of one ring (windows.py):
`burn_in` steps, `length` learned steps, `lookahead` steps that only returns read, and one more
observation. Its number, start * B + env, says where its learning starts. A sum tree holds the
priorities, with one leaf for each stored step and the sequence that starts there: however short the
episodes are, there is room for every sequence. The recurrent state is kept at most once in `stride`
steps, in a ring of its own. This is Kapturowski et al. 2019, section 2.3, except that in the paper
sequences never cross an episode's end.

Sampling is proportional to priority^priority_exponent; importance weights are
(1 / P(i))^importance_exponent (Schaul et al. 2016, https://arxiv.org/abs/1511.05952, section 3);
the learner divides them by the largest of the whole batch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.replay import rings, windows
from rlsys.replay.memory import check_replay, row_bytes
from rlsys.replay.sum_tree import SumTree
from rlsys.types import CoreState, Sample, Timestep, Trajectory, UserError

MIN_PRIORITY = 1e-6  # lets a sequence without error still be drawn


class Steps(NamedTuple):
    """Holds the last S steps of B environments, as rings [B, S, ...]."""

    timestep: Timestep
    action: Any
    learns: Any  # bool, the learner's own policy chose the action
    aux: Any


class Starts(NamedTuple):
    """Holds, for each step [B, S], figures of the sequence whose learning starts there."""

    learned: Any  # int32, steps it learns; 0 where no sequence starts or it can no longer be drawn
    uses: Any  # int32, how often it was sampled


class Replay:
    """Holds the last `capacity` steps of environments that step together, and draws sequences."""

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
        lookahead: int = 0,
        cross_episodes: bool = False,
        priority_exponent: float = 0.9,
        importance_exponent: float = 0.6,
        seed: int | np.random.SeedSequence = 0,
    ):
        """Allocate the rings. Only the dtypes and shapes [N, ...] of the first three matter, not N.

        Args:
          timestep: an example of what environments give.
          core_state: an example of the agent's state.
          aux: an example of what act gives: a NamedTuple, kept to compute initial priorities.
            Its field lstm, the recurrent state before each step, is kept where a sequence needs it.
          num_envs: B.
          capacity: steps held, of all environments together.
          length: learned steps of a sequence.
          stride: steps from one sequence's start to the next one's.
          burn_in: steps before the learned ones, which warm up the recurrent state.
          lookahead: steps after the learned ones, which their returns read. With length 1, stride 1
            and lookahead n - 1 a sequence is an n-step transition.
          cross_episodes: let a sequence run on into the next episode; a lookahead needs it.
          priority_exponent, importance_exponent, seed: alpha, beta and the seed of the draws.

        Raises:
          UserError: it takes more memory than is free, or holds fewer than two sequences of each
            environment.
          ValueError: it has a lookahead, and sequences may not run on into the next episode.
        """
        if lookahead and not cross_episodes:  # each episode's last steps would be lost
            raise ValueError("a lookahead needs cross_episodes")
        self.num_envs = num_envs
        self._length, self._stride, self._burn_in = length, stride, burn_in
        self._ahead = length + lookahead  # T'
        self._cross_episodes = cross_episodes
        self._priority_exponent = priority_exponent
        self._importance_exponent = importance_exponent
        self._random = np.random.default_rng(seed)

        self._frames = core_state.frames
        depth = max([0, *(x.shape[1] for x in jax.tree.leaves(core_state.frames))])
        self._before = max(depth, 1)  # steps read before a window: for frames and a_{t-1}
        self._size = capacity // self.num_envs  # S
        window = self._before + burn_in + self._ahead + 1
        if self._size < 2 * window:
            raise UserError(
                f"a replay of {capacity} steps holds {self._size} of each of {self.num_envs} "
                f"environments, but two sequences need {2 * window}"
            )
        steps = Steps(timestep, core_state.a_tm1, np.zeros(1, bool), aux._replace(lstm=()))
        starts = Starts(np.zeros(1, np.int32), np.zeros(1, np.int32))
        # States that sequences need lie `stride` steps apart or more, even across segments.
        self._num_states = self._size // stride + 2
        self._made_with = {
            "capacity": capacity, "num_envs": num_envs, "length": length, "stride": stride,
            "burn_in": burn_in, "lookahead": lookahead, "cross_episodes": cross_episodes,
        }  # fmt: skip
        held = self._size * num_envs
        self.nbytes = held * (row_bytes(steps) + row_bytes(starts)) + SumTree.nbytes(held)
        self.nbytes += self._num_states * num_envs * row_bytes(core_state.lstm)
        self.memory = check_replay(self.nbytes, capacity)

        self._steps = rings.zeros(steps, num_envs, self._size)
        self._starts = rings.zeros(starts, num_envs, self._size)
        self._states = rings.zeros(core_state.lstm, num_envs, self._num_states)
        self._priorities = SumTree(held)  # leaf env * S + start % S
        self._now = 0  # steps that each environment has taken
        self._segment = np.zeros(num_envs, np.int64)  # of the last step: see windows.py
        self._sampled = np.zeros(3)  # since `metrics`: count, sums of age and of uses

    def __len__(self) -> int:
        """Count the sequences that can be drawn."""
        return int(np.count_nonzero(self._priorities.leaves))

    @property
    def _oldest(self) -> int:
        """Return the oldest start whose sequence still finds all steps that it reads."""
        return self._now - self._size + self._burn_in + self._before

    def add(self, trajectory: Trajectory) -> tuple[np.ndarray, Trajectory, np.ndarray]:
        """Add T steps of every environment; x_T comes with the next call, as its x_0.

        Args:
          trajectory: [T + 1, B, ...]; its aux is like the example given at the start.

        Returns:
          numbers [W] of the sequences that are now complete, which can be drawn once set_priorities
          has given them a priority, except those that learn nothing; their steps from the first
          learned one on, a Trajectory [T' + 1, W', ...] without observations, T' = length +
          lookahead; the mask [T', W'] of learned steps. W' is W rounded up to a multiple of B, so
          that few shapes are compiled; the columns beyond W are masked.
        """
        trajectory = jax.tree.map(np.asarray, trajectory)
        lstm, aux = trajectory.aux.lstm, trajectory.aux._replace(lstm=())
        num_steps, now = len(trajectory.action), self._now
        found = windows.find(
            self._segment, now, trajectory.steps.first[:-1],
            length=self._ahead, stride=self._stride, burn_in=self._burn_in,
            cross_episodes=self._cross_episodes,
        )  # fmt: skip
        self._forget(num_steps)
        self._now, self._segment = now + num_steps, found.segment

        slots = (now + np.arange(num_steps)) % self._size
        learns = np.ones(trajectory.action.shape[:2], bool)
        if not isinstance(trajectory.learns, tuple):
            learns = trajectory.learns
        timesteps = jax.tree.map(lambda x: x[:-1], trajectory.steps)
        steps = Steps(timesteps, trajectory.action, learns, aux)
        rings.write(self._steps, np.s_[:, slots], jax.tree.map(lambda x: x.swapaxes(0, 1), steps))
        states = jax.tree.map(lambda x: x[found.state_at - now, found.state_env], lstm)
        rings.write(self._states, (found.state_env, self._state_slot(found.state_at)), states)
        held = found.start >= self._oldest
        env, start = found.env[held], found.start[held]
        learned = np.minimum(found.learned[held], self._length)

        filled = np.resize(np.arange(len(env)), -(-len(env) // self.num_envs) * self.num_envs)
        offsets = np.arange(self._ahead + 1)
        rows = self._rows(env[filled], start[filled], offsets)
        window = rings.take(
            self._steps._replace(timestep=self._steps.timestep._replace(obs=())), rows
        )
        mask = offsets[:-1, None] < learned[filled]
        mask &= ~window.timestep.first[1:] & window.learns[:-1]  # rules 1 and 3 in types.py
        mask[:, len(env) :] = False
        learned = np.where(mask[:, : len(env)].any(axis=0), learned, 0)
        rings.write(
            self._starts, (env, start % self._size), Starts(learned, np.zeros_like(learned))
        )
        window = Trajectory(window.timestep, window.action[:-1], window.aux, ())
        return start * self.num_envs + env, window, mask

    def sample(self, batch_size: int) -> tuple[np.ndarray, Sample]:
        """Draw batch_size sequences in proportion to priority^priority_exponent, with replacement.

        Returns:
          their numbers [batch_size], for set_priorities; the Sample, of burn_in + T' + 1 steps.
        """
        mass = self._random.random(batch_size) * self._priorities.total
        leaf = self._priorities.find(mass)
        env, slot = np.divmod(leaf, self._size)
        start = self._now - 1 - (self._now - 1 - slot) % self._size
        learned, uses = self._starts.learned[env, slot], self._starts.uses
        np.add.at(uses, (env, slot), 1)
        # Steps since a sequence was complete: at its last step, or at the next segment's first.
        age = self._now - (start + learned + self._ahead - self._length + (learned < self._length))
        self._sampled += batch_size, age.sum() * self.num_envs, uses[env, slot].sum()
        probability = self._priorities.leaves[leaf] / self._priorities.total
        weights = probability**-self._importance_exponent

        offsets = np.arange(-self._burn_in, self._ahead + 1)
        steps = rings.take(self._steps._replace(aux=()), self._rows(env, start, offsets))
        mask = (offsets[:-1, None] >= 0) & (offsets[:-1, None] < learned)
        mask &= ~steps.timestep.first[1:] & steps.learns[:-1]  # rules 1 and 3
        forgotten = steps.timestep.first[: self._burn_in + 1].any(axis=0)
        core_state = self._core_state(env, start - self._burn_in, forgotten)
        trajectory = Trajectory(steps.timestep, steps.action[:-1], (), core_state)
        return start * self.num_envs + env, Sample(trajectory, mask, np.float32(weights))

    def set_priorities(self, numbers: np.ndarray, priorities: np.ndarray) -> None:
        """Set priorities [W] of sequences [W], before the exponent; lost sequences are skipped.

        Raises:
          ValueError: a priority is no finite number.
        """
        priorities = np.maximum(np.asarray(priorities, np.float64), MIN_PRIORITY)
        if not np.isfinite(priorities).all():
            raise ValueError(f"priorities must be finite numbers: {priorities}")
        start, env = np.divmod(numbers, self.num_envs)
        slot = start % self._size
        held = (start >= self._oldest) & (start < self._now) & (self._starts.learned[env, slot] > 0)
        self._priorities.set(
            (env * self._size + slot)[held], priorities[held] ** self._priority_exponent
        )

    def metrics(self) -> dict[str, float]:
        """Return figures of the replay by name; means are over samples since the last call."""
        samples, self._sampled = self._sampled, np.zeros(3)
        count = max(samples[0], 1)
        return {
            "replay/sequences": float(len(self)),  # number that can be drawn
            "replay/drawable_share": self._drawable_share(),
            "replay/sample_age": samples[1] / count,  # environment steps since one was complete
            "replay/sample_uses": samples[2] / count,
        }

    def _drawable_share(self) -> float:
        """Return the share of the agent's stored steps that some drawable sequence learns from."""
        num = min(self._now, self._size)
        slots = np.arange(self._now - num, self._now) % self._size  # from the oldest step on
        env, start = np.nonzero(self._priorities.leaves.reshape(self.num_envs, -1)[:, slots])
        learned = self._starts.learned[env, slots[start]]
        covered = windows.covered((self.num_envs, num), env, start, learned)
        # Only the next step will tell whether the newest one is the agent's or a reset's.
        agents = ~self._steps.timestep.first[:, slots[1:]]
        return float((covered[:, :-1] & agents).sum() / max(agents.sum(), 1))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays (their used part only) and the counters, for a checkpoint."""
        priorities = self._priorities.leaves.reshape(self.num_envs, self._size)
        used = jax.tree.map(lambda x: x[:, : self._now], (self._steps, self._starts, priorities))
        leaves = jax.tree_util.tree_leaves_with_path((*used, self._states, self._segment))
        arrays = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}
        random = self._random.bit_generator.state
        counters = {"now": self._now, "made_with": self._made_with, "random": random}
        return arrays, counters | {"priority_exponent": self._priority_exponent}

    def restore(self, arrays: Mapping[str, np.ndarray], counters: dict[str, Any]) -> None:
        """Restore what `state` returned.

        Args:
          arrays: by name. If it has copy_to(array, name), as a tree on the disk has, that copies
            into the rings, so that no array is in memory twice.
          counters: as `state` returned them.

        Raises:
          UserError: they come from a Replay that was made with other arguments. Only the seed and
            the exponents may differ, but priority_exponent 0 kept no priorities to go on with.
        """
        if counters["made_with"] != self._made_with:
            raise UserError(
                f"the replay was saved with {counters['made_with']}, and cannot be restored with "
                f"{self._made_with}"
            )
        exponent = self._priority_exponent
        before = counters.get("priority_exponent", exponent)
        if exponent and not before:
            raise UserError(
                f"the replay was saved with priority_exponent 0, which keeps no priorities, so it "
                f"cannot be restored with {exponent}"
            )
        priorities = np.zeros((self.num_envs, self._size))
        tree = (self._steps, self._starts, priorities, self._states, self._segment)
        for path, to in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if hasattr(arrays, "copy_to"):
                arrays.copy_to(to, name)
                continue
            saved = np.asarray(arrays[name])
            to[tuple(slice(n) for n in saved.shape)] = saved
        self._now = counters["now"]
        self._random.bit_generator.state = counters["random"]
        leaves = np.flatnonzero(priorities)
        changed = exponent / before if before else 1.0
        self._priorities.set(leaves, priorities.ravel()[leaves] ** changed)

    def _forget(self, num_steps: int) -> None:
        """Forget the sequences that read steps which num_steps new ones will overwrite."""
        slots = (self._oldest + np.arange(min(num_steps, self._size))) % self._size
        self._starts.learned[:, slots] = 0
        leaves = np.arange(self.num_envs)[:, None] * self._size + slots
        leaves = leaves[self._priorities.leaves[leaves] > 0]
        self._priorities.set(leaves, np.zeros(len(leaves)))

    def _rows(self, env: np.ndarray, start: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the rows [T, N] of steps at offsets [T] from start [N] of env [N]."""
        return env * self._size + (start + offsets[:, None]) % self._size

    def _state_slot(self, t: np.ndarray) -> np.ndarray:
        """Return the place in its ring of the recurrent state before step t."""
        return t // self._stride % self._num_states

    def _core_state(self, env: np.ndarray, t: np.ndarray, forgotten: np.ndarray) -> CoreState:
        """Return what the agents of env [N] remembered before steps t [N].

        forgotten: [N] True where the recurrent state is unused, and perhaps not kept: gives zeros.
        """
        rows = self._rows(env, t, np.arange(-self._before, 0))
        obs, frames = self._steps.timestep.obs, self._frames
        if isinstance(frames, dict):
            obs = {name: obs[name] for name in frames}
        frames = jax.tree.map(
            lambda x, ring: rings.take(ring, rows[len(rows) - x.shape[1] :]).swapaxes(0, 1),
            frames,
            obs,
        )
        first = rings.take(self._steps.timestep.first, rows)[::-1]  # from x_{t-1} backwards
        age = np.where(first.any(axis=0), first.argmax(axis=0) + 1, len(first))
        lstm = rings.take(self._states, env * self._num_states + self._state_slot(t))
        for x in jax.tree.leaves(lstm):
            x[forgotten] = 0
        return CoreState(lstm, rings.take(self._steps.action, rows[-1]), frames, np.int32(age))
