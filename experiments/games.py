"""PPO learns TicTacToe and ConnectFour by self-play: `make train ALGO=ppo ENV=TicTacToe-v1`.

    python -m experiments.games [--seeds 5] [--jobs 2] [--only tictactoe connectfour]

Each run ends with 1,000 games against each player that does not learn, in each way to play. Then
its newest policy plays 1,000 games against its past self of a tenth of the run.
"""

import dataclasses
from pathlib import Path

import numpy as np

from experiments.study import RESULTS, Options, check_only, study, write
from rlsys import cli, train
from rlsys.acting.playing import SEED
from rlsys.results import evaluate, gather, league, match

TASKS = {"tictactoe": "TicTacToe-v1", "connectfour": "ConnectFour-v1"}
WORDS = "--eval-episodes 1000 --eval-every 500000 --no-gif"
GAMES = 1_000


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """PPO plays games of two against itself."""

    only: tuple[str, ...] = tuple(TASKS)
    """The games."""

    def __post_init__(self):
        check_only("game", self.only, TASKS)


def main(config: Config) -> None:
    for name in config.only:
        study(name, {"ppo": ["ppo", "--env", TASKS[name], *WORDS.split()]}, config)
        rows = []
        for seed in range(config.seeds):
            rows += against_past(seed, Path(config.runs) / f"{name}-ppo-{seed}")
        write(RESULTS / f"{name}-past.csv", rows)
        for mode in dict.fromkeys(row["mode"] for row in rows):
            found = [row["score"] for row in rows if row["mode"] == mode]
            mean, low, high = evaluate.mean_interval(found)
            print(f"{name}, {mode}, against its past: {mean:.3f} ({low:.3f} to {high:.3f})")


def against_past(seed: int, folder: Path) -> gather.Rows:
    """Has a run's newest policy play its past self that is nearest to a tenth of the run; a row for
    each way to play."""
    algorithm, config = train.load(str(folder))
    rows = []
    for mode in algorithm.eval_modes:
        run = match.open_run(algorithm, config, mode)
        *past, newest = league.snapshots(run)
        early = min(past, key=lambda x: abs(x.env_steps - newest.env_steps / 10))
        contenders = [run.contender(x.name, x.params) for x in (newest, early)]
        pairs = np.repeat([[0, 1], [1, 0]], GAMES // 2, axis=0)
        played = match.play(contenders, pairs, run.game, SEED)
        points = np.where(played.pairs[:, 0] == 0, played.points, 1 - played.points)
        wins = {"won": int((points == 1).sum()), "drawn": int((points == 0.5).sum())}
        about = {"seed": seed, "mode": mode, "env_steps": newest.env_steps}
        steps = {"env_steps_of_past": early.env_steps, "games": GAMES}
        rows.append({**about, **steps, **wins, "score": float(points.mean())})
    return rows


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
