"""Actors: they play with a recent copy of the parameters and hand over trajectories."""

import collections
import concurrent.futures
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlsys import streams
from rlsys.acting.adaptation import Adaptation
from rlsys.acting.opponents import Opponents, Pool, Result
from rlsys.acting.seats import Seats
from rlsys.acting.unroll import ActorState, Timer, Unroll, unroll
from rlsys.envs import Envs, Episode, make
from rlsys.envs.randomise.adapt import Ranges, Trial
from rlsys.envs.randomise.groups import Draw
from rlsys.envs.wrappers import left_exact
from rlsys.learning import hosts, learner
from rlsys.types import Policy, Trajectory, UserError, map_arrays


def seeds(configs: Sequence[Any], checkpoint: int) -> list[list[int]]:
    """Returns the seeds [actors][configs] of the environments of this process's actors, from the
    Configs' seeds and the number of the checkpoint at which they start afresh, 0 at the run's
    start."""
    words = []
    for c in configs:
        sequence = streams.sequence(c.seed, "environments", checkpoint)
        everyones = sequence.generate_state(c.actors * hosts.count())
        words.append(everyones[hosts.local_slice(c.actors)])
    return np.transpose(words).tolist()


def make_envs(*configs: Any) -> list[Envs]:
    """Makes the environments of this process's actors, config.num_envs shared out equally; actor i
    plays the run's task i % num_tasks. With several Configs, a sweep's, each actor gets the shares
    of all, in order.

    Raises:
      UserError: see make.make; or the policy would read exactly what noise hides from it.
    """
    config = configs[0]
    share = config.num_envs // config.actors * len(configs)
    dealt = zip(itertools.cycle(config.tasks), seeds(configs, 0), strict=False)
    found = [make(task, share, seed) for task, seed in dealt]
    hidden = getattr(config, "privileged", ())
    for envs in found:
        if exact := [key for key in left_exact(envs) if key not in hidden]:
            raise UserError(
                f"the noise leaves {exact[0]} of {envs.name!r} exact, and so would hide nothing "
                f"from the policy: impala and ppo hide that array with --privileged {exact[0]} and "
                f"--separate-networks True"
            )
    return found


