"""Gathers the results of runs and sweeps: the agent, its score, and its returns on the way."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

from rlsys.acting import actor_critic
from rlsys.config import RunConfig, flat, not_of_learning, tasks_of
from rlsys.envs import both_sides
from rlsys.results import evaluations
from rlsys.running import config_file, metrics_file
from rlsys.running.lock import in_use
from rlsys.running.log import TASK_RETURN

HIDDEN = ("env", "seed", "run_dir")  # shown elsewhere
Rows = list[dict[str, Any]]


class Result(NamedTuple):
    """One run, or one member of a sweep."""

    folder: Path
    algorithm: str
    fields: dict[str, Any]  # of its Config, and of the dataclasses in it
    task: str  # the names of its tasks, which tell their options
    holder: Path  # the folder that is in use while it trains: its own, or its sweep's
    set_aside: str = ""  # the learner step at which a sweep set it aside, if it did
    self_play: bool = False  # whether its one task is a game of which it plays both sides

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.fields["seed"]

    def status(self, env_steps: int) -> str:
        """Tells how the run stands, which has played env_steps."""
        if self.set_aside:
            return f"set aside at learner step {self.set_aside}"
        if env_steps >= self.fields["env_steps"]:
            return "finished"
        return "training" if in_use(self.holder) else "stopped"


def results(folder: Path) -> list[Result]:
    """The run in a folder, or the members of the sweep in it.

    Raises:
      UserError: it is neither.
    """
    content = config_file.load(folder)
    if "config" in content:
        return [_result(folder, content, content["config"], folder)]
    path = folder / "members.csv"  # there at the end
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    gone = {int(row["member"]): row["set_aside_at"] for row in rows if row.get("set_aside_at")}
    return [
        _result(folder / "members" / str(i), content, member["config"], folder, gone.get(i, ""))
        for i, member in enumerate(content["members"])
    ]


def _result(
    folder: Path, content: dict[str, Any], config: dict[str, Any], holder: Path, set_aside: str = ""
) -> Result:
    fields = flat(config)
    if changed := _changes(content):
        fields["changed"] = changed
    tasks = tasks_of(config)
    task, game = ",".join(t.name for t in tasks), len(tasks) == 1 and both_sides(tasks[0])
    return Result(folder, content["algorithm"], fields, task, holder, set_aside, game)


def _changes(content: dict[str, Any]) -> str:
    """Words on the fields that a resume changed, if they matter to learning: their values before,
    and the environment step until which they held."""
    hidden = not_of_learning(RunConfig)
    return "; ".join(
        f"{name} {values['before']} to step {entry['env_steps']:,}"
        for entry in content.get("changes", [])
        for name, values in entry["fields"].items()
        if name not in hidden
    )


def collect(result: Result) -> tuple[Rows, Rows]:
    """Collect the result of each task of a run, and the training returns on the way. A single task
    is called "", unless its evaluations are against several players.

    Returns:
      rows of task, env_steps, seconds; and of the evaluation that counts (see evaluations) score
      (the kind of play that is the score, None if the run was not evaluated), evaluated_at (its
      environment steps) and results (evaluate.summary by kind of play);
      rows of task, env_steps, seconds, episodes (how many a line of the log counts) and
      episode_return. Of a game of two sides these are the returns of the evaluations during
      training, as the returns of training itself are against the agent and its past selves.

    Raises:
      UserError: the file of its evaluations cannot be read.
    """
    lines, kept = metrics_file.read(result.folder), evaluations.read(result.folder)
    found = kept[0] if kept else {"score": None, "env_steps": None, "results": {}}
    played: dict[str, dict[str, Any]] = {}
    for name, summary in found["results"].items():
        kind, _, task = name.partition(" ")
        played.setdefault(task, {})[kind] = summary
    evaluated = f"eval/{found['score'] or actor_critic.SCORE_MODE}_return"  # those play games
    alone, of_task = "episode_return", TASK_RETURN
    if result.self_play:
        alone, of_task = evaluated, f"{evaluated}/"
    named = {key.removeprefix(of_task) for x in lines for key in x if of_task in key}
    last = {key: lines[-1][key] if lines else 0 for key in ("env_steps", "seconds")}
    about = {"score": found["score"], "evaluated_at": found["env_steps"]}
    ends: Rows = []
    curves: Rows = []
    for task in list(played) or sorted(named) or [""]:
        ends.append({"task": task} | last | about | {"results": played.get(task, {})})
        key = of_task + task if task else alone
        if task and not any(key in line for line in lines):  # a game's player, beside other tasks
            key = f"{evaluated}/{task}"
        for line in lines:
            if line.get(key) is not None:
                point = {k: line[k] for k in (*last, "episodes")} | {"episode_return": line[key]}
                curves.append({"task": task} | point)
    return ends, curves


def agents(found: list[Result], *, all_fields: bool = False) -> list[dict[str, Any]]:
    """Find what sets each result's agent apart from the others: the algorithm, and the fields in
    which results of one algorithm differ, but for task, seed and folder; and, unless all_fields,
    but for those that change nothing of what is learned."""
    hidden = HIDDEN if all_fields else (*HIDDEN, *not_of_learning(RunConfig))
    named = []
    for own in found:
        same = [other.fields for other in found if other.algorithm == own.algorithm]
        names = dict.fromkeys(name for fields in same for name in fields if name not in hidden)
        differing = [n for n in names if any(o.get(n) != own.fields.get(n) for o in same)]
        values = {name: own.fields.get(name, "") for name in differing}
        named.append({"algorithm": own.algorithm} | values)
    return named


def group(rows: Rows, *names: str) -> dict[tuple, Rows]:
    """Rows by their values of some columns, in the order in which those first appear."""
    groups: dict[tuple, Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups
