"""How far apart the qualities of past selves drift by chance, were all of them equally strong.

    python -m experiments.quality_noise

The paper's rule (losses/opponent_quality.py) lowers the quality of a past self that loses by
eta / (N p_i). Its mean is the same for all past selves that lose alike, but not its variance: one
that is seldom drawn falls far when it is. One draw decides the opponent of many games here, as one
call acts for all, so that their steps come together. This simulates the 76 unrolls of Kuhn poker in
experiments.self_play: about 200 games against past selves in each, and one more of them after every
2. Each game is won with the same probability, whoever plays. Writes results/quality-noise.csv.
"""

import numpy as np

from experiments.study import RESULTS, write
from rlsys.acting.opponents import Pool, Result, after_game, join, probabilities

UNROLLS, GAMES, EVERY, MOST = 76, 200, 2, 50
RUNS = 100
SETTINGS = [  # draws of an unroll, eta, probability with which the learner wins
    (4, 0.01, 0.5),
    (26, 0.01, 0.5),
    (200, 0.01, 0.5),
    (4, 0.01, 0.95),
    (4, 0.001, 0.5),
]


def quality_range(draws: int, eta: float, wins: float, seed: int) -> float:
    """Simulates a run, and returns the distance of its highest and its lowest quality at the end.

    Args:
      draws: of past selves in an unroll; each decides the opponent of GAMES / draws games.
      eta: the size of a step.
      wins: the probability with which the learner wins a game.
      seed: the draws and games follow from it.
    """
    random = np.random.default_rng([seed, draws])
    pool: Pool = join((), None, 0, 0, MOST)
    for unroll in range(UNROLLS):
        chance = probabilities(pool)
        drawn = random.choice(len(pool), size=draws, p=chance)
        results = [
            Result(pool[i].number, len(pool) * chance[i], 1.0)
            for i in drawn
            for _ in range(random.binomial(GAMES // draws, wins))
        ]
        for result in results:
            pool = after_game(pool, result, eta)
        if (unroll + 1) % EVERY == 0:
            pool = join(pool, None, 0, unroll + 1, MOST)
    quality = [x.quality for x in pool]
    return max(quality) - min(quality)


def main() -> None:
    rows = []
    for draws, eta, wins in SETTINGS:
        found = [quality_range(draws, eta, wins, seed) for seed in range(RUNS)]
        low, median, high = np.percentile(found, [5, 50, 95]).tolist()
        rows.append(
            {
                "draws": draws,
                "games_of_a_draw": GAMES // draws,
                "eta": eta,
                "win_probability": wins,
                "quality_range_median": round(median, 2),
                "percentile_5": round(low, 2),
                "percentile_95": round(high, 2),
                "runs": RUNS,
            }
        )
        print(rows[-1], flush=True)
    write(RESULTS / "quality-noise.csv", rows)


if __name__ == "__main__":
    main()
