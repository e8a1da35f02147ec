"""Compares the results of runs and sweeps: a table and learning curves.

python -m rlsys.results.report RUN [RUN ...] [--out DIR]    writes report.md and curves.png

Runs that differ in nothing but the seed are one agent, of whom the mean is shown.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from rlsys import cli
from rlsys.config import from_dict
from rlsys.envs import Options, read_tasks
from rlsys.results import evaluate
from rlsys.running import config_file, metrics_file, output
from rlsys.running.log import TASK_RETURN
from rlsys.types import UserError

OUT = "runs/report"
LINES = 20  # agents in a plot, at most; the best
Rows = list[dict[str, Any]]


class Result(NamedTuple):
    """One run, or one member of a sweep."""

    folder: Path
    algorithm: str
    fields: dict[str, Any]  # of its Config, and of the dataclasses in it
    task: str  # the names of its tasks, which tell their options
    status: str


def results(folder: Path) -> list[Result]:
    """The run in a folder, or the members of the sweep in it.

    Raises:
      UserError: it is neither.
    """
    content = config_file.load(folder)
    if "config" in content:
        return [_result(folder, content["algorithm"], content["config"])]
    path = folder / "members.csv"  # there at the end
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    gone = {int(row["member"]): row["set_aside_at"] for row in rows if row.get("set_aside_at")}
    found = []
    for i, member in enumerate(content["members"]):
        own = _result(folder / "members" / str(i), content["algorithm"], member["config"])
        if i in gone:
            own = own._replace(status=f"set aside at learner step {gone[i]}")
        found.append(own)
    return found


def _result(folder: Path, algorithm: str, config: dict[str, Any]) -> Result:
    fields = dict(config)
    for name, value in config.items():
        if isinstance(value, dict):
            fields |= fields.pop(name)
    options = from_dict(Options, config.get("env_options", {}))
    task = ",".join(t.name for t in read_tasks(config["env"], options, check=False))
    done = (folder / "evaluation.json").exists()
    return Result(folder, algorithm, fields, task, "finished" if done else "not finished")


def collect(folder: Path) -> tuple[Rows, Rows]:
    """Collect the result of each task of a run, and the training returns on the way. A single task
    is called "".

    Returns:
      rows of task, env_steps, seconds, score (the kind of play that is the score, None if the run
      was not evaluated) and results (evaluate.summary by kind of play);
      rows of task, env_steps, seconds, episode_return.

    Raises:
      UserError: the evaluation was written before scores were named.
    """
    lines = metrics_file.read(folder)
    path = folder / "evaluation.json"
    found = json.loads(path.read_text()) if path.exists() else {"score": None, "results": {}}
    if "results" not in found:
        raise UserError(f"{path} is of an earlier version; make eval RUN={folder} writes it anew")
    played: dict[str, dict[str, Any]] = {}
    for name, result in found["results"].items():
        kind, _, task = name.partition(" ")
        played.setdefault(task, {})[kind] = result
    named = {key.removeprefix(TASK_RETURN) for x in lines for key in x if TASK_RETURN in key}
    last = {key: lines[-1][key] if lines else 0 for key in ("env_steps", "seconds")}
    ends: Rows = []
    curves: Rows = []
    for task in list(played) or sorted(named) or [""]:
        end = {"score": found["score"], "results": played.get(task, {})}
        ends.append({"task": task} | last | end)
        key = TASK_RETURN + task if task else "episode_return"
        for line in lines:
            if line.get(key) is not None:
                point = {k: line[k] for k in last} | {"episode_return": line[key]}
                curves.append({"task": task} | point)
    return ends, curves


def agents(found: list[Result]) -> list[dict[str, Any]]:
    """Find what sets each result's agent apart from the others: the algorithm, and the fields in
    which results of one algorithm differ, but for task, seed and folder."""
    named = []
    for own in found:
        same = [other.fields for other in found if other.algorithm == own.algorithm]
        differing = [
            name
            for name, value in own.fields.items()
            if name not in ("env", "seed", "run_dir") and any(o.get(name) != value for o in same)
        ]
        named.append({"algorithm": own.algorithm} | {name: own.fields[name] for name in differing})
    return named


def group(rows: Rows, *names: str) -> dict[tuple, Rows]:
    """Rows by their values of some columns, in the order in which those first appear."""
    groups: dict[tuple, Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _score(rows: Rows) -> float:
    """The mean of the scores; the least there is if there is none."""
    returns = [row["results"][row["score"]]["mean"] for row in rows if row["results"]]
    return float(np.mean(returns)) if returns else -np.inf


def _cell(rows: Rows, kind: str) -> str:
    """The return of one kind of play: the mean over seeds, and its 95 % interval."""
    played = [row["results"][kind] for row in rows if kind in row["results"]]
    if not played:
        return "-"
    if len(played) > 1:
        text = "{:.4g} ({:.4g} to {:.4g})".format(
            *evaluate.mean_interval(result["mean"] for result in played)
        )
    else:
        text = "{mean:.4g} ({interval_95_low:.4g} to {interval_95_high:.4g}) *".format(**played[0])
    ended = evaluate.cut({key: sum(r[key] for r in played) for key in ("episodes", "ended")})
    return f"{text}; {ended}" if ended else text


def plot(path: Path, ends: Rows, curves: Rows) -> None:
    """Training returns of each agent, the mean over its seeds with a band from the least to the
    largest, and every seed's score; a panel a task.

    Args:
      path: of the picture.
      ends, curves: as of collect, with agent and seed in each row.
    """
    tasks = [task for (task,) in group(ends, "task")]
    by_agent = group(ends, "agent")
    best = sorted(by_agent, key=lambda name: -_score(by_agent[name]))[:LINES]
    names = [name for name in by_agent if name in best]
    colors = dict(zip(names, _colors(len(names)), strict=True))
    wide = 6.5 if len(tasks) == 1 else 3.2 * len(tasks)
    figure = Figure(figsize=(wide, 3.8 + 0.2 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    drawn: dict[str, Any] = {}
    training = group(curves, "task", "agent")
    for axes, task in zip(panels, tasks, strict=True):
        for name in names:
            seeds = list(group(training.get((task, *name), []), "seed").values())
            if seeds:
                x, low, mean, high = _band(seeds)
                axes.fill_between(x, low, high, color=colors[name], alpha=0.18, linewidth=0)
                drawn[name[0]] = axes.plot(x, mean, color=colors[name], linewidth=1.8)[0]
            here = [r for r in ends if (r["task"], r["agent"]) == (task, *name)]
            last = [r for r in here if r["results"]]
            axes.scatter(
                [r["env_steps"] for r in last], [r["results"][r["score"]]["mean"] for r in last],
                color=colors[name], marker="x", s=28, clip_on=False, zorder=3,
            )  # fmt: skip
        axes.set_xlabel("environment steps")
        axes.xaxis.set_major_formatter(_short)
        axes.set_title(task or path.stem, fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("return")
    scores = " or ".join(dict.fromkeys(row["score"] for row in ends if row["score"]))
    figure.legend(
        drawn.values(), drawn, fontsize=8, loc="outside lower center",
        ncols=2 if len(drawn) > 4 else 1,
        title=f"training: mean and range of seeds;  x score at the end ({scores or 'none yet'})",
        title_fontsize=8, frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=130)


def _band(seeds: list[Rows]) -> tuple[np.ndarray, ...]:
    """Steps up to the shortest seed's last; least, mean and largest return of the seeds there."""
    first = max(rows[0]["env_steps"] for rows in seeds)
    x = np.linspace(first, min(rows[-1]["env_steps"] for rows in seeds), 200)
    y = np.stack(
        [
            np.interp(x, [r["env_steps"] for r in rows], [r["episode_return"] for r in rows])
            for rows in seeds
        ]
    )
    return x, y.min(axis=0), y.mean(axis=0), y.max(axis=0)


def _colors(number: int) -> list[Any]:
    """Distinct for a few agents, else along a scale."""
    if number <= 10:
        return [f"C{i}" for i in range(number)]
    return list(colormaps["viridis"](np.linspace(0, 0.95, number)))


def _short(steps: float, _) -> str:
    """500 k, 1.5 M."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if steps >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"


def table(ends: Rows) -> list[str]:
    """Lines of markdown: a row for each agent and task, the best first.

    ends: as of collect, with agent, seed, status and about (what agents gave) in each row.
    """
    fields = list(dict.fromkeys(name for row in ends for name in row["about"]))
    kinds = list(dict.fromkeys(kind for row in ends for kind in row["results"]))
    returns = [f"{kind} return" for kind in kinds]
    head = ["task", *fields, "seeds", "score", *returns, "steps", "time", "status"]
    lines = []
    groups = sorted(group(ends, "task", "agent").items(), key=lambda x: (x[0][0], -_score(x[1])))
    for (task, _), rows in groups:
        score = next((r["score"] for r in rows if r["score"]), "-")
        status = [f"{len(same)} {name}" for (name,), same in group(rows, "status").items()]
        steps, seconds = (np.median([r[k] for r in rows]) for k in ("env_steps", "seconds"))
        cells = [
            task, *(str(rows[0]["about"].get(name, "")) for name in fields),
            ", ".join(str(r["seed"]) for r in rows), score, *(_cell(rows, kind) for kind in kinds),
            f"{steps:,.0f}", f"{seconds:,.0f} s", ", ".join(status),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *lines]


def write(folders: list[str], out: Path) -> Path:
    """Writes report.md and curves.png of runs and sweeps into out; returns the first.

    Raises:
      UserError: a folder is no run.
    """
    found = [result for folder in folders for result in results(Path(folder))]
    ends: Rows = []
    curves: Rows = []
    for result, about in zip(found, agents(found), strict=True):
        name = ", ".join(f"{k} {v}" for k, v in about.items()).removeprefix("algorithm ")
        seed = result.fields["seed"]
        own = {"agent": name, "about": about, "seed": seed, "status": result.status}
        for rows, mine in zip((ends, curves), collect(result.folder), strict=True):
            rows += [{**own, **r, "task": r["task"] or result.task} for r in mine]
    out.mkdir(parents=True, exist_ok=True)
    plot(out / "curves.png", ends, curves)
    text = [
        "# Runs",
        "",
        *table(ends),
        "",
        "Returns: mean over seeds of the mean over episodes at the end, with its 95 % interval by "
        "bootstrap over seeds; * of a single seed, over its episodes. The best score stands first: "
        "it is the return of the kind of play that each row names. Steps and time: median of the "
        "seeds.",
        "",
        "![learning curves](curves.png)",
        "",
        *(f"- {result.folder}: seed {result.fields['seed']}, {result.status}" for result in found),
    ]
    (out / "report.md").write_text("\n".join(text) + "\n")
    return out / "report.md"


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    out, folders = cli.take(args, "--out")
    unknown = [word for word in folders if word.startswith("--")]
    if unknown:
        raise UserError(f"there is no field {unknown[0]!r}, only --out")
    if not folders:
        raise UserError('no run is named: make report RUNS="runs/... runs/..."')
    path = write([cli.run_folder(folder) for folder in folders], Path(out or OUT))
    print(path.read_text() + f"\nsaved {path} and curves.png beside it")


if __name__ == "__main__":
    output.make_lasting()
    sys.exit(cli.exit_code(lambda: main(sys.argv[1:])))
