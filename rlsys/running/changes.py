"""Fields of a Config that are changed when a run goes on: which they are, and what is said of them.

config.json holds the Config that the run goes on with, and under "changes" a record of each resume
that changed fields: the counters from which the new values hold, and the values before and after.
"""

import json
from typing import Any

from rlsys.config import flat, tasks_of
from rlsys.learning.optimizer import linear_decay
from rlsys.types import UserError

# A run with another is another run. The task is its name, which tells env and most options. With
# other popart or popart_floor values would jump, as the last layer computes them in units of
# PopArt's scale.
FIXED = ("env", "task", "seed", "init_from", "frozen", "frozen_mode", "popart", "popart_floor")
FREE = ("run_dir",)  # a folder may be moved
OF_THE_END = ("eval_episodes", "gif")  # may be changed even when nothing is left to train

Changed = dict[str, tuple[Any, Any]]  # field -> (value before, value after)


def between(before: dict[str, Any], after: dict[str, Any]) -> Changed:
    """Compare two Configs as config.json holds them; a dataclass in one counts by its fields.

    A field that `before` does not have is newer than the run, and counts as unchanged. Options
    that make another task of the same env count as "task" too, by the tasks' names.
    """
    first, last = (",".join(t.name for t in tasks_of(config)) for config in (before, after))
    before, after = flat(before), flat(json.loads(json.dumps(after)))
    names = [name for name in before if name in after and name not in FREE]
    changed = {n: (before[n], after[n]) for n in names if before[n] != after[n]}
    return changed if "env" in changed or first == last else changed | {"task": (first, last)}


def check(folder: Any, changed: Changed, env_steps: int, total: int) -> None:
    """Refuse changes of a run that has played env_steps of the `total` it is asked for.

    Raises:
      UserError: a field cannot be changed, or nothing is left to train.
    """
    if fixed := {name: changed[name] for name in FIXED if name in changed}:
        raise UserError(
            f"{folder} cannot go on with {words(fixed)}: a run with another {next(iter(fixed))} is"
            f" a run of its own, which make train begins"
        )
    learning = {name: x for name, x in changed.items() if name not in OF_THE_END}
    if learning and env_steps >= total:
        raise UserError(
            f"{folder} has played {env_steps:,} environment steps and {total:,} are asked for, so "
            f"nothing is left to train with {words(learning)}: a larger --env-steps trains on"
        )


def check_folder(before: Any, after: Any) -> None:
    """Refuse a resume that names another folder than the run's.

    Args:
      before: the Config of the run.
      after: the Config that it is to go on with.

    Raises:
      UserError: their folders differ.
    """
    if after.run_dir != before.run_dir:
        raise UserError("a run goes on in its own folder, so resume takes no run_dir")


def words(changed: Changed) -> str:
    """Name the changes in words, as in "epochs 2 (was 4)"."""
    return ", ".join(f"{name} {after} (was {before})" for name, (before, after) in changed.items())


def sentence(changed: Changed, before: dict[str, Any], after: Any, env_steps: int) -> str:
    """Say what changes, and where the learning rate's schedule goes on.

    Args:
      changed: the changes.
      before: the Config until now, as config.json holds it.
      after: the Config from now on.
      env_steps: environment steps played so far.
    """
    text = f"from environment step {env_steps:,} on: {words(changed)}"
    old, new = (
        float(linear_decay(rate, decay, env_steps / total))
        for rate, decay, total in (
            [before[name] for name in ("learning_rate", "learning_rate_decay", "env_steps")],
            [after.learning_rate, after.learning_rate_decay, after.env_steps],
        )
    )
    if abs(new - old) > 1e-6 * max(abs(new), abs(old)):
        text += f"; the learning rate goes from {old:.3g} to {new:.3g}"
    return text


def record(
    records: list[dict[str, Any]], changed: Changed, env_steps: int, learner_steps: int
) -> list[dict[str, Any]]:
    """Return the records of a run's changes, with one more if fields are changed now.

    A record made beyond these counters, before the run went back to this checkpoint, holds from
    here on.
    """
    counters = {"env_steps": env_steps, "learner_steps": learner_steps}
    records = [
        entry | {name: min(entry[name], most) for name, most in counters.items()}
        for entry in records
    ]
    if changed:
        fields = {name: {"before": old, "after": new} for name, (old, new) in changed.items()}
        records.append({**counters, "fields": fields})
    return records
