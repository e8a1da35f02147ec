"""A run's past selves and its newest policy play each other: how its strength grew.

Ratings, the Nash average and the score against random moves go into ratings.csv, and with the
scores of all pairs into ratings.png.
"""

import csv
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rlsys.acting.opponents import PastSelf
from rlsys.acting.playing import SEED
from rlsys.config import check_at_least
from rlsys.results import match, ratings
from rlsys.results.curves import short
from rlsys.running import files
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import Checkpoints
from rlsys.types import UserError

ANNOTATED = 12  # a matrix of at most so many players has its numbers written into it


@dataclasses.dataclass(frozen=True)
class RatingsConfig:
    """Rates a run's past selves and its newest policy by games against each other."""

    games: int = 40
    """The number of games of each pair, an even one: each side begins half of them."""
    selves: int = 16
    """The largest number of past selves that play, evenly spread over the run; 0 for all that the
    checkpoint holds."""
    mode: str = ""
    """How policies play: sampled draws actions as in training, greedy plays the likeliest one. If
    empty, in the way that is the algorithm's score."""
    seed: int = SEED
    """The games and all random moves follow from it."""

    def __post_init__(self):
        if self.games < 2 or self.games % 2:
            raise UserError(
                f"games must be 2 or more, and even, as each side begins half of them, not "
                f"{self.games}"
            )
        check_at_least(self, 0, "selves seed")


class Snapshot(NamedTuple):
    """A policy of a run, as it was."""

    name: str
    env_steps: int
    params: Any


class Table(NamedTuple):
    """The results of S snapshots."""

    score: np.ndarray  # [S, S] of row against column, NaN on the diagonal
    against_random: np.ndarray  # [S] score
    elo: ratings.Elo
    nash: ratings.NashAverage
    games: int  # of each pair


def snapshots(run: match.RunOfGame, most: int = 0) -> list[Snapshot]:
    """Reads the past selves in a run's newest checkpoint, oldest first, and the newest policy last.

    Args:
      most: the largest number of past selves, evenly spread; 0 for all.

    Raises:
      UserError: the run has no past selves.
    """
    folder = run.config.run_dir
    if not run.config.has_past_selves:
        raise UserError(f"{folder} has no past selves to rate: it was not trained with past_share")
    if frozen := run.config.self_play.frozen:
        raise UserError(f"{folder} has no past selves to rate: it was trained against {frozen}")
    past = [Snapshot(str(x.number), x.env_steps, x.params) for x in read_pool(run)]
    if past[-1].env_steps == run.agent.env_steps:  # it is the newest policy
        del past[-1]
    if most and len(past) > most:
        past = [past[round(i)] for i in np.linspace(0, len(past) - 1, most)]
    return [*past, Snapshot("newest", run.agent.env_steps, run.agent.params)]


def read_pool(run: match.RunOfGame) -> list[PastSelf]:
    """Reads the pool of past selves in a run's newest checkpoint, oldest first."""
    checkpoints = Checkpoints(Path(run.config.run_dir) / "checkpoints")
    number = checkpoints.newest(["learner", "opponents"])
    about = checkpoints.meta(number)["opponents"]["past_selves"]
    every = {str(i): run.agent.params for i in range(len(about))}
    saved = checkpoints.restore({"opponents": every}, number)[1]["opponents"]
    pool = [PastSelf(**x)._replace(params=saved[str(i)]) for i, x in enumerate(about)]
    return sorted(pool, key=lambda x: x.number)