class Actors:
    """Some actors, each with its share of the environments and a thread of its own.

    Attributes:
      envs: one Envs for each actor.
      states: the ActorState of each after its last unroll that was handed over.

    If config.unrolls_ahead is 0, actors and learner take turns, and a run repeats itself to the
    bit: a round is one unroll of every actor with the same parameters, and begins when the learner
    has taken all of the last round. Otherwise every actor plays that many unrolls ahead of the
    learner, and a run repeats itself too, as the parameters of an unroll are settled when it is
    asked for. One case does not repeat itself: with several tasks, if get() does not join one
    unroll of each actor, it takes first what was finished first, so that a fast task never waits
    for a slow one.
    """

    def __init__(
        self,
        envs: list[Envs],
        policies: Sequence[Policy],
        initial: Callable,
        config: Any,
        timer: Timer,
        join: int | None = None,
        members: Sequence[Any] = (),
        *,
        opponents: Opponents | None = None,
        adaptation: Adaptation | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ):
        """Makes an actor for each of envs.

        Args:
          envs: one Envs for each actor. Tasks are numbered as they first appear.
          policies: one for each actor.
          initial: number of environments -> CoreState.
          config: with seed, actors, actor_devices, unroll_length, refresh_steps (of each
            environment, from a copy of the parameters to the next) and unrolls_ahead.
          join: number of unrolls that get() joins into one (if unrolls_ahead is 0, a divisor of the
            number of actors); if None one of each actor.
          members: Configs of a sweep's members, as make_envs took them; the keys that policies take
            are then [members].
          opponents: the past selves to play against, by config.self_play; None where there are
            none.
          adaptation: the ranges of the physics, where they widen; else None.
          stopping: tells, before each step, whether unrolls are to be broken off.
        """
        self._join_size = len(envs) if join is None else join
        possible = list(range(1, len(envs) + 1))
        if config.unrolls_ahead == 0:
            possible = [n for n in possible if len(envs) % n == 0]
        if self._join_size not in possible:
            raise UserError(f"{len(envs)} actors' unrolls cannot be joined {join} at a time")
        num_keys = len(envs) * hosts.count()
        roots = [streams.key(c.seed, "actions") for c in members or [config]]
        each = [jax.random.split(root, num_keys) for root in roots]
        keys = jnp.stack(each, axis=1) if members else each[0]  # [actors, ...]
        self.envs = envs
        self.states = [
            ActorState(e.reset(), initial(e.num_envs), key)
            for e, key in zip(envs, keys[hosts.local_slice(len(envs))], strict=True)
        ]
        self._running = [*self.states]  # each thread's own, after the unrolls that it has played
        names = list(dict.fromkeys(e.name for e in envs))
        self._task_ids = [np.full(e.num_envs, names.index(e.name), np.int32) for e in envs]
        self._policies, self._config, self._timer = policies, config, timer
        self._members, self._stopping = members or [config], stopping
        self._opponents, self._adaptation = opponents, adaptation
        self._seats = [
            Seats(policy, e.num_envs, config.self_play, opponents.policy, e.team_size)
            if opponents
            else None
            for policy, e in zip(policies, envs, strict=True)
        ]
        self._devices = learner.actor_devices(config.actor_devices)
        self._newest: _Snapshot | None = None
        self._snapshots: list[_Snapshot | None] = [None] * len(envs)  # one for each actor
        self._ages = [0] * len(envs)  # steps that each was asked for with its snapshot
        self._unrolls: list[tuple[int, concurrent.futures.Future]] = []  # (actor, _Played)
        self._episodes: list[Episode] = []
        self._draws: list[tuple[int, Draw]] = []
        # One thread an actor, so that its unrolls come in order.
        self._threads = [
            concurrent.futures.ThreadPoolExecutor(1, f"actor-{i}") for i in range(len(envs))
        ]

    def get(self, params, learner_step: int) -> Unroll:
        """Returns the next unrolls, joined along the environments.

        Args:
          params: of the learner, copied when an actor's are refresh_steps old.
          learner_step: the number of updates that made them.

        Raises:
          whatever an actor raised; Interrupted once stopping() is true.
        """
        ahead = self._config.unrolls_ahead
        if ahead or not self._unrolls:
            self._play_on(ahead + 1, params, learner_step)
        with self._timer("waiting"):
            unroll = self._take()
        self._play_on(ahead, params, learner_step)  # while the learner learns
        return unroll

    def drain(self, params, learner_step: int) -> Iterator[Unroll]:
        """Yields joins of the unrolls that were begun, and of as many more as fill them, in all
        processes alike; then the actors rest until the next get. Arguments as of get."""
        num_gets = hosts.all_max(-(-len(self._unrolls) // self._join_size))
        for i in range(num_gets * self._join_size - len(self._unrolls)):
            self._begin(i % len(self.envs), params, learner_step)
        while self._unrolls:
            yield self._take()

    def drop(self) -> None:
        """Forgets the unrolls that were begun, once actors have broken them off; no unroll can
        follow before restart."""
        futures = [future for _, future in self._unrolls if not future.cancel()]
        concurrent.futures.wait(futures)
        self._unrolls = []

    def restart(self, checkpoint: int) -> None:
        """After drain or drop: starts all environments afresh from states; the next get takes new
        parameters."""
        for i, seed in enumerate(seeds(self._members, checkpoint)):
            if self._adaptation:
                self.envs[i].set_ranges(self._adaptation.ranges)
            timestep = self.envs[i].restart(seed, self.states[i].timestep)
            self.states[i] = self.states[i]._replace(timestep=timestep)
            if seats := self._seats[i]:
                seats.clear()
        self._running = [*self.states]
        self._newest, self._snapshots = None, [None] * len(self.envs)

    def pop_episodes(self) -> list[Episode]:
        """Returns the episodes that ended in the unrolls handed over since the last call."""
        episodes, self._episodes = self._episodes, []
        return episodes

    def pop_draws(self) -> list[tuple[int, Draw]]:
        """Returns the draws of physics in the unrolls handed over since the last call, each with
        the number of its actor."""
        draws, self._draws = self._draws, []
        return draws

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for envs in self.envs:
            envs.close()

    def _play_on(self, num_unrolls: int, params, learner_step: int) -> None:
        """Asks for unrolls, actor by actor, until num_unrolls of each are begun and not taken."""
        begun = collections.Counter(i for i, _ in self._unrolls)
        for n, i in itertools.product(range(num_unrolls), range(len(self.envs))):
            if begun[i] <= n:
                self._begin(i, params, learner_step)

    def _begin(self, i: int, params, learner_step: int) -> None:
        """Asks actor i for an unroll, with new parameters if its own are refresh_steps old."""
        snapshot = self._snapshots[i]
        if snapshot is None or self._ages[i] >= self._config.refresh_steps:
            if self._newest is None or self._newest.learner_step != learner_step:
                copies = [learner.snapshot(params, device) for device in self._devices]
                self._newest = _Snapshot(copies, learner_step)
            snapshot = self._snapshots[i] = self._newest
            self._ages[i] = 0
        self._ages[i] += self._config.unroll_length
        pool = self._opponents.pool if self._opponents else ()
        ranges = self._adaptation.ranges if self._adaptation else None
        future = self._threads[i].submit(self._play, i, snapshot, pool, ranges)
        self._unrolls.append((i, future))

    def _play(self, i: int, snapshot: "_Snapshot", pool: Pool, ranges: Ranges | None) -> "_Played":
        """Plays one unroll of actor i, in its thread."""
        if ranges is not None:
            self.envs[i].set_ranges(ranges)
        if seats := self._seats[i]:
            seats.meet(pool, self._running[i].key)
        trajectory, state = unroll(
            self.envs[i],
            seats or self._policies[i],
            snapshot.params[i % len(snapshot.params)],  # inference runs where these are
            self._running[i],
            self._config.unroll_length,
            self._timer,
            self._stopping,
        )
        self._running[i] = state
        trajectory = trajectory._replace(task_id=self._task_ids[i])
        episodes, results = self.envs[i].pop_episodes(), list[Result]()
        draws = [(i, x) for x in self.envs[i].pop_draws()]
        trials = self.envs[i].pop_trials() if ranges is not None else []
        if seats:
            trajectory = trajectory._replace(learns=trajectory.learns & seats.learns)
            episodes = [x for x in episodes if seats.against_past[x.env]]
            results = seats.pop_results()
        finished = time.perf_counter()
        return _Played(
            trajectory, state, episodes, snapshot.learner_step, finished, results, draws, trials
        )

    def _take(self) -> Unroll:
        """Waits for the unrolls that are next, and joins them."""
        one_task = len({e.name for e in self.envs}) == 1
        in_order = one_task or not self._config.unrolls_ahead or self._join_size == len(self.envs)
        while True:
            done = [x for x in self._unrolls if x[1].done()]
            played = {x: x[1].result() for x in done}  # raises what an actor raised
            if in_order:
                chosen = self._unrolls[: self._join_size]
            else:  # first come, first served
                chosen = sorted(done, key=lambda x: played[x].finished)[: self._join_size]
            if len(chosen) == self._join_size and all(x in played for x in chosen):
                break
            running = [x[1] for x in self._unrolls if x not in played]
            concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        self._unrolls = [x for x in self._unrolls if x not in chosen]
        for x in chosen:  # an actor's in the order in which it played them
            self.states[x[0]] = played[x].state
        if self._opponents:
            self._opponents.add([result for x in chosen for result in played[x].results])
        if self._adaptation:
            self._adaptation.add([trial for x in chosen for trial in played[x].trials])
        self._episodes += [episode for x in chosen for episode in played[x].episodes]
        self._draws += [draw for x in chosen for draw in played[x].draws]
        return _join([played[x] for x in chosen])


class _Snapshot(NamedTuple):
    """The actors' own copy of the parameters."""

    params: list[Any]  # on each of their devices
    learner_step: int


class _Played(NamedTuple):
    """One actor's unroll."""

    trajectory: Trajectory
    state: ActorState  # after it
    episodes: list[Episode]  # that ended in it
    learner_step: int
    finished: float  # perf_counter
    results: list[Result]  # of games against past selves
    draws: list[tuple[int, Draw]]  # of physics, with the actor's number
    trials: list[Trial]  # at the ends of ranges


def _join(unrolls: list[_Played]) -> Unroll:
    """Joins unrolls along the environments."""
    learner_step = min(x.learner_step for x in unrolls)
    if len(unrolls) == 1:
        return Unroll(unrolls[0].trajectory, learner_step)
    trajectory = map_arrays(
        lambda *xs: np.concatenate(xs, axis=1),
        lambda *xs: np.concatenate(xs),
        *(x.trajectory for x in unrolls),
    )
    return Unroll(trajectory, learner_step)
