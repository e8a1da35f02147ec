"""A run: its folder, its log, its checkpoints, and when to stop."""

import contextlib
import dataclasses
import itertools
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlsys.learning import hosts
from rlsys.running import changes, config_file, output, provenance
from rlsys.running.checkpoint import CheckpointError, Checkpoints
from rlsys.running.checkpoint.arrays import SavedTree
from rlsys.running.checkpoint.manifest import Damaged
from rlsys.running.display import Display
from rlsys.running.health import Health, first_not_finite
from rlsys.running.lock import Lock
from rlsys.running.log import Log, Silent
from rlsys.running.signals import Signals, ending_well
from rlsys.types import UserError

FIRST_CHECKPOINT = 10_000  # environment steps
# Each early checkpoint comes at 4 times the steps of the one before, until checkpoint_every is the
# smaller gap.
TIMES = 4


class Run:
    """One run's folder, held open: config.json, metrics.jsonl, TensorBoard events, checkpoints/.

    SIGINT, SIGTERM and SIGHUP end the run, which saves a checkpoint first; a second SIGINT or
    SIGTERM ends the process as usual. While the run is open no other process may train in its
    folder.

    Several processes hold one run together (hosts.py), and decide alike. Process 0 writes config,
    log and the learner's part of checkpoints/; each of the others has its own part of a checkpoint
    in checkpoints/process-<i>/.
    """

    def __init__(
        self,
        algorithm: str,
        config: Any,
        trees: list[str],
        *,
        resume: bool = False,
        content=None,
        display: Display | None = None,
    ):
        """Makes the folder, or opens the one that config.run_dir names to go on in it.

        Args:
          algorithm: its name.
          config: of the run.
          trees: names of what a checkpoint may hold; what is called "learner" is the same in all
            processes.
          resume: go on with the run in config.run_dir.
          content: of config.json, in place of algorithm and config.
          display: shows the run's progress.

        Raises:
          UserError: the folder holds another run, or one of another number of processes, or
            another process trains in it, or a field has changed that cannot.
          CheckpointError: there is nothing to resume.
        """
        names = [task.name for task in config.tasks]
        name = re.sub(r"[^\w.-]+", "-", names[0]) if len(names) == 1 else f"{len(names)}-tasks"
        name = f"{algorithm}-{name}-{time.strftime('%Y%m%d-%H%M%S')}-s{config.seed}"
        self.folder = Path(config.run_dir or Path("runs") / hosts.gather(name)[0])
        # One more where a process may be killed before all have the newest one.
        keep = config.keep_checkpoints + (hosts.count() > 1)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep)
        self._own = self.checkpoints
        if not hosts.is_primary():
            self._own = Checkpoints(self.folder / f"checkpoints/process-{hosts.index()}", keep)
        self._signals = Signals()
        self._signal = 0  # that asked to stop, agreed between processes
        self._config = config
        content = content or {"algorithm": algorithm, "config": dataclasses.asdict(config)}
        self._content = content | {"processes": hosts.count()}
        goes_on = "make sweep RESUME=" if "members" in content else "make resume RUN="
        self._goes_on = f"{goes_on}{self.folder}"
        self._lock: Lock | None = None
        self._display = display
        try:
            self._open(trees, resume)
        except BaseException:
            self._release()
            raise

    def _open(self, trees: list[str], resume: bool) -> None:
        """Makes or opens the folder, and its log."""
        config = self._config
        if resume:
            config_file.load(self.folder)  # or the lock would make the folder
        self._take_lock()
        saved = config_file.load(self.folder) if resume else {}
        counters = {}
        self._changed: changes.Changed = {}
        if resume:
            counters = self._own.meta(self._newest(trees, saved["processes"]))["counters"]
            self._before, after = (config_file.configs_of(x)[0] for x in (saved, self._content))
            self._changed = changes.between(self._before, after)
            changes.check(self.folder, self._changed, counters["env_steps"], config.env_steps)
        self.number = counters.get("checkpoint", 0)  # of the newest checkpoint
        self.env_steps = counters.get("env_steps", 0)
        self.learner_steps = counters.get("learner_steps", 0)
        # Of the fields that were changed on resume: the records in config.json.
        self.changes = changes.record(
            saved.get("changes", []), self._changed, self.env_steps, self.learner_steps
        )
        self.ended = self.ended_by_steps
        # Records in config.json of who trained from which step.
        self.trained_by = saved.get("trained_by", [])
        if not self.ended:
            counted = self.env_steps, self.learner_steps
            self.trained_by = provenance.record(self.trained_by, *counted)
        if not resume:
            self._begin()
        self._logged = self._saved = self.env_steps
        self.saving = False  # whether a checkpoint comes with the next line of the log
        self.log: Log = Silent()
        # Members of a sweep have each their own.
        self._health = None if "members" in self._content else Health(config, self.changes)
        if hosts.is_primary():
            resume_at = self.env_steps if resume else None
            group = config.num_envs * len(self._content.get("members", [config]))
            own = None if "members" in self._content else config
            options = {"group": group, "health": self._health, "config": own}
            self.log = Log(
                self.folder, config.env_steps, resume_at, display=self._display, **options
            )

    def __enter__(self):
        self._signals.__enter__()
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self._end(error)
        finally:
            self._release()
            self._signals.__exit__()

    def _end(self, error: BaseException | None) -> None:
        """Closes the log, and says how the run ended."""
        self.log.close()
        broken = isinstance(error, FloatingPointError)
        if self.stopped or (broken and self._health and self._health.warned):
            self.print_health()
        if isinstance(error, FloatingPointError):
            kept = [f"checkpoint {n}" for n in self.checkpoints.numbers()[-1:]] or ["no checkpoint"]
            raise FloatingPointError(f"{error}; {kept[0]} is kept in {self.folder}") from error
        if self.stopped and not error and hosts.is_primary():
            output.say(f"stopped; to go on:\n{self._goes_on}")

    def _take_lock(self) -> None:
        """Has process 0 lock the folder for all.

        Raises:
          UserError: another run's process holds it.
        """
        refused = None
        if hosts.is_primary():
            try:
                self._lock = Lock(self.folder)
            except UserError as error:
                refused = str(error)
            except OSError as error:
                refused = f"{self.folder} cannot be written: {error.strerror}"
        if refused := hosts.gather(refused)[0]:
            raise UserError(refused)

    def _release(self) -> None:
        if self._lock:
            self._lock.release()

    @property
    def signalled(self) -> bool:
        """Whether a signal has asked this process to stop, of which others may not know yet."""
        return self._signals.number > 0

    @property
    def stopped(self) -> bool:
        """Whether a signal ended the run, before its last step or before its evaluation; it may be
        one of which only this process knows."""
        return max(self._signal, self._signals.number) > 0

    @property
    def stops(self) -> bool:
        """Whether a signal ends the run, as far as all processes know; so they may go by this where
        a collective follows."""
        return self._signal > 0 or (self.signalled and hosts.count() == 1)

    def stopping(self) -> bool:
        """Whether a signal has come, so that what was begun may be dropped. Processes that train
        together agree in due() first, and drop nothing."""
        return self.signalled and hosts.count() == 1 and not self.ended_by_steps

    @property
    def ended_by_steps(self) -> bool:
        """Whether all steps are played."""
        return self.env_steps >= self._config.env_steps

    def during(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Has a signal that comes in the body be answered by what is waited for; see Signals."""
        return self._signals.during(what)

    def begin_round(self) -> None:
        """Counts how long a round of unroll and updates takes, to say it if a signal comes."""
        self._signals.begin_round()

    def ending_well(self) -> contextlib.AbstractContextManager[None]:
        """Has a signal in the body, which plays the evaluation, end the process with a sentence."""
        return ending_well(f"all is trained and saved; to evaluate it: {self._goes_on}")

    def _begin(self) -> None:
        """Makes the folder of a new run."""
        if any(hosts.gather((self.folder / "config.json").exists())):
            removed = f"without checkpoint: rm -r {self.folder}"
            way_out = self._goes_on if self.checkpoints.numbers() else removed
            raise UserError(f"{self.folder} holds a run already, {way_out}")
        if hosts.is_primary():
            self._write_config()
        hosts.barrier()
        seen = hosts.gather((self.folder / "config.json").exists())
        if not all(seen):
            raise UserError(
                f"process {seen.index(False)} does not see {self.folder.absolute()}, which must lie"
                f" on a disk that all hosts share"
            )

    def _newest(self, trees: list[str], processes: int) -> int:
        """The newest checkpoint that is whole in every process.

        Args:
          trees: names of what must be whole, where it holds them.
          processes: the number of processes that the run was made with.

        Raises:
          UserError: it is of another number of processes.
        """
        if processes != hosts.count():
            raise UserError(
                f"{self.folder} is a run of {processes} processes, and cannot go on with "
                f"{hosts.count()}"
            )
        trees = [name for name in trees if hosts.is_primary() or name != "learner"]
        number = self._own.newest(trees)
        while len(numbers := set(hosts.gather(number))) > 1:
            number = self._own.newest(trees, at_most=min(numbers))
        return number

    def due(self) -> tuple[bool, bool]:
        """Whether to write the log and to save a checkpoint, once after every unroll.

        They are due every log_every and checkpoint_every environment steps and at the end, and the
        log with each checkpoint, so that a resumed run logs where the one that went on did.

        The first checkpoints come earlier, so that a run that is killed has something to resume,
        and loses a part of what it has done, whatever its speed. They too are due by environment
        steps, not by the clock: episodes start afresh at a checkpoint, so a run would repeat itself
        no more. The gaps grow, because each checkpoint cuts all running episodes, and many cuts
        would bias the log towards short episodes.
        """
        # Decided here alone, so that a signal cannot end the run without its last checkpoint.
        self._signal = hosts.all_max(self._signals.number)
        self.ended = self._signal > 0 or self.ended_by_steps
        if self._signal:
            why = self._signals.words or signal.Signals(self._signal).name
            self.log.say(f"{why}: saving a checkpoint, then stopping")
        early = max(FIRST_CHECKPOINT - self._saved, (TIMES - 1) * self._saved)
        gap = min(self._config.checkpoint_every, early)
        save = self.ended or self.env_steps - self._saved >= gap
        if self._signal and self.number and self.env_steps == self._saved:
            save = False  # nothing was played since the newest
        self.saving = save
        write = save or self.env_steps - self._logged >= self._config.log_every
        self._logged = self.env_steps if write else self._logged
        return write, save

    def save(self, trees: dict[str, Any], meta: dict[str, Any] | None = None) -> None:
        """Saves the next checkpoint. If the disk is full the run says so and goes on.

        Steps that came in after due() may have been the last: a resumed run would end here too.
        """
        self.ended = self.ended or self.ended_by_steps
        self.number += 1
        self._saved = self._logged = self.env_steps  # where a resumed run counts from
        counters = {
            "checkpoint": self.number,
            "env_steps": self.env_steps,
            "learner_steps": self.learner_steps,
        }
        if not hosts.is_primary():
            trees = {name: tree for name, tree in trees.items() if name != "learner"}
        try:
            with self.during("the saving of a checkpoint"):
                self._own.save(self.number, trees, {"counters": counters, **(meta or {})})
        except CheckpointError as error:
            self.log.say(f"{error} The run goes on; earlier checkpoints are kept.")

    def restore(self, templates: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trees and meta of the checkpoint that the run goes on from."""
        templates, learner = {**templates}, {"learner": templates["learner"]}
        if not hosts.is_primary():
            del templates["learner"]
        _, trees, meta = self._own.restore(templates, self.number)
        if not hosts.is_primary():
            trees |= self.checkpoints.restore(learner, self.number)[1]
        return trees, meta

    def saved_tree(self, name: str) -> SavedTree:
        """Opens a tree of the checkpoint that the run goes on from, to be read leaf by leaf."""
        return self._own.saved_tree(name, self.number)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Restores a checkpoint in its body; then says and records which fields are changed.

        Raises:
          UserError: a changed field does not fit the checkpoint.
        """
        try:
            yield
        except Damaged:
            raise
        except UserError as error:
            if not self._changed:
                raise
            raise UserError(
                f"{self.folder} cannot go on with {changes.words(self._changed)}: {error}"
            ) from error
        if self._changed:
            said = changes.sentence(self._changed, self._before, self._config, self.env_steps)
            self.log.say(f"{said} (in config.json)")
        elif self.ended:
            self.log.say(f"all {self.env_steps:,} environment steps are played: nothing is left")
        if hosts.is_primary() and (self._changed or not self.ended):
            self._write_config()

    def _write_config(self) -> None:
        changed = {"changes": self.changes} if self.changes else {}
        content = self._content | changed | {"trained_by": self.trained_by}
        config_file.write(self.folder, content)

    @property
    def since_change(self) -> tuple[int, int]:
        """Environment steps and updates since fields were last changed, or since the start."""
        last = self.changes[-1] if self.changes else {"env_steps": 0, "learner_steps": 0}
        return self.env_steps - last["env_steps"], self.learner_steps - last["learner_steps"]

    def means(self, metrics: list[dict[str, Any]]) -> dict[str, float]:
        """Means of metrics, by name.

        Args:
          metrics: of the updates since the last line, scalars or arrays [N] of N updates, which
            cross to the host here, all at once.

        Raises:
          FloatingPointError: a metric is no finite number.
        """
        metrics = jax.device_get(metrics)
        flat = {
            name: np.concatenate([np.ravel(m[name]) for m in metrics])
            for name in (metrics or [{}])[0]
        }
        if wrong := first_not_finite(flat):
            name, step = wrong[0], self.learner_steps - wrong[1]
            raise FloatingPointError(f"{name} is no finite number at learner step {step}")
        return {name: float(np.mean(values)) for name, values in flat.items()}

    def write(self, scalars: dict[str, float]) -> None:
        """Writes a line of the log; collective, so all processes must call it."""
        if hosts.count() > 1:
            others = hosts.gather([] if hosts.is_primary() else self.log.pop_episodes())
            self.log.episodes(itertools.chain(*others) if hosts.is_primary() else [])
        counters = self.env_steps, self.learner_steps
        self.log.write(*counters, scalars, all_episodes=self.saving)

    def print_health(self) -> None:
        """Prints how healthy the run was, in one line."""
        if self._health and hosts.is_primary():
            output.say(self._health.summary())
