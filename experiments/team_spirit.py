"""Team spirit fixed at 0, fixed at 1, and raised from 0.3 to 1, as of OpenAI Five, in SMAX 5 vs 5.

    python -m experiments.team_spirit [--seeds 5] [--jobs 2]

Each run ends with games against the scripted enemies. Then the final policies of all arms play each
other: those of one seed against each other's, both as first and as second team.

Writes results/team-spirit.csv with the games at the end, -curves.csv and .png with win rates over
the run, and -cross-play.csv.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from experiments.study import RESULTS, Options, check_only, play_all, plot_ranges, write
from rlsys import cli
from rlsys.results import evaluations, gather
from rlsys.results.evaluate import mean_interval
from rlsys.results.match import MatchConfig, match
from rlsys.running import metrics_file
from rlsys.train import load

NAME = "team-spirit"
ARMS = {"tau-0": (0.0, 0.0), "tau-1": (1.0, 1.0), "annealed": (0.3, 1.0)}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Team spirit fixed at 0, fixed at 1, and raised from 0.3 to 1."""

    env: str = "smax/5m"
    """The game."""
    env_steps: int = 10_000_000
    """The environment steps of each run, counted over all units."""
    only: tuple[str, ...] = tuple(ARMS)
    """The arms."""
    games: int = 400
    """The number of games of each pair of policies in cross-play."""

    def __post_init__(self):
        check_only("arm", self.only, ARMS)


def words(options: Config, start: float, end: float) -> list[str]:
    """The words that train one arm."""
    fields = {
        "env": options.env,
        "env-steps": options.env_steps,
        "eval-every": max(options.env_steps // 10, 1),
        "eval-episodes": 256,
        "team-spirit": start,
        "team-spirit-end": end,
    }
    return ["ppo", "--no-gif", *(f"--{name}={value}" for name, value in fields.items())]


def cross_play(options: Config) -> list[dict[str, Any]]:
    """Plays the arms of each seed against each other; gives a line for each pair and seed."""
    lines = []
    for seed, (one, other) in itertools.product(
        range(options.seeds), itertools.combinations(options.only, 2)
    ):
        sides = [load(str(Path(options.runs) / f"{NAME}-{arm}-{seed}")) for arm in (one, other)]
        out = Path(options.runs) / "matches" / f"{NAME}-{one}-{other}-{seed}.json"
        match(sides, MatchConfig(episodes=options.games, out=str(out)))
        result = json.loads(out.read_text())["result"]
        lines.append({"arm": one, "against": other, "seed": seed, **result})
    return lines


def describe(arms: tuple[str, ...], lines: list[dict[str, Any]]) -> list[str]:
    """A line for each pair of arms: the mean score over seeds, with its 95 % interval."""
    text = []
    for one, other in itertools.combinations(arms, 2):
        scores = [x["score"] for x in lines if (x["arm"], x["against"]) == (one, other)]
        mean, low, high = mean_interval(scores)
        seeds = ", ".join(f"{x:.3f}" for x in scores)
        text.append(
            f"{one} against {other}: score {mean:.3f} (95 % interval of the mean {low:.3f} to "
            f"{high:.3f}; seeds {seeds})"
        )
    return text


def win_rates(options: Config) -> tuple[gather.Rows, gather.Rows]:
    """Gives how often policies beat the scripted enemies: at the end of each run, and during it."""
    ends: gather.Rows = []
    curves: gather.Rows = []
    for arm, seed in itertools.product(options.only, range(options.seeds)):
        folder, about = Path(options.runs) / f"{NAME}-{arm}-{seed}", {"arm": arm, "seed": seed}
        kept, *_ = evaluations.read(folder)
        for mode, found in kept["results"].items():
            counts = {key: found[key] for key in ("episodes", "won", "drawn", "lost")}
            ends.append(about | {"mode": mode, "env_steps": kept["env_steps"]} | counts)
            curves += [
                about | {"mode": mode, "env_steps": x["env_steps"], "win_rate": x[name]}
                for x in metrics_file.read(folder)
                if (name := f"eval/{mode}_win_rate") in x
            ]
    return ends, curves


def describe_ends(ends: gather.Rows) -> list[str]:
    """A line for each arm and way to play: the mean win rate over seeds, with its interval."""
    text = []
    for (arm, mode), rows in gather.group(ends, "arm", "mode").items():
        mean, low, high = mean_interval([row["won"] / row["episodes"] for row in rows])
        text.append(f"{arm}, {mode}: win rate {mean:.3f} ({low:.3f} to {high:.3f})")
    return text


def main(options: Config) -> None:
    """Trains the arms, and has them play each other."""
    play_all(NAME, {arm: words(options, *ARMS[arm]) for arm in options.only}, options)
    ends, curves = win_rates(options)
    write(RESULTS / f"{NAME}.csv", ends)
    write(RESULTS / f"{NAME}-curves.csv", curves)
    labels = {f"{a}, {m}": rows for (a, m), rows in gather.group(curves, "arm", "mode").items()}
    name = "win rate against the scripted enemies"
    plot_ranges(RESULTS / f"{NAME}.png", labels, "win_rate", ylabel=name, ylim=(0, 1))
    print("against the scripted enemies, with the 95 % interval of the mean over seeds:")
    print("\n".join(describe_ends(ends)))
    lines = cross_play(options)
    if lines:
        write(RESULTS / f"{NAME}-cross-play.csv", lines)
        print("\n".join(describe(options.only, lines)))


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
