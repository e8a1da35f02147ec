"""Whether past selves as opponents make a policy harder to exploit: PPO in Kuhn and Leduc poker,
and in rock, paper, scissors with unequal stakes.

    python -m experiments.self_play [--seeds 5] [--jobs 2] [--only KuhnPoker-v1]

For each game a csv of the exploitability at the end, a csv of it on the way, and a plot of that.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from experiments import rock_paper_scissors
from experiments.study import RESULTS, Options, check_only, play_all, plot_ranges, write
from rlsys import cli, train
from rlsys.acting import actor_critic
from rlsys.acting.exploitability import NAME
from rlsys.envs.spaces import MASK
from rlsys.results import evaluate, gather, match
from rlsys.running import metrics_file
from rlsys.running.checkpoint import Checkpoints
from rlsys.types import Timestep

SCISSORS = "teams/experiments.rock_paper_scissors:RockPaperScissors"
GAMES = {
    "KuhnPoker-v1": "--env-steps 600000 --entropy-cost 0.2",
    "LeducHoldem-v1": "--env-steps 1500000 --entropy-cost 0.1",
    SCISSORS: (
        "--preset game --env-steps 400000 --entropy-cost 0.003 --checkpoint-every 16384 "
        "--keep-checkpoints 100 --eval-every 0"
    ),
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
    """PPO's self-play, against the current self alone and with past selves."""

    only: tuple[str, ...] = tuple(GAMES)
    """The games."""

    def __post_init__(self):
        check_only("game", self.only, GAMES)


def main(config: Config) -> None:
    for game in config.only:
        words = ["ppo", "--env", game, *GAMES[game].split(), *WORDS.split()]
        agents = {name: [*words, *more.split()] for name, more in AGENTS.items()}
        if game == SCISSORS:
            del agents["current-self-lstm"]  # there is nothing to remember
        name = f"self-play-{game.rpartition(':')[2]}"
        folders = play_all(name, agents, config)
        ends: gather.Rows = []
        curves: gather.Rows = []
        for (agent, seed), folder in folders.items():
            about, curve = {"agent": agent, "seed": seed}, exploitability(folder, game)
            curves += [about | {"env_steps": s, "exploitability": x} for s, x in curve.items()]
            seconds = metrics_file.read(folder)[-1]["seconds"]
            ends.append(
                about | {"seconds": seconds, "exploitability": curves[-1]["exploitability"]}
            )
        write(RESULTS / f"{name}.csv", ends)
        write(RESULTS / f"{name}-curves.csv", curves)
        by_agent = {agent: [row for row in curves if row["agent"] == agent] for agent in agents}
        words_of_plot = {"ylabel": "exploitability", "title": name, "yscale": "log"}
        plot_ranges(RESULTS / f"{name}.png", by_agent, "exploitability", **words_of_plot)
        for agent in agents:
            found = [row["exploitability"] for row in ends if row["agent"] == agent]
            mean, low, high = evaluate.mean_interval(found)
            seeds = ", ".join(f"{x:.3f}" for x in found)
            print(f"{game} {agent}: {mean:.3f} ({low:.3f} to {high:.3f}; seeds {seeds})")


def exploitability(folder: Path, game: str) -> dict[int, float]:
    """Returns the exploitability of a run's policy by environment steps, the last at its end."""
    if game != SCISSORS:
        return {x["env_steps"]: x[NAME] for x in metrics_file.read(folder)}
    run = match.open_run(*train.load(str(folder)))
    checkpoints = Checkpoints(folder / "checkpoints")
    state = run.algorithm.make_state(run.agent.network, run.config)
    curve = {}
    for number in checkpoints.numbers():
        _, trees, meta = checkpoints.restore({"learner": state}, number)
        policy = plays_of(run.agent.network, trees["learner"].params)
        curve[meta["counters"]["env_steps"]] = rock_paper_scissors.exploitability(policy)
    return curve


def plays_of(network, params) -> np.ndarray:
    """Returns how often a policy plays rock, paper and scissors: [3]."""
    one = np.ones((1, 1), np.float32)
    obs = {"obs": one[None], MASK: np.ones((1, 1, 3), bool)}
    steps = Timestep(obs, one > 0, 0 * one, one, one < 0)
    core_state = network.initial(1)
    no_action = core_state.a_tm1[None][:0]
    pi, _, _ = actor_critic.policy_and_values(network, params, steps, no_action, core_state)
    return np.asarray(jax.nn.softmax(pi.logits)[0, 0], float)


if __name__ == "__main__":
    cli.run(main, Config(), __doc__)
