"""Whether past selves as opponents make PPO stronger in ConnectFour.

    python -m experiments.connectfour [--seeds 5] [--jobs 2]

Each arm's final policies play those of every other seed, of all arms, which were trained apart from
them, and a player that wins or blocks if one move can.

Writes results/connectfour-arms.csv, -curves.csv, .png, and -cross-play.csv.
"""

import dataclasses
import itertools
from pathlib import Path

import numpy as np

from experiments import games
from experiments.study import RESULTS, Options, study, write
from rlsys import cli, train
from rlsys.results import evaluate, gather, match

NAME = "connectfour-arms"
ARMS = {
    "current-self": "--past-share 0",
    "past-20%": "--past-share 0.2",
    "past-20%-uniform": "--past-share 0.2 --past-eta 0",
}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """PPO's self-play in ConnectFour, against the current self alone and with past selves."""

    games: int = 200
    """The number of games of each pair of policies, an even one."""


def main(config: Config) -> None:
    words = ["ppo", "--env", games.TASKS["connectfour"], *games.WORDS.split()]
    study(NAME, {arm: [*words, *more.split()] for arm, more in ARMS.items()}, config)
    rows = cross_play(config)
    write(RESULTS / f"{NAME}-cross-play.csv", rows)
    for arm, other in itertools.product(ARMS, [*ARMS, "blocker"]):
        found = gather.group([x for x in rows if (x["arm"], x["against"]) == (arm, other)], "seed")
        scores = [np.mean([x["score"] for x in mine]) for mine in found.values()]
        mean, low, high = evaluate.mean_interval(scores)
        print(f"{arm} against {other}: score {mean:.3f} ({low:.3f} to {high:.3f})")


def cross_play(config: Config) -> gather.Rows:
    """Plays all policies against those of other seeds; a row for each ordered pair."""
    who = list(itertools.product(ARMS, range(config.seeds)))
    runs = [
        match.open_run(*train.load(str(Path(config.runs) / f"{NAME}-{arm}-{seed}")))
        for arm, seed in who
    ]
    contenders = [
        run.contender(f"{arm} {seed}") for run, (arm, seed) in zip(runs, who, strict=True)
    ]
    contenders.append(match.player_contender("blocker", runs[0].game))
    names = [*who, ("blocker", -1)]
    pairs = [(i, j) for i, j in np.ndindex(len(names), len(names)) if names[i][1] != names[j][1]]
    played = match.play(contenders, np.tile(pairs, (config.games // 2, 1)), runs[0].game)
    points = np.zeros((len(names), len(names)))  # of row against column, over all games
    first, second = played.pairs.T
    np.add.at(points, (first, second), played.points)
    np.add.at(points, (second, first), 1.0 - played.points)
    return [
        {
            "arm": names[i][0],
            "seed": names[i][1],
            "against": names[j][0],
            "against_seed": names[j][1],
            "games": config.games,
            "score": points[i, j] / config.games,
        }
        for i, j in pairs
        if names[i][0] in ARMS
    ]


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
