"""What the members of a sweep learn from: every unroll once, or samples of their replays."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlsys.acting.actors import Unroll
from rlsys.learning import learner
from rlsys.replay import memory
from rlsys.replay.replay_ratio import ReplayRatio
from rlsys.running.run import Run
from rlsys.sweep import vmapped
from rlsys.types import SAMPLE_SPEC, Sample, Trajectory

Metrics = list[dict[str, Any]]  # each [S] or [S, N updates]; "due" [S] bool: who made the update


class FromUnrolls:
    """The learners of IMPALA's or PPO's members."""

    trees: tuple[str, ...] = ()  # what a checkpoint holds beside states

    def __init__(self, module, network, configs: Sequence[Any], mesh, num_actors: int):
        """module: of the algorithm. num_actors: whose unrolls come side by side."""
        self._module, self._configs, self._mesh = module, configs, mesh
        self._num_actors = num_actors
        self._numbers = vmapped.place_numbers(mesh, configs)
        self._spec = vmapped.of_members(module.BATCHES_SPEC)
        learn = functools.partial(module.learn, network)
        self._learn = vmapped.make_program(learn, mesh, module.BATCHES_SPEC)

    def _batch(self, trajectory: Trajectory) -> Any:
        """What all members learn from, [S, ...], on the devices."""
        parts = vmapped.split(trajectory, len(self._configs), self._num_actors)
        pairs = zip(self._configs, parts, strict=True)
        batch = vmapped.stack([self._module.batches(config, part) for config, part in pairs])
        return learner.place(self._mesh, batch, self._spec)

    def compile(self, states: Any, trajectory: Trajectory) -> tuple[int, int]:
        """Compiles what learns from unrolls like this one; bytes of the host that it takes, and of
        the devices."""
        batch = self._batch(trajectory)
        args = (self._numbers, states, batch)
        self._learn, on_devices = vmapped.compile_program(self._learn, self._mesh, *args)
        return 2 * memory.num_bytes(batch), on_devices  # the unroll, and its members' parts

    def learn(self, run: Run, states: Any, unroll: Unroll) -> tuple[Any, Metrics]:
        """States after all learner steps on an unroll, and their metrics."""
        with run.log.time("learner"):
            states, metrics = self._learn(self._numbers, states, self._batch(unroll.trajectory))
            jax.block_until_ready(metrics)
        shape = next(iter(metrics.values())).shape  # [S, N updates]
        lag = run.learner_steps + np.arange(shape[1]) - unroll.learner_step
        run.learner_steps += shape[1]
        lags = np.broadcast_to(lag, shape)
        return states, [metrics | {"params_lag": lags, "staleness": lags / shape[1]}]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trees and meta for a checkpoint."""
        return {}, {}

    def restore(self, trees: dict[str, Any], meta: dict[str, Any]) -> None:
        """Goes on from them."""


