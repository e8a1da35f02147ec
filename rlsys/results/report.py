"""Compares the results of runs and sweeps: a table and learning curves.

python -m rlsys.results.report RUN [RUN ...] [--out DIR] [--all-fields]

It writes report.md and curves.png into DIR, runs/report unless it is named.
Runs that differ in nothing but the seed are one agent, of whom the mean is shown. Fields that
change nothing of what is learned, such as log_every, set agents apart with --all-fields alone.
"""

import os
import sys
from pathlib import Path

from rlsys import cli
from rlsys.results import curves as learning_curves
from rlsys.results import evaluations, exploit, ranges, transfer
from rlsys.results.gather import Result, Rows, agents, collect, group, results
from rlsys.results.table import table
from rlsys.running import output
from rlsys.types import UserError

OUT = "runs/report"


def write(folders: list[str], out: Path, *, all_fields: bool = False) -> Path:
    """Writes report.md and curves.png of runs and sweeps into out; returns the first.

    Raises:
      UserError: a folder is no run, or the report cannot be written.
    """
    found = [result for folder in folders for result in results(Path(folder))]
    ends: Rows = []
    curves: Rows = []
    for i, (result, about) in enumerate(
        zip(found, agents(found, all_fields=all_fields), strict=True)
    ):
        name = ", ".join(f"{k} {v}" for k, v in about.items()).removeprefix("algorithm ")
        own = {"agent": name, "about": about, "seed": result.seed, "run": i}
        for rows, mine in zip((ends, curves), collect(result), strict=True):
            rows += [{**own, **r, "task": r["task"] or result.task} for r in mine]
    for row in ends:
        row["status"] = found[row["run"]].status(row["env_steps"])
    twice = repeated(ends)
    ends, curves = ([r for r in rows if r["run"] not in twice] for rows in (ends, curves))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be made: {error.strerror}") from None
    learning_curves.plot(out / "curves.png", ends, curves)
    text = [
        "# Runs",
        "",
        *table(ends),
        "",
        "Returns: mean over seeds of the mean over episodes. Their intervals are 95 % intervals by "
        "bootstrap resampling over seeds, or over episodes where there is one seed (*), and with "
        "five seeds or fewer they are too narrow. The best score stands first: it is the "
        "return of the kind of play that each row names. Of several evaluations of a run that of "
        "the newest parameters counts, and of those the one of most episodes. Steps and time: "
        "median of the seeds.",
        "",
        "![learning curves](curves.png)",
        "",
        *_transfers(found, ends),
        *(
            _line(result, i, ends) + _gifs(result.folder, out)
            for i, result in enumerate(found)
            if i not in twice
        ),
        *(
            f"- {found[i].folder}: not counted, because it has the fields and the seed of "
            f"{found[other].folder}"
            for i, other in twice.items()
        ),
    ]
    (out / "report.md").write_text("\n".join(text) + "\n")
    return out / "report.md"


def _transfers(found: list[Result], ends: Rows) -> list[str]:
    """Lines on the domains in which runs were tested."""
    tested: dict[str, list[Rows]] = {}
    for (agent, number), _ in group(ends, "agent", "run").items():
        if rows := transfer.read_rows(found[number].folder):
            tested.setdefault(agent, []).append(rows)
    if not tested:
        return []
    return [
        "Transfer: the mean return in domains that training did not have, with an interval as "
        "that of the returns above.",
        "",
        *transfer.table(tested),
        "",
    ]


def repeated(ends: Rows) -> dict[int, int]:
    """Find runs that repeat another, with the same fields and the same seed, and so are no second
    seed. Of such runs the one that went furthest counts, and of those the first.

    ends: as of gather.collect, with agent, seed and run (its number) in each row.

    Returns:
      the number of the run that counts, by the number of each that does not.
    """
    found: dict[int, int] = {}
    for rows in group(ends, "agent", "task", "seed").values():
        first = max(rows, key=lambda row: (row["env_steps"], row["evaluated_at"] or 0))
        found |= {row["run"]: first["run"] for row in rows if row["run"] != first["run"]}
    return found


def _line(result: Result, number: int, ends: Rows) -> str:
    """Tells a run's folder, seed, how far it went and what its evaluation played."""
    row = next(row for row in ends if row["run"] == number)
    total = result.fields["env_steps"]
    far = "" if row["status"] == "finished" else f" at {row['env_steps']:,} of {total:,} steps"
    played = "not evaluated"
    if kept := evaluations.read(result.folder):
        played = f"evaluated at step {kept[0]['env_steps']:,} with {kept[0]['episodes']:,} episodes"
        played += f" from seed {kept[0]['seed']}"
        played += f" ({len(kept) - 1} more in evaluation.json)" if len(kept) > 1 else ""
    won = exploit.sentence(result.folder)
    won = f", {won}" if won else ""
    return f"- {result.folder}: seed {result.seed}, {row['status']}{far}, {played}{won}"


def _gifs(folder: Path, out: Path) -> str:
    """Links a run's gifs, its heat map of transfer and its ranges, from a report in the folder out;
    nothing if there are none."""
    names = "*.gif", "transfer.png", ranges.NAME
    pictures = [x for name in names for x in sorted(folder.glob(name))]
    return "".join(f", [{x.name}]({os.path.relpath(x, out)})" for x in pictures)


def main(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    out, folders = cli.take(args, "--out")
    all_fields = "--all-fields" in folders
    folders = [word for word in folders if word != "--all-fields"]
    unknown = [word for word in folders if word.startswith("--")]
    if unknown:
        raise UserError(f"there is no field {unknown[0]!r}, only --out and --all-fields")
    if not folders:
        raise UserError('no run is named: make report RUNS="runs/... runs/..."')
    folders = [cli.run_folder(folder) for folder in folders]
    path = write(folders, Path(out or OUT), all_fields=all_fields)
    print(path.read_text() + f"\nsaved {path} and curves.png beside it")


if __name__ == "__main__":
    output.make_lasting()
    sys.exit(cli.exit_code(lambda: main(sys.argv[1:])))
