"""Which parts of Dactyl's training help a policy in physics that it never saw: the grid of the
paper's tables 4 and 5, on two tasks that two cores learn.

    python -m experiments.dactyl [--seeds 5] [--jobs 2] [--only InvertedPendulum-v5]

OpenAI et al. 2018, "Learning Dexterous In-Hand Manipulation", https://arxiv.org/abs/1808.00177.
Each arm leaves one thing out, or changes one. All are tested in the same domains: physics and
effects beyond the ranges of the arm that has everything, and others that none was trained on. One
arm, on the first task, widens its ranges as it learns (OpenAI et al. 2019, "Solving Rubik's Cube
with a Robot Hand").

For each task: dactyl-<task>.csv has a row for each run and domain, and dactyl-<task>.png the means.
"""

import concurrent.futures
import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.study import RESULTS, Options, check_only, play_all, rlsys_train, write
from rlsys import cli
from rlsys.results import evaluate, gather, transfer
from rlsys.results.curves import short

PHYSICS = {
    "InvertedPendulum-v5": "gear=logscale:0.5:2 mass=scale:0.5:1.5 damping=logscale:0.3:3",
    "InvertedDoublePendulum-v5": "gear=logscale:0.5:1.5 mass=scale:0.7:1.3 damping=logscale:0.5:2",
}
WIDE = {  # where ranges widen as the policy learns, from the task as it is up to these
    "InvertedPendulum-v5": "gear=logscale:0.25:4 mass=scale:0.25:2.5 damping=logscale:0.1:10"
}
ADAPT = (
    "--randomise.adapt True --randomise.adapt-threshold-high 300 "
    "--randomise.adapt-threshold-low 150 --randomise.adapt-episodes 8 --randomise.adapt-step 0.15 "
    "--randomise.redraw-steps 500"
)
STEPS = {"InvertedPendulum-v5": 400_000, "InvertedDoublePendulum-v5": 600_000}
LIMIT = 500  # steps of an episode, half of what the tasks have
NOISE = "--randomise.observation-noise 0.01 --randomise.observation-offset 0.01"
EFFECTS = "--randomise.action-delay 0.5 --randomise.action-backlash 0.02"
ACTIONS = "--randomise.action-noise 0.05 --randomise.action-gain 0.05"
SHOW = "--randomise.show-value True"
MEMORY = "--core-size 32 --sequence-length 16"
LEARNING = (
    "--preset small --num-envs 64 --unroll-length 32 --refresh-steps 32 --minibatches 8 "
    "--learning-rate 1e-3 --entropy-cost 0.003 --separate-networks --normalize-observations "
    "--eval-episodes 32 --no-gif"
)


def arms_of(task: str) -> dict[str, str]:
    """The words of each arm, those of learning left out."""
    physics = f"--randomise.physics {PHYSICS[task]}"
    wide = (
        f"--randomise.physics {WIDE.get(task)} {ADAPT} {NOISE} {EFFECTS} {ACTIONS} {SHOW} {MEMORY}"
    )
    return {
        "everything": f"{physics} {NOISE} {EFFECTS} {ACTIONS} {SHOW} {MEMORY}",
        "no randomisation": MEMORY,
        "no observation noise": f"{physics} {EFFECTS} {ACTIONS} {SHOW} {MEMORY}",
        "no physics": f"{NOISE} {EFFECTS} {ACTIONS} {SHOW} {MEMORY}",
        "no unmodelled effects": f"{physics} {NOISE} {SHOW} {MEMORY}",
        "symmetric values": f"{physics} {NOISE} {EFFECTS} {ACTIONS} {MEMORY}",
        "feed-forward policy": (
            f"{physics} {NOISE} {EFFECTS} {ACTIONS} {SHOW} --value-core-size 32 "
            f"--sequence-length 16"
        ),
        "both feed-forward": f"{physics} {NOISE} {EFFECTS} {ACTIONS} {SHOW}",
        "Gaussian actions": (
            f"{physics} {NOISE} {EFFECTS} {ACTIONS} {SHOW} {MEMORY} --policy gaussian"
        ),
        **({"automatic ranges": wide} if task in WIDE else {}),
    }


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Dactyl's grid of what is randomised, of memory and of what the value function sees."""

    only: tuple[str, ...] = tuple(PHYSICS)
    """The tasks."""
    episodes: int = 20
    """The number of episodes in each domain."""

    def __post_init__(self):
        check_only("task", self.only, PHYSICS)


def main(config: Config) -> None:
    for task in config.only:
        words = f"ppo --env {task}:max_episode_steps={LIMIT} --env-steps {STEPS[task]} {LEARNING}"
        agents = {name: [*words.split(), *more.split()] for name, more in arms_of(task).items()}
        folders = play_all(f"dactyl-{task}", agents, config)
        by_seed = [{name: folders[name, seed] for name in agents} for seed in range(config.seeds)]
        with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
            list(pool.map(lambda arms: test([*arms.values()], config.episodes), by_seed))
        rows = [
            {"agent": name, "seed": seed, **row}
            for seed, arms in enumerate(by_seed)
            for name, folder in arms.items()
            for row in transfer.read_rows(folder)
        ]
        write(RESULTS / f"dactyl-{task}.csv", rows)
        draw(task, list(agents), rows)
        for name in agents:
            print(f"{task} {name}: {mean_of(rows, name)}", flush=True)


def test(folders: list[Path], episodes: int) -> None:
    """Tests the runs that were not tested before, in the domains of the first, which is then tested
    again, as its ranges make these domains."""
    first, *others = folders
    new = [folder for folder in others if not transfer.read_rows(folder)]
    if new or not transfer.read_rows(first):
        rlsys_train("transfer", *map(str, (first, *new)), f"--episodes={episodes}")


def mean_of(rows: gather.Rows, agent: str) -> str:
    """An arm's mean return by the kind of domain, over domains, with its interval over seeds."""
    words = []
    for (kind,), found in gather.group([r for r in rows if r["agent"] == agent], "kind").items():
        seeds = gather.group(found, "seed").values()
        mean, low, high = evaluate.mean_interval(np.mean([r["mean"] for r in x]) for x in seeds)
        words.append(f"{kind} {mean:.4g} ({low:.4g} to {high:.4g})")
    return ", ".join(words)


def draw(task: str, agents: list[str], rows: gather.Rows) -> None:
    """Draws each arm's mean return in each domain, over seeds."""
    domains = list(dict.fromkeys((row["domain"], row["kind"]) for row in rows))
    values = np.array(
        [
            [
                np.mean([r["mean"] for r in rows if r["agent"] == agent and r["domain"] == domain])
                for agent in agents
            ]
            for domain, _ in domains
        ]
    )
    figure = Figure(figsize=(2.5 + 0.75 * len(agents), 1.6 + 0.3 * len(domains)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(agents)), agents, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(domains)), [f"{a} ({b})" for a, b in domains], fontsize=8)
    for (i, j), value in np.ndenumerate(values):
        color = "black" if value > (values.min() + values.max()) / 2 else "white"
        axes.text(
            j, i, short(float(f"{value:.3g}"), None), ha="center", va="center", fontsize=7,
            color=color,
        )  # fmt: skip
    axes.set_title(f"{task}: mean return over seeds, by domain", fontsize=10)
    figure.colorbar(image, ax=axes)
    figure.savefig(RESULTS / f"dactyl-{task}.png", dpi=130)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
