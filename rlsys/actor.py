"""Actors: they play with a recent copy of the parameters and hand over trajectories."""

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys import learner
from rlsys.envs import Envs, Episode
from rlsys.log import Log
from rlsys.types import CoreState, Timestep, Trajectory


class ActorState(NamedTuple):
    """All of an actor that a checkpoint holds; its environments start afresh."""

    timestep: Timestep  # [B, ...] x_t, in which it has not acted
    core_state: CoreState  # [B, ...]
    key: jax.Array


class Unroll(NamedTuple):
    """What all actors have played together."""

    trajectory: Trajectory  # [T + 1, B, ...], numpy
    learner_step: int  # at which the parameters were copied that it was played with


def unroll(envs: Envs, policy: Callable, params, state: ActorState, length: int, log: Log):
    """Plays `length` steps with fixed parameters.

    Args:
      policy: (params, timestep, core_state, key) -> action, aux, core_state, key.

    Returns:
      Trajectory [length + 1, B, ...] of numpy arrays, and the ActorState after it.
    """
    timestep, core_state, key = state
    start, steps, actions, auxs = core_state, [timestep], [], []
    for _ in range(length):
        with log.time("inference"):
            action, aux, core_state, key = policy(params, timestep, core_state, key)
            action = np.asarray(action)  # waits for it
        with log.time("environment"):
            timestep = envs.step(action)
        steps.append(timestep)
        actions.append(action)
        auxs.append(aux)

    def stack(*xs):
        return np.stack([np.asarray(x) for x in xs])

    trajectory = Trajectory(
        jax.tree.map(stack, *steps), np.stack(actions), jax.tree.map(stack, *auxs), start
    )
    return trajectory, ActorState(timestep, core_state, key)


def seeds(config: Any, checkpoint: int) -> list[int]:
    """Of each actor's environments, from the run's seed and the number of the checkpoint that they
    start afresh at, 0 for the run's start."""
    sequence = np.random.SeedSequence([config.seed, checkpoint])
    return [int(x) for x in sequence.generate_state(config.actors)]


def make_envs(config: Any) -> list[Envs]:
    """Equal shares of config.num_envs environments for config.actors actors."""
    share = config.num_envs // config.actors
    return [Envs(config.env, share, seed, config.task) for seed in seeds(config, 0)]


class Actors:
    """Some actors, each with its share of the environments, who play the same number of unrolls.

    A round is one unroll of each. With config.unrolls_ahead 0 a round begins when the learner asks
    for it, so they play in turn with the learner and a run repeats itself to the bit; with more,
    that many rounds are played or wait while the learner learns.
    """

    def __init__(
        self, envs: list[Envs], policies: list[Callable], initial: Callable, config: Any, log: Log
    ):
        """An actor for each of envs.

        Args:
          envs: of each actor.
          policies: of each actor, as unroll takes it.
          initial: number of environments -> CoreState.
          config: with seed, actors, unroll_length, refresh_steps (of each environment, from a copy
            of the parameters to the next) and unrolls_ahead.
        """
        keys = jax.random.split(jax.random.key(config.seed + 1), len(envs))
        self.envs = envs
        self.states = [
            ActorState(e.reset(), initial(e.num_envs), key)
            for e, key in zip(envs, keys, strict=True)
        ]
        self._policies, self._config, self._log = policies, config, log
        self._params: Any = None  # the actors' own copy
        self._learner_step = self._age = 0  # when it was made; steps since
        self._rounds: deque[tuple[list[concurrent.futures.Future], int]] = deque()
        # One thread an actor, so that its unrolls come in order.
        self._threads = [
            concurrent.futures.ThreadPoolExecutor(1, f"actor-{i}") for i in range(len(envs))
        ]

    def get(self, params, learner_step: int) -> Unroll:
        """The next round, joined along the environments.

        Args:
          params: of the learner, copied when the actors' are refresh_steps old.
          learner_step: at which they are.

        Raises:
          whatever an actor raised.
        """
        while len(self._rounds) <= self._config.unrolls_ahead:
            if self._params is None or self._age >= self._config.refresh_steps:
                self._params, self._learner_step = learner.snapshot(params), learner_step
                self._age = 0
            self._age += self._config.unroll_length
            unrolls = [
                thread.submit(self._play, i, self._params) for i, thread in enumerate(self._threads)
            ]
            self._rounds.append((unrolls, self._learner_step))
        if self._config.unrolls_ahead == 0:
            return self._join()
        with self._log.time("waiting"):
            return self._join()

    def drain(self) -> Iterator[Unroll]:
        """The rounds that were begun; after them the actors rest until the next get."""
        while self._rounds:
            yield self._join()

    def restart(self, checkpoint: int) -> None:
        """After drain: starts all environments afresh; the next get takes new parameters."""
        for i, seed in enumerate(seeds(self._config, checkpoint)):
            timestep = self.envs[i].restart(seed, self.states[i].timestep)
            self.states[i] = self.states[i]._replace(timestep=timestep)
        self._params = None

    def pop_episodes(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        return [episode for envs in self.envs for episode in envs.pop_episodes()]

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        for envs in self.envs:
            envs.close()

    def _play(self, i: int, params) -> Trajectory:
        trajectory, self.states[i] = unroll(
            self.envs[i],
            self._policies[i],
            params,
            self.states[i],
            self._config.unroll_length,
            self._log,
        )
        return trajectory

    def _join(self) -> Unroll:
        unrolls, learner_step = self._rounds.popleft()
        concurrent.futures.wait(unrolls, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in unrolls:
            if future.done():
                future.result()  # raises what the actor raised
        first, *others = [future.result() for future in unrolls]
        if not others:
            return Unroll(first, learner_step)
        steps, action, aux = jax.tree.map(
            lambda *xs: np.concatenate(xs, axis=1), first[:3], *(t[:3] for t in others)
        )
        core_state = jax.tree.map(
            lambda *xs: np.concatenate(xs), first.core_state, *(t.core_state for t in others)
        )
        return Unroll(Trajectory(steps, action, aux, core_state), learner_step)
