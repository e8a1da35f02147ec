"""Does a policy keep learning, and keep what it learned? Default tasks with a rate that stays.

    python -m experiments.constant_rate [--seeds 5] [--jobs 2]

A return alone does not tell: a policy that is frozen scores as well as one that learns. So the
learning rate is held constant for 1.5 million steps (2 million for IMPALA, which learns later), and
the log is looked at from the step on by which the task should be learned.
experiments/results/constant-rate-log.csv has a row for each seed: medians of KL, gradient norm,
explained variance and entropy, the share of clipped gradients, the least and the median training
return, and the run's health.
"""

import json
from pathlib import Path

import numpy as np

from experiments.study import RESULTS, Options, study, write
from rlsys import algorithms, cli
from rlsys.config import from_dict
from rlsys.running import metrics_file
from rlsys.running.health import Health

STAYS = "--learning-rate-decay 0 --env-steps"
AGENTS = {  # words of the command line, and the step by which the task should be learned
    "ppo": (f"ppo {STAYS} 1500000", 500_000),
    "recurrent-ppo": (f"ppo --preset recurrent {STAYS} 1500000", 500_000),
    "impala": (f"impala {STAYS} 2000000", 1_000_000),
}


def summarize(folder: Path, learned_by: int) -> dict[str, float | str]:
    """The log of a run from a step on, and the health of the whole run."""
    saved = json.loads((folder / "config.json").read_text())
    config = from_dict(algorithms.find(saved["algorithm"]).Config, saved["config"])
    lines, health = metrics_file.read(folder), Health(config)
    for line in lines:
        health.observe(line)
    late = [line for line in lines if line["env_steps"] >= learned_by]

    def known(name: str) -> list[float]:
        return [line[name] for line in late if line[name] is not None]

    norms = np.array(known("gradient_norm")) / config.max_gradient_norm
    # At a checkpoint a line has what there is; of few episodes the short ones have ended first.
    returns = [line["episode_return"] for line in late if line["episodes"] >= config.num_envs]
    return {
        "kl_median": np.median(known("kl")),
        "gradient_norm_over_clip_median": np.median(norms),
        "gradient_norm_over_clip_max": norms.max(),
        "gradients_clipped": np.mean(known("gradient_clipped")),
        "explained_variance_median": np.median(known("explained_variance")),
        "entropy_median": np.median(known("entropy")),
        "return_min": min(returns),
        "return_median": np.median(returns),
        "health": health.summary(),
    }


def main(options: Options) -> None:
    study("constant-rate", {name: words.split() for name, (words, _) in AGENTS.items()}, options)
    rows = []
    for agent, (_, learned_by) in AGENTS.items():
        for seed in range(options.seeds):
            folder = Path(options.runs) / f"constant-rate-{agent}-{seed}"
            row = {"agent": agent, "seed": seed, "from_env_steps": learned_by}
            rows.append(row | summarize(folder, learned_by))
            print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}"
                            for k, v in rows[-1].items()))  # fmt: skip
    write(RESULTS / "constant-rate-log.csv", rows)


if __name__ == "__main__":
    cli.run(main, Options(), __doc__)
