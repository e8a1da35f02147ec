"""The end of a sweep: each member becomes a run of its own, is evaluated, and takes its place in a
table."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rlsys.acting import exploitability, playing
from rlsys.results import evaluate
from rlsys.running import config_file, files, output
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.run import Run
from rlsys.sweep import vmapped
from rlsys.sweep.status import Status

Row = dict[str, Any]  # a member's, of members.csv
Content = dict[str, Any]  # of config.json


def conclude(
    algorithm: Algorithm, network: Any, configs: list[Any], states: Any, run: Run, status: Status
) -> None:
    """Evaluates each member that lives; writes members.csv and a run's folder for each, and prints
    a table.

    Args:
      configs: of the members.
      states: their LearnerStates, numpy, with an axis of members before all others.
    """
    rows = list[Row]()
    for i, (member, config) in enumerate(zip(status.members, configs, strict=True)):
        path = run.folder / "members" / str(i)
        row: Row = {"member": i, **{k[2:]: v for k, v in member.values.items()}}
        row |= {"seed": config.seed}
        steps = {"env_steps": run.env_steps, "learner_steps": int(states.step[i])}
        row |= steps
        row["training_return"] = status.returns()[i]
        row["health"] = status.healths[i].summary().removeprefix("health: ")
        rows.append(row)
        if i in status.died:
            row["set_aside_at"] = status.died[i]
            continue
        state = vmapped.one(states, i)
        own = dataclasses.replace(config, run_dir=str(path))
        content: Content = {"algorithm": algorithm.name, "config": dataclasses.asdict(own)}
        content |= {"changes": run.changes} if run.changes else {}
        config_file.write(path, content | {"trained_by": run.trained_by})
        counters = {"counters": {"checkpoint": 1, **steps}}
        Checkpoints(path / "checkpoints").save(1, {"learner": state}, counters)
        played = playing.play_tasks(
            algorithm, config, network, state.params, config.eval_episodes
        )  # fmt: skip
        exact = exploitability.of_run(config.tasks, network, state.params)
        found = evaluate.evaluation(algorithm.score_mode, played, **steps, exact=exact)
        evaluate.save(path, found)
        results = found["results"]
        row |= {"score": algorithm.score_mode, "score_return": _mean(results, algorithm.score_mode)}
        row |= {f"{name} return": result["mean"] for name, result in results.items()}
        for key in ("interval_95_low", "interval_95_high", "episodes", "ended"):
            row |= {f"{name} {key}": result[key] for name, result in results.items()}
    modes = sorted(algorithm.eval_modes, key=lambda mode: mode != algorithm.score_mode)
    names = [member.name for member in status.members]
    Console(highlight=False).print(table(rows, names, modes))
    for row in rows:
        if note := _note(row):
            output.say(f"{names[row['member']]}: {note}")
    _write(run.folder / "members.csv", rows)
    number = best(rows)
    folder = run.folder / "members" / str(number)
    if configs[number].gif and "score_return" in rows[number]:
        state = vmapped.one(states, number)
        agent = evaluate.Saved(network, state.params, run.env_steps, int(state.step))
        evaluate.record(folder, algorithm, configs[number], agent)
    output.say(
        f"{run.folder}: config.json, metrics.jsonl, checkpoints/, members.csv, and each member's "
        f"run in members/\n"
        f"a table and learning curves, seeds together:\nmake report RUNS={run.folder}\n"
        f"more episodes of the best member:\nmake eval RUN={folder}"
    )


def _mean(results: dict[str, dict[str, float]], mode: str) -> float:
    """The mean return of a mode of play over tasks."""
    return float(np.mean([r["mean"] for name, r in results.items() if name.startswith(mode)]))


def best(rows: list[Row]) -> int:
    """The number of the member with the best score."""
    return max(rows, key=lambda row: row.get("score_return", -np.inf))["member"]


def table(rows: list[Row], names: list[str], modes: list[str]) -> Table:
    """A row for each member, the best score first.

    Args:
      rows: the members'.
      names: of the members.
      modes: ways to play, the score's first.
    """
    title = f"members, the best first; score: the {modes[0]} return"
    made = Table(title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    made.add_column("member", overflow="fold")
    for mode in modes:
        made.add_column(f"{mode} return", justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: -row.get("score_return", -np.inf)):
        made.add_row(names[row["member"]], *(_cell(row, mode) for mode in modes))
    return made


def _cell(row: Row, mode: str) -> str:
    """A mode's return with its interval, or the mean over tasks if there are several."""
    found = {n: v for n, v in row.items() if n.startswith(mode) and n.endswith(" return")}
    if not found:
        return "-"
    if len(found) > 1:
        return f"{np.mean(list(found.values())):.4g}, {len(found)} tasks"
    low, high = (row[f"{mode} interval_95_{end}"] for end in ("low", "high"))
    return f"{row[f'{mode} return']:.4g} ({low:.4g} to {high:.4g})"


def _note(row: Row) -> str:
    """Says what is wrong with a member, if anything is."""
    found = [] if row["health"] == "no warnings" else [row["health"]]
    if "set_aside_at" in row:
        found.append(f"set aside at learner step {row['set_aside_at']}")
    for name in [name.removesuffix(" ended") for name in row if name.endswith(" ended")]:
        if cut := evaluate.cut({key: row[f"{name} {key}"] for key in ("episodes", "ended")}):
            found.append(f"{name}: {cut}")
    return "; ".join(found)


def _write(path: Path, rows: list[Row]) -> None:
    """Writes members.csv, or says why it cannot."""
    try:
        with files.replacing(path) as new, new.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        print(f"{path} could not be written: {error.strerror}.")
