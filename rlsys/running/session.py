"""A session: all that a run holds while it trains, and the verbs of its loop.

with open_session(ALGORITHM, config, resume=resume) as session:
    learn_all = session.data_parallel(learn, SPEC)
    while not session.ended:
        for unroll in session.unrolls():
            session.learn(learn_all, session.place(unroll.trajectory, SPEC), unroll)
        if session.line_due:
            session.write({})
        session.save()
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlsys.acting import exploitability
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.adaptation import Adaptation
from rlsys.acting.opponents import Opponents, check_memory
from rlsys.acting.unroll import Interrupted, Unroll
from rlsys.envs import Episode, shared_spaces
from rlsys.learning import hosts, learner
from rlsys.learning.sampler import Sampler
from rlsys.replay.replay import Replay
from rlsys.running import frozen, health, initial, process
from rlsys.running.algorithm import Algorithm, FromSamples
from rlsys.running.best import Evaluations
from rlsys.running.display import Display
from rlsys.running.first_lines import first_lines
from rlsys.running.physics_file import PhysicsFile
from rlsys.running.ranges_file import RangesFile
from rlsys.running.run import Run
from rlsys.types import LearnerState, Trajectory


class Session:
    """A run's actors, learner and records, held open.

    Attributes:
      run: the run's folder, log, checkpoints and counters.
      config: the run's Config; local_config: this process's share of it.
      network, actors: what plays.
      mesh: the devices that learn.
      state: the LearnerState, on the devices; a sweep's has an axis of members before all others.
      samplers: one for each replay.
      params: a copy of the parameters, once the session is closed.
      evaluations: those during training, with the best parameters; None of a sweep.
      line_due: whether a line of the log is due.
    """

    params: Any

    def __init__(
        self,
        run: Run,
        config: Any,
        local_config: Any,
        network: Any,
        actors: Actors,
        mesh: Any,
        settings: Any,
        state: LearnerState,
        samplers: dict[str, Sampler],
        state_spec: Any = learner.REPLICATED,
        num_members: int = 1,
        name_episodes: Callable[[list[Episode]], list[Episode]] = list,
        opponents: Opponents | None = None,
        adaptation: Adaptation | None = None,
        evaluations: Evaluations | None = None,
    ):
        """Holds what open_session, or a sweep, has made.

        Args:
          local_config: this process's share of config.
          settings: the Config as a pytree of arrays on the devices.
          state_spec: PartitionSpec of settings and state.
          samplers: by their names in a checkpoint.
          num_members: members of a sweep, whose environments stand side by side.
          opponents: the past selves that the actors play against, if there are any.
          adaptation: the ranges of the physics, where they widen.
          name_episodes: takes episodes that have ended, and gives them as the log is to count them.
          evaluations: those during training; a sweep has none.
        """
        self.run, self.config, self.local_config = run, config, local_config
        self.network, self.actors, self.mesh = network, actors, mesh
        self.settings, self.state = settings, state
        self._samplers, self._state_spec, self._opponents = samplers, state_spec, opponents
        self._num_members, self._name_episodes = num_members, name_episodes
        self.last: Unroll | None = None  # that was learned from
        self._latest: dict[int, Trajectory] = {}  # by task, the last unroll that it is played in
        self._counted = 0  # environment steps of it
        self.metrics: list[dict[str, Any]] = []  # of updates, on the devices
        self.line_due = self._save_due = self._evaluation_due = False
        self.evaluations = evaluations
        self._physics = PhysicsFile(run.folder, hosts.index())
        self._adaptation, self._ranges = adaptation, RangesFile(run.folder)
        self._disk_full = False
        if adaptation and hosts.is_primary():
            self._ranges.begin(self.env_steps, adaptation)
        self._begun: set[str] = set()  # names of what was done once already

    @property
    def ended(self) -> bool:
        """Whether the run has played all its steps, or a signal has asked it to stop."""
        return self.run.ended

    @property
    def env_steps(self) -> int:
        """Environment steps played, with those of the unroll that is being learned from."""
        return self.run.env_steps

    @property
    def learner_steps(self) -> int:
        """Updates made."""
        return self.run.learner_steps

    @property
    def since_change(self) -> tuple[int, int]:
        """Environment steps and updates since fields were last changed, or since the start."""
        return self.run.since_change

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.folder

    @property
    def samplers(self) -> list[Sampler]:
        """The samplers, one for each replay."""
        return list(self._samplers.values())

    def unrolls(self) -> Iterator[Unroll]:
        """Gives the next unroll and, before a checkpoint, all that actors have begun; each is
        counted as played, and is to be learned from before the next.

        Once a signal has come, what actors have begun is dropped, so that the run ends soon.
        """
        self.run.begin_round()
        yield from self._until_stopped(self._get())
        self._settle()
        self.line_due, self._save_due = self.run.due()
        if self._save_due:
            begun = self.actors.drain(self.state.params, self.learner_steps)
            yield from self._until_stopped(begun)
        if self.run.stopping():
            if not self.ended:  # the signal came since
                _, self._save_due = self.run.due()
            self.line_due = bool(self.metrics)
        elif self.evaluations and not self.run.stops:
            self._evaluation_due = self.evaluations.due(self.env_steps)
            self.line_due = self.line_due or self._evaluation_due
        if self.line_due:  # what is measured now waits for the updates
            with self.run.log.time("learner"), self.run.during("the updates that were begun"):
                jax.block_until_ready((self.state, self.metrics))

    def _get(self) -> Iterator[Unroll]:
        with self._first("compiling act and playing the first unroll"):
            unroll = self.actors.get(self.state.params, self.learner_steps)
        yield unroll

    def _until_stopped(self, unrolls: Iterator[Unroll]) -> Iterator[Unroll]:
        """Gives unrolls, each of which is counted, until there are no more or a signal has come."""
        while not self.run.stopping():
            try:
                with self.run.during("a step of the environments"):
                    unroll = next(unrolls, None)
            except Interrupted:
                break
            if unroll is None:
                return
            yield self._next(unroll)
            self._adapt()
        self.actors.drop()

    def _first(self, phase: str) -> contextlib.AbstractContextManager:
        """The display names what takes long when it is first done, as a program is compiled."""
        if phase in self._begun:
            return contextlib.nullcontext()
        self._begun.add(phase)
        return self.run.log.phase(phase)

    def _next(self, unroll: Unroll) -> Unroll:
        progress = np.full(
            self.state.progress.shape, self.env_steps / self.config.env_steps, np.float32
        )
        progress = learner.place(self.mesh, progress, self._state_spec)
        self.state = self.state._replace(progress=progress)
        self._counted = unroll.env_steps * hosts.count() // self._num_members
        self.run.env_steps += self._counted
        self.run.log.display.env_steps = self.run.env_steps
        self.run.log.episodes(self._name_episodes(self.actors.pop_episodes()))
        self._physics.add(self.env_steps, self.actors.pop_draws())
        self._tell_of_full_disk()
        self.last = unroll
        self._latest |= dict.fromkeys(unroll.trajectory.task_id.tolist(), unroll.trajectory)
        return unroll

    def _tell_of_full_disk(self) -> None:
        """Says it once, as the log does of the metrics."""
        error = self._physics.error or self._ranges.error
        if error and not self._disk_full:
            self.run.log.say(
                f"Could not write the draws or ranges of physics, which are kept until it works: "
                f"{error}."
            )
        self._disk_full = error is not None

    def _adapt(self) -> None:
        """Moves the ranges of the physics, where they widen, by what was played at their ends."""
        if not self._adaptation:
            return
        self._settle()
        decisions = self._adaptation.update()
        if hosts.is_primary():
            self._ranges.add(self.env_steps, self._adaptation, decisions)

    def data_parallel(self, update: Callable, batch_spec: Any, out_spec: Any = learner.REPLICATED):
        """Compiles update(network, config, state, batch) -> (state, out) for all devices."""
        program = functools.partial(update, self.network)
        return learner.data_parallel(program, self.mesh, batch_spec, out_spec)

    def place(self, batch: Any, spec: Any) -> Any:
        """Puts a batch on the devices; spec: its PartitionSpecs."""
        with self.run.log.time("learner"):
            return learner.place(self.mesh, batch, spec)

    def learn(self, program: Callable, batch: Any, unroll: Unroll) -> None:
        """Makes all updates on an unroll: program(settings, state, batch) -> state, metrics
        [..., N] of N updates.

        If a signal has come while the updates before were waited for, the unroll is as if it had
        not been played.
        """
        updates = "an unroll's updates, which are one program"
        first = self._first("compiling the update")
        with first, self.run.log.time("learner"), self.run.during(updates):
            jax.block_until_ready(self.metrics[-1:])  # one unroll's updates wait at most
            if self.run.stopping():
                self.run.env_steps -= self._counted
                if self._adaptation:
                    self._adaptation.drop()
                return
            self.state, metrics = program(self.settings, self.state, batch)
            if not self.config.unrolls_ahead:
                jax.block_until_ready(metrics)
        shape = next(iter(metrics.values())).shape
        lag = np.broadcast_to(
            self.learner_steps + np.arange(shape[-1]) - unroll.learner_step, shape
        )
        self.metrics.append(metrics | {"params_lag": lag, "staleness": lag / shape[-1]})
        self.run.learner_steps += shape[-1]
        if self._opponents:
            self._settle()
            self._opponents.learned(self.state.params, self.env_steps)

    def _settle(self) -> None:
        """Waits for the updates before several processes talk, so that of two programs in which
        they talk none begins before the other has ended."""
        if hosts.count() > 1:
            with self.run.log.time("learner"):
                jax.block_until_ready(self.state)

    def update(self, program: Callable, sample: Any) -> Any:
        """Makes an update on samples: program(settings, state, sample) -> state, (priorities,
        metrics). Gives the priorities, on the devices."""
        first = self._first("compiling the update")
        with first, self.run.log.time("learner"), self.run.during("an update"):
            self.state, (priorities, metrics) = program(self.settings, self.state, sample)
        self.metrics.append(metrics)
        self.run.learner_steps += 1
        return priorities

    def write(self, more: dict[str, float]) -> None:
        """Writes a line of the log: means of the updates' metrics since the last one, how many
        hidden units are dead, how far actors lag, the exploitability in games where it can be
        computed, what an evaluation finds if one is due, and more.

        Raises:
          FloatingPointError: a metric is not finite.
        """
        assert self.last is not None, "a line comes after an unroll"
        first = self._first("compiling what the log measures")
        with first, self.run.log.time("log"), self.run.during("the line of the log"):
            params = learner.snapshot(self.state.params)
            more = more | health.dead_units(self.network, params, self.latest)
            more |= exploitability.of_run(self.config.tasks, self.network, params)
            for sampler in self.samplers:
                more |= self.sampled(sampler)
            if self._opponents:
                more |= self._opponents.metrics()
            if self._adaptation:
                more |= self._adaptation.metrics()
            more |= self._physics.metrics()
            means = self.run.means(self.metrics)
        self.metrics.clear()
        more = more | self._evaluate()
        with self.run.log.time("log"):
            self.run.write(means | more)

    @property
    def latest(self) -> list[Trajectory]:
        """The latest unroll of each task so far that was learned from, each unroll once."""
        return [*{id(x): x for x in self._latest.values()}.values()]

    def sampled(self, sampler: Sampler) -> dict[str, float]:
        """Gives a sampler's numbers for the log, and how far the actors lag."""
        assert self.last is not None, "a line comes after an unroll"
        lag = self.learner_steps - self.last.learner_step
        return sampler.metrics(self.env_steps) | {"params_lag": lag}

    def _evaluate(self) -> dict[str, float]:
        """Gives numbers for the log, if an evaluation is due."""
        if not (self.evaluations and self._evaluation_due):
            return {}
        counters = self.env_steps, self.learner_steps
        with self.run.log.phase("evaluating"), self.run.log.time("evaluation"):
            found = self.evaluations.play(
                self.state.params, *counters, stop=lambda: self.run.signalled
            )
        self._evaluation_due = False
        if found:
            self.run.log.say(self.evaluations.sentence(found))
        return found

    def save(self, **meta: Any) -> None:
        """Saves a checkpoint if one is due, from where environments start afresh; meta goes in."""
        if not self._save_due:
            return
        trees: dict[str, Any] = {"learner": self.state, "actors": self.actors.states}
        with self.run.log.phase("saving a checkpoint"), self.run.log.time("checkpoint"):
            for name, sampler in self._samplers.items():
                trees[name], meta[name] = sampler.state()
            if self._opponents:
                trees["opponents"], meta["opponents"] = self._opponents.state()
            if self._adaptation:
                meta["ranges"] = self._adaptation.state()
            if self.evaluations:
                best, about = self.evaluations.state()
                trees, meta = trees | best, meta | about
            self.run.save(trees, meta)
        if not self.ended:
            self.actors.restart(self.run.number)

    def restore(self) -> dict[str, Any]:
        """Goes on from the newest checkpoint; gives what meta holds."""
        templates = {"learner": self.state, "actors": self.actors.states}
        reading = "the reading of the checkpoint"
        with (
            self.run.going_on(),
            self.run.log.phase("reading the checkpoint"),
            self.run.during(reading),
        ):
            trees, meta = self.run.restore(templates)
            self.state = learner.place(self.mesh, trees["learner"], self._state_spec)
            self.actors.states = trees["actors"]
            if self.evaluations:
                self.evaluations.restore(meta, self.env_steps, self._saved_best)
            for name, sampler in self._samplers.items():
                sampler.restore(self.run.saved_tree(name), meta[name], self.env_steps)
            if self._opponents and "opponents" not in meta:  # past_share was 0 until now
                self._opponents.begin(self.state.params, self.env_steps)
            elif self._opponents:
                about = meta["opponents"]
                every = {str(i): self.state.params for i in range(len(about["past_selves"]))}
                saved = self.run.checkpoints.restore({"opponents": every}, self.run.number)[1]
                self._opponents.restore(saved["opponents"], about)
            if self._adaptation and "ranges" in meta:  # not where adapt is new
                self._adaptation.restore(meta["ranges"])
        if hosts.is_primary():
            self._ranges.drop_beyond(self.env_steps)
        self._physics.drop_beyond(self.env_steps)
        self.actors.restart(self.run.number)
        return meta

    def close(self) -> None:
        """Closes the files that the session itself writes."""
        self._physics.close()
        self._ranges.close()

    def _saved_best(self) -> Any:
        """Reads the best parameters in the checkpoint that the run goes on from."""
        template = {"best": self.state.params}
        return self.run.checkpoints.restore(template, self.run.number)[1]["best"]


