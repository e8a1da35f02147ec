"""PPO learns to turn a block in a Shadow Hand whose physics, noise and delays are Dactyl's.

    python -m experiments.shadow_hand [--seeds 1]

One run at a time, on all cores: 2.5 million steps are an hour on two. It is the README's command,
with evaluations on the way.

Writes results/shadow-hand.csv, -curves.csv and .png of the returns, and shadow-hand-evaluations.csv
and .png of the goals that are reached in an episode.
"""

from pathlib import Path

from experiments.study import RESULTS, Options, plot_ranges, study, write
from rlsys import cli
from rlsys.running import metrics_file

NAME = "shadow-hand"
WORDS = (
    "ppo --env HandManipulateBlockRotateZDense-v1 --randomise.preset dactyl --env-steps 2500000 "
    "--eval-every 250000 --eval-episodes 32 --no-gif"
)
KEYS = {"successes": "eval/successes", "return": "eval/sampled_return"}


def main(options: Options) -> None:
    study(NAME, {"ppo": WORDS.split()}, options, pinned=False)
    rows = [
        {"seed": seed, "env_steps": line["env_steps"], **{k: line[v] for k, v in KEYS.items()}}
        for seed in range(options.seeds)
        for line in metrics_file.read(Path(options.runs) / f"{NAME}-ppo-{seed}")
        if line.get("eval/successes") is not None
    ]
    write(RESULTS / f"{NAME}-evaluations.csv", rows)
    picture = RESULTS / f"{NAME}-evaluations.png"
    plot_ranges(picture, {"sampled": rows}, "successes", ylabel="goals reached in an episode")


if __name__ == "__main__":
    cli.run(main, Options(seeds=1, jobs=1), __doc__)