class FromReplays:
    """The learners of R2D2's members, each with a replay of its own.

    How many updates are due differs between members, as each holds the replay ratio by the steps
    that its own samples learn: in the last updates after an unroll the others' states stay.
    """

    def __init__(self, module, network, configs: Sequence[Any], mesh, num_actors: int):
        """As of FromUnrolls."""
        self._module, self._configs, self._mesh = module, configs, mesh
        self._num_actors = num_actors
        self._numbers = vmapped.place_numbers(mesh, configs)
        self._replays = [module.make_replay(config, network) for config in configs]
        self._ratios = [ReplayRatio(config) for config in configs]
        self.trees = tuple(f"replay-{i}" for i in range(len(configs)))
        batch_spec = SAMPLE_SPEC, jax.P()
        self._spec = vmapped.of_members(batch_spec)
        update = functools.partial(self._update_if_due, network)
        self._update = vmapped.make_program(update, mesh, batch_spec, (jax.P("batch"), jax.P()))
        self._first_priorities = jax.jit(jax.vmap(module.initial_priorities))

    def _update_if_due(self, network, config, state, batch):
        """A learner step of one member, whose state stays as it is unless the step is due."""
        sample, due = batch
        new, (priorities, metrics) = self._module.update(network, config, state, sample)
        state = jax.tree.map(functools.partial(jnp.where, due), new, state)
        return state, (priorities, metrics | {"due": due})

    def compile(self, states: Any, trajectory: Trajectory) -> tuple[int, int]:
        """Compiles what learns from samples of unrolls like this one; bytes of the host that it and
        the full replays take, and of the devices."""
        samples = self._sample_shapes(trajectory)
        args = (self._numbers, states, samples)
        self._update, on_devices = vmapped.compile_program(self._update, self._mesh, *args)
        replays = sum(replay.nbytes for replay in self._replays)
        on_host = replays + 2 * memory.num_bytes(samples)  # each member's sample, and their stack
        return on_host, on_devices

    def _sample_shapes(self, played: Trajectory) -> Any:
        """Of all members' samples, [S, ...]."""
        config, num_members = self._configs[0], len(self._configs)
        num_steps = config.burn_in + config.length

        def time_major(num, x):
            shape = (num_members, num, config.batch_size, *x.shape[2:])
            return jax.ShapeDtypeStruct(shape, x.dtype)

        def env_major(x):
            return jax.ShapeDtypeStruct((num_members, config.batch_size, *x.shape[1:]), x.dtype)

        trajectory = Trajectory(
            jax.tree.map(functools.partial(time_major, num_steps + 1), played.steps),
            time_major(num_steps, played.action),
            (),
            jax.tree.map(env_major, played.core_state),
        )
        first, reward = played.steps.first, played.steps.reward
        sample = Sample(trajectory, time_major(num_steps, first), env_major(reward[0]))
        due = jax.ShapeDtypeStruct((num_members,), bool)
        return learner.placed_shapes(self._mesh, (sample, due), self._spec)

    def learn(self, run: Run, states: Any, unroll: Unroll) -> tuple[Any, Metrics]:
        """Adds an unroll to the replays; states after the learner steps that are due, and their
        metrics."""
        batch_size = self._configs[0].batch_size
        with run.log.time("replay"):
            parts = vmapped.split(unroll.trajectory, len(self._configs), self._num_actors)
            added = [r.add(part) for r, part in zip(self._replays, parts, strict=True)]
            self._first(added)
        env_steps = run.env_steps + unroll.env_steps // len(self._configs)
        due = np.array([ratio.due(env_steps) for ratio in self._ratios])
        learned = np.zeros_like(due)
        metrics: Metrics = []
        waiting: tuple[Any, Any] | None = None  # numbers and priorities of the update before
        for i in range(due.max()):
            with run.log.time("replay"):
                drawn = {
                    k: self._replays[k].sample(batch_size) for k in range(len(due)) if i < due[k]
                }
                for k, (_, sample) in drawn.items():
                    learned[k] += sample.mask.sum()
                some = next(iter(drawn.values()))  # in place of what the others would draw
                samples = vmapped.stack([drawn.get(k, some)[1] for k in range(len(due))])
            self._give(run, waiting)
            with run.log.time("learner"):
                batch = learner.place(self._mesh, (samples, i < due), self._spec)
                states, (priorities, scalars) = self._update(self._numbers, states, batch)
            waiting = {k: numbers for k, (numbers, _) in drawn.items()}, priorities
            metrics.append(scalars)
            run.learner_steps += 1
        self._give(run, waiting)
        for k, ratio in enumerate(self._ratios):
            if due[k]:
                ratio.learned(int(due[k]), int(learned[k]))
        return states, metrics

    def _first(self, added: list[tuple]) -> None:
        """Gives sequences that were added their first priorities, all members' at once."""
        most = max(mask.shape[1] for _, _, mask in added)  # members complete different numbers
        if not most:
            return

        def widen(x):  # [T, W, ...] -> [T, most, ...]; what it is filled up with is of no use
            return np.pad(x, [(0, 0), (0, most - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

        learned = [jax.tree.map(widen, (part, mask)) for _, part, mask in added]
        priorities = self._first_priorities(self._numbers, *vmapped.stack(learned))
        self._set(dict(enumerate(numbers for numbers, _, _ in added)), np.asarray(priorities))

    def _give(self, run: Run, waiting: tuple[Any, Any] | None) -> None:
        """Gives an update's priorities to the replays."""
        if waiting is None:
            return
        numbers, priorities = waiting
        with run.log.time("learner"):
            priorities = np.asarray(priorities)  # waits for it
        self._set(numbers, priorities)

    def _set(self, numbers: dict[int, np.ndarray], priorities: np.ndarray) -> None:
        """Sets priorities [S, W] of members' sequences; where learning has failed they are 1."""
        priorities = np.where(np.isfinite(priorities), priorities, 1.0)
        for k, which in numbers.items():
            self._replays[k].set_priorities(which, priorities[k, : len(which)])

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trees and meta for a checkpoint."""
        pairs = [replay.state() for replay in self._replays]
        arrays = dict(zip(self.trees, [a for a, _ in pairs], strict=True))
        ratios = [ratio.state() for ratio in self._ratios]
        return arrays, {"replays": [counters for _, counters in pairs], "replay_ratios": ratios}

    def restore(self, trees: dict[str, Any], meta: dict[str, Any]) -> None:
        """Goes on from them."""
        for name, replay, counters in zip(self.trees, self._replays, meta["replays"], strict=True):
            replay.restore(trees[name], counters)
        for ratio, saved in zip(self._ratios, meta["replay_ratios"], strict=True):
            ratio.restore(saved)