def round_robin(
    run: match.RunOfGame, found: list[Snapshot], num_games: int, seed: int = SEED
) -> Table:
    """Has snapshots play each other and a player of random moves.

    Args:
      num_games: of each pair, even.
      seed: the games follow from it.
    """
    number = len(found)
    contenders = [run.contender(x.name, x.params) for x in found]
    contenders.append(match.player_contender("random", run.game))
    pairs = np.argwhere(~np.eye(number + 1, dtype=bool))  # each begins against each
    played = match.play(contenders, np.tile(pairs, (num_games // 2, 1)), run.game, seed)
    points = np.zeros((number + 1, number + 1))
    first, second = played.pairs.T
    np.add.at(points, (first, second), played.points)
    np.add.at(points, (second, first), 1.0 - played.points)
    of_random, points = points[:-1, -1], points[:-1, :-1]
    games = num_games * (1.0 - np.eye(number))
    score = np.where(games > 0, points / num_games, np.nan)
    nash = ratings.nash_average(ratings.logits(points, games))
    return Table(score, of_random / num_games, ratings.elo(points, games), nash, num_games)


def rows(found: list[Snapshot], table: Table) -> list[dict[str, Any]]:
    """The lines of ratings.csv."""
    return [
        {
            "snapshot": x.name,
            "env_steps": x.env_steps,
            "elo": float(table.elo.rating[i]),
            "elo_half_width_95": float(table.elo.half_width[i]),
            "nash_average": float(table.nash.skill[i]),
            "nash_share": float(table.nash.share[i]),
            "score_against_random": float(table.against_random[i]),
            "games_per_pair": table.games,
        }
        for i, x in enumerate(found)
    ]


def describe(lines: list[dict[str, Any]]) -> list[str]:
    """The table that is printed, and what its columns are."""
    text = ["snapshot    env steps      Elo  +-   Nash average   share   against random"]
    for x in lines:
        text.append(
            f"{x['snapshot']:<8}{x['env_steps']:>13,}{x['elo']:>9.0f}"
            f"{x['elo_half_width_95']:>4.0f}{-abs(round(x['nash_average'], 3)) or 0.0:>15.3f}"
            f"{x['nash_share']:>8.2f}{x['score_against_random']:>17.3f}"
        )
    return [
        *text,
        "Elo: of mean 0, with its 95 % interval. Nash average: log odds against the",
        "strongest mixture of all, 0 for those in it; share: their part of the mixture.",
        "against random: the mean of 1 for a win, 0.5 for a draw.",
    ]


def plot(path: Path, found: list[Snapshot], table: Table, title: str) -> None:
    """Draws the scores of all pairs, and the ratings over environment steps."""
    number = len(found)
    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    left.set_facecolor("0.85")  # the diagonal
    image = left.imshow(table.score, cmap="RdBu", vmin=0.0, vmax=1.0)
    names = [short(float(f"{x.env_steps:.3g}"), None) for x in found]
    names[-1] += "\nnewest"
    every = max(1, -(-number // 18))
    ticks = range((number - 1) % every, number, every)  # the newest among them
    left.set_xticks(ticks, [names[i] for i in ticks], rotation=60, fontsize=8)
    left.set_yticks(ticks, [names[i].replace("\n", " ") for i in ticks], fontsize=8)
    left.set_xlabel("environment steps of the opponent")
    left.set_ylabel("environment steps of the player")
    left.set_title(f"score of row against column, {table.games} games a pair", fontsize=10)
    figure.colorbar(image, ax=left, shrink=0.85, label="1: the row won all, 0: it lost all")
    if number <= ANNOTATED:
        for (i, j), value in np.ndenumerate(table.score):
            if i != j:
                dark = abs(value - 0.5) > 0.35
                left.text(
                    j, i, f"{value:.2f}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black",
                )  # fmt: skip
    steps = [x.env_steps for x in found]
    (elo,) = right.plot(steps, table.elo.rating, marker="o", markersize=4, color="C0")
    low, high = (table.elo.rating + sign * table.elo.half_width for sign in (-1, 1))
    right.fill_between(steps, low, high, color="C0", alpha=0.18, linewidth=0)
    right.set_xlabel("environment steps")
    right.set_ylabel("Elo, of mean 0; band: 95 % interval", color="C0")
    right.xaxis.set_major_formatter(short)
    right.grid(alpha=0.25)
    other = right.twinx()
    (random,) = other.plot(steps, table.against_random, color="C1", linestyle="--")
    other.set_ylim(-0.03, 1.03)
    other.set_ylabel("score against random moves", color="C1")
    right.spines["top"].set_visible(False)
    other.spines["top"].set_visible(False)
    right.legend(
        [elo, random], ["Elo", "score against random"], loc="lower right", fontsize=8, frameon=False
    )
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110, format="png")


def rate_run(algorithm: Algorithm, config: Any, options: RatingsConfig) -> list[dict[str, Any]]:
    """Rates a run's snapshots, prints a table, and writes ratings.csv and ratings.png into the
    run's folder. Gives the table's lines.

    Raises:
      UserError: the run has no past selves, or the disk is full.
    """
    run = match.open_run(algorithm, config, options.mode)
    found = snapshots(run, options.selves)
    num_pairs = len(found) * (len(found) + 1) // 2
    print(
        f"{run.game.name}: {len(found) - 1} past selves, the newest policy and random moves play\n"
        f"{num_pairs * options.games:,} games ({run.mode})",
        flush=True,
    )
    table = round_robin(run, found, options.games, options.seed)
    lines, folder = rows(found, table), Path(config.run_dir)
    print("\n".join(describe(lines)))
    title = f"{folder.name}: {run.game.name}, {run.mode} play"
    for name in ("ratings.csv", "ratings.png"):
        try:
            with files.replacing(folder / name) as new:
                if name.endswith("csv"):
                    with new.open("w", newline="") as file:
                        writer = csv.DictWriter(file, list(lines[0]))
                        writer.writeheader()
                        writer.writerows(lines)
                else:
                    plot(new, found, table, title)
        except OSError as error:
            raise UserError(
                f"{folder / name} could not be written: {error.strerror or error}"
            ) from None
    print(f"saved {folder}/ratings.csv and ratings.png")
    return lines
