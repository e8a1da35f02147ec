"""How the members of a sweep learn together: from every unroll once, or from samples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlsys.acting.unroll import Unroll
from rlsys.learning import learner
from rlsys.learning.sampler import Sampler
from rlsys.replay import memory
from rlsys.replay.replay import Replay
from rlsys.running.algorithm import FromSamples, FromUnrolls
from rlsys.running.run import Run
from rlsys.running.session import Session
from rlsys.sweep import vmapped
from rlsys.types import SAMPLE_SPEC, LearnerState, Sample, Trajectory


class UnrollUpdates:
    """Updates of members that learn from every unroll once."""

    def __init__(self, learning: FromUnrolls, network, configs, mesh, num_actors: int):
        """num_actors: the number of actors whose unrolls come side by side."""
        self._learning, self._configs, self._num_actors = learning, configs, num_actors
        self._mesh = mesh
        self._spec = vmapped.of_members(learning.batches_spec)
        learn = functools.partial(learning.learn, network)
        self._learn = vmapped.make_program(learn, mesh, learning.batches_spec)

    def _batch(self, trajectory: Trajectory) -> Any:
        """Gives the batch of all members, [S, ...]."""
        parts = vmapped.split(trajectory, len(self._configs), self._num_actors)
        pairs = zip(self._configs, parts, strict=True)
        return vmapped.stack([self._learning.batches(config, part) for config, part in pairs])

    def compile(self, settings: Any, states: Any, trajectory: Trajectory) -> tuple[int, int]:
        """Compiles what learns from unrolls like this one; gives the bytes that it takes of the
        host, and of the devices."""
        batch = learner.place(self._mesh, self._batch(trajectory), self._spec)
        args = (settings, states, batch)
        self._learn, on_devices = vmapped.compile_program(self._learn, self._mesh, *args)
        return 2 * memory.num_bytes(batch), on_devices  # the unroll, and its members' parts

    def learn(self, session: Session, unroll: Unroll) -> None:
        """Makes all updates on an unroll."""
        batch = session.place(self._batch(unroll.trajectory), self._spec)
        session.learn(self._learn, batch, unroll)


class SampleUpdates:
    """Updates of members that learn from samples, each of a replay of its own.

    How many updates are due differs between members, as each holds the replay ratio by the steps
    that its own samples learn: in the last updates after an unroll the others' states stay.
    """

    def __init__(
        self, learning: FromSamples, network, configs, mesh, num_actors: int, replays: list[Replay]
    ):
        """num_actors: the number of actors whose unrolls come side by side."""
        self._learning, self._configs, self._num_actors = learning, configs, num_actors
        self._mesh, self._replays = mesh, replays
        spec = SAMPLE_SPEC, learner.REPLICATED
        self._spec = vmapped.of_members(spec)
        update = functools.partial(self._update_if_due, functools.partial(learning.update, network))
        out_spec = learner.SHARDED, learner.REPLICATED
        self._update = vmapped.make_program(update, mesh, spec, out_spec)

    @staticmethod
    def _update_if_due(update: Callable, config: Any, state: LearnerState, batch: Any):
        """An update of one member, whose state stays as it is unless the update is due."""
        sample, due = batch
        new, (priorities, metrics) = update(config, state, sample)
        state = jax.tree.map(functools.partial(jnp.where, due), new, state)
        return state, (priorities, metrics | {"due": due})

    def compile(self, settings: Any, states: Any, trajectory: Trajectory) -> tuple[int, int]:
        """Compiles what learns from samples of unrolls like this one; gives the bytes that it and
        the full replays take of the host, and of the devices."""
        num_members, batch_size = len(self._replays), self._configs[0].batch_size
        sample = sample_shape(batch_size, self._learning.window(self._configs[0]), trajectory)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((num_members, *x.shape), x.dtype),
            (sample, jax.ShapeDtypeStruct((), bool)),
        )
        batch = learner.placed_shapes(self._mesh, batch, self._spec)
        self._update, on_devices = vmapped.compile_program(
            self._update, self._mesh, settings, states, batch
        )
        on_host = sum(replay.nbytes for replay in self._replays)
        return on_host + 2 * memory.num_bytes(batch), on_devices  # samples, and their stack

    def learn(self, session: Session, unroll: Unroll) -> None:
        """Adds an unroll to the replays, and makes the updates that are due."""
        samplers, num_members = session.samplers, len(self._configs)
        parts = vmapped.split(unroll.trajectory, num_members, self._num_actors)
        for sampler, part in zip(samplers, parts, strict=True):
            sampler.add(part)
        due = [sampler.due(session.env_steps) for sampler in samplers]
        while any(drawn := [next(samples, None) for samples in due]):
            some = next(sample for sample in drawn if sample)  # in place of what is not due
            samples = vmapped.stack([sample or some for sample in drawn])
            is_due = np.array([sample is not None for sample in drawn])
            batch = session.place((samples, is_due), self._spec)
            priorities = session.update(self._update, batch)
            fetch = functools.cache(functools.partial(np.asarray, priorities))  # all rows, once
            for k in np.flatnonzero(is_due).tolist():
                samplers[k].give(functools.partial(_row, fetch, k))


def _row(fetch: Callable[[], np.ndarray], k: int) -> np.ndarray:
    return fetch()[k]


def sample_shape(batch_size: int, num_steps: int, unroll: Trajectory) -> Sample:
    """The shapes and dtypes of a Sample of num_steps steps, from those of an unroll."""

    def time_major(num, x):
        return jax.ShapeDtypeStruct((num, batch_size, *x.shape[2:]), x.dtype)

    def batch_major(x):
        return jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype)

    window = Trajectory(
        jax.tree.map(functools.partial(time_major, num_steps + 1), unroll.steps),
        time_major(num_steps, unroll.action),
        (),
        jax.tree.map(batch_major, unroll.core_state),
    )
    first, reward = unroll.steps.first, unroll.steps.reward
    return Sample(window, time_major(num_steps, first), batch_major(reward[0]))


def make_samplers(
    learning: FromSamples, configs: list[Any], replays: list[Replay], run: Run
) -> dict[str, Sampler]:
    """A sampler for each member, by its name in a checkpoint."""
    compiled = jax.jit(learning.initial_priorities)
    same = [vmapped.with_seed_of(configs[0], config) for config in configs]  # one program for all
    return {
        f"replay-{i}": Sampler(
            replay,
            config,
            functools.partial(compiled, jax.device_put(own)),
            run.log.time,
            lenient=True,
            stopping=run.stopping,
        )
        for i, (config, own, replay) in enumerate(zip(configs, same, replays, strict=True))
    }
