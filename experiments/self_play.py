"""Whether past selves as opponents make a policy harder to exploit: PPO in Kuhn and Leduc poker.

    python -m experiments.self_play [--seeds 5] [--jobs 2]

For each game a csv of the exploitability at the end, a csv of it on the way, and a plot of that.
"""

import dataclasses

from matplotlib.figure import Figure

from experiments.study import RESULTS, Options, play_all, write
from rlsys import cli
from rlsys.acting.exploitability import NAME
from rlsys.results import evaluate, evaluations, gather
from rlsys.running import metrics_file

GAMES = {
    "KuhnPoker-v1": "--env-steps 600000 --entropy-cost 0.2",
    "LeducHoldem-v1": "--env-steps 1500000 --entropy-cost 0.1",
}
AGENTS = {
    "current-self": "--past-share 0",
    "past-20%": "--past-share 0.2 --past-every 2",
    "past-20%-uniform": "--past-share 0.2 --past-every 2 --past-eta 0",
    "current-self-lstm": "--past-share 0 --core-size 32 --sequence-length 8",
}
WORDS = "--log-every 16384 --eval-episodes 64 --gif False"


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """PPO's self-play in poker, against the current self alone and with past selves."""


def main(config: Config) -> None:
    for game, own in GAMES.items():
        words = ["ppo", "--env", game, *own.split(), *WORDS.split()]
        agents = {name: [*words, *more.split()] for name, more in AGENTS.items()}
        name = f"self-play-{game}"
        folders = play_all(name, agents, config)
        ends: gather.Rows = []
        curves: gather.Rows = []
        for (agent, seed), folder in folders.items():
            about, kept = {"agent": agent, "seed": seed}, evaluations.read(folder)[0]
            lines = metrics_file.read(folder)
            ends.append(
                about | {"seconds": lines[-1]["seconds"], "exploitability": kept["exact"][NAME]}
            )
            curves += [
                about | {"env_steps": x["env_steps"], "exploitability": x[NAME]} for x in lines
            ]
        write(RESULTS / f"{name}.csv", ends)
        write(RESULTS / f"{name}-curves.csv", curves)
        plot(name, agents, curves)
        for agent in agents:
            found = [row["exploitability"] for row in ends if row["agent"] == agent]
            mean, low, high = evaluate.mean_interval(found)
            seeds = ", ".join(f"{x:.3f}" for x in found)
            print(f"{game} {agent}: {mean:.3f} ({low:.3f} to {high:.3f}; seeds {seeds})")


def plot(name: str, agents: dict[str, list[str]], curves: gather.Rows) -> None:
    """Draws each agent's exploitability over the environment steps: mean and range of the seeds."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for agent in agents:
        mine = [row for row in curves if row["agent"] == agent]
        points = gather.group(mine, "env_steps")
        x = [steps for (steps,) in points]
        y = [[row["exploitability"] for row in rows] for rows in points.values()]
        axes.fill_between(x, [*map(min, y)], [*map(max, y)], alpha=0.18, linewidth=0)
        axes.plot(x, [sum(values) / len(values) for values in y], label=agent)
    axes.set(xlabel="environment steps", ylabel="exploitability", title=name, yscale="log")
    axes.grid(alpha=0.25)
    axes.legend(title="line: mean of seeds; band: their range", frameon=False)
    figure.savefig(RESULTS / f"{name}.png", dpi=130)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
