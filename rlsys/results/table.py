"""The table of a report: a row for each agent and task, the best first."""

from typing import Any

import numpy as np

from rlsys.results import evaluate
from rlsys.results.gather import Rows, group


def mean_score(rows: Rows) -> float:
    """The mean score of some rows of gather.collect; the least there is if there is none."""
    returns = [row["results"][row["score"]]["mean"] for row in rows if row["results"]]
    return float(np.mean(returns)) if returns else -np.inf


def _cell(rows: Rows, kind: str) -> str:
    """The return of one kind of play: the mean over seeds, and its interval. Of two or three seeds
    it runs from the least to the largest, as more than 2.5 % of resamples are of one seed alone."""
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


def table(ends: Rows) -> list[str]:
    """Lines of markdown: a row for each agent and task, the best first.

    ends: as of gather.collect, with agent, seed, status and about (what gather.agents gave) in each
      row.
    """
    fields = list(dict.fromkeys(name for row in ends for name in row["about"]))
    kinds = list(dict.fromkeys(kind for row in ends for kind in row["results"]))
    returns = [f"{kind} return" for kind in kinds]
    head = ["task", *fields, "seeds", "score", *returns, "steps", "time", "status"]
    lines = []
    groups = sorted(
        group(ends, "task", "agent").items(), key=lambda x: (x[0][0], -mean_score(x[1]))
    )
    for (task, _), rows in groups:
        score = next((r["score"] for r in rows if r["score"]), "-")
        status = [f"{len(same)} {name}" for (name,), same in group(rows, "status").items()]
        steps, seconds = (np.median([r[k] for r in rows]) for k in ("env_steps", "seconds"))
        cells: list[Any] = [
            task, *(str(rows[0]["about"].get(name, "")) for name in fields),
            ", ".join(str(r["seed"]) for r in rows), score, *(_cell(rows, kind) for kind in kinds),
            f"{steps:,.0f}", f"{seconds:,.0f} s", ", ".join(status),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *lines]