@contextlib.contextmanager
def open_session(algorithm: Algorithm, config: Any, *, resume: bool = False) -> Iterator[Session]:
    """Opens a run, and closes it whatever happens.

    Args:
      resume: go on with the run in config.run_dir.

    Raises:
      UserError: it cannot be run here.
      CheckpointError: there is nothing to resume.
    """
    process.check_32_bits()
    mesh = learner.make_mesh(reserved=config.actor_devices)
    algorithm.check_mesh(mesh, config)
    own = hosts.share(config)
    hosts.connect(mesh)
    with contextlib.ExitStack() as stack:
        display = stack.enter_context(Display(shown=hosts.is_primary()))
        with display.phase("making environments"):
            pools = make_envs(own)
        network = algorithm.make_network(config, *shared_spaces(pools))
        learning, replays = algorithm.learning, dict[str, Replay]()
        if isinstance(learning, FromSamples):
            replays = {"replay": learning.make_replay(own, network)}
        opposed, other = config.has_past_selves, None
        if opposed:
            shapes = jax.eval_shape(functools.partial(algorithm.make_state, network, config))
            check_memory(config.self_play, shapes.params)
            other = None if resume else frozen.read(algorithm, config, network)
        start = None if resume else initial.read(algorithm, config, network)
        names = ["learner", "actors", "best", *replays, *(["opponents"] if opposed else [])]
        run = stack.enter_context(
            Run(algorithm.name, config, names, resume=resume, display=display)
        )
        policies = algorithm.make_policies(network, config)
        settings = learner.place(mesh, config)  # else its numbers would cross at every step
        with run.log.phase("making the network"):
            state = initial.begin(algorithm.make_state(network, config), start, config)
            state = learner.place(mesh, state)
        opponents = None
        if opposed:
            params = learner.place(mesh, other.params) if other else state.params
            plays = frozen.policy(algorithm, config, network)
            steps = other.env_steps if other else 0
            opponents = Opponents(config.self_play, params, steps, plays)
        adaptation = Adaptation(config.tasks[0]) if config.randomise.adapt else None
        with run.log.phase("starting environments"):
            actors = Actors(
                pools, policies, network.initial, own, run.log.time, own.join,
                opponents=opponents, adaptation=adaptation, stopping=run.stopping,
            )  # fmt: skip
        stack.callback(actors.close)
        for line in first_lines(algorithm.presets, config, network, mesh, state.params):
            run.log.say(line)
        for found in (start, other):
            if found:
                run.log.say(found.sentence)
        samplers = dict[str, Sampler]()
        if isinstance(learning, FromSamples):
            run.log.say(replays["replay"].memory)
            first = jax.jit(functools.partial(learning.initial_priorities, config))
            samplers = {
                n: Sampler(x, config, first, run.log.time, stopping=run.stopping)
                for n, x in replays.items()
            }
        session = Session(
            run, config, own, network, actors, mesh, settings, state, samplers,
            opponents=opponents, adaptation=adaptation,
            evaluations=Evaluations(algorithm, config, network),
        )  # fmt: skip
        stack.callback(session.close)
        if resume:
            session.restore()
        yield session
        session.params = learner.snapshot(session.state.params)
