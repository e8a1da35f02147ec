"""Evaluations while a run trains, and the best parameters that they have found."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys.acting.playing import play_tasks
from rlsys.envs import is_team_game
from rlsys.learning import hosts, learner
from rlsys.running.algorithm import Algorithm
from rlsys.types import Stopped

# Seeds the environments. It is another than that of the evaluation at the end: the best of many
# evaluations owes something to luck, which is not to count twice.
SEED = 1_000_000_009


class Best(NamedTuple):
    """Parameters, and the evaluation that they were chosen by."""

    params: Any  # numpy
    score: float
    env_steps: int  # learned from
    learner_steps: int


class Evaluations:
    """Evaluates a run whenever it passes a multiple of eval_every environment steps, and at its
    end, and keeps the parameters of the highest score.

    The score is the mean return of the mode of play that is the algorithm's score: greedy for
    Q-learning, drawn as in training for a policy that is learned itself. Of several tasks it is the
    plain mean of theirs, so one with larger returns counts for more.

    Every evaluation meets the same environments and random numbers, none of which training uses.
    So training is the same to the bit with evaluations as without. Process 0 plays and keeps the
    best; the others wait for it at their next collective.

    Attributes:
      best: the best parameters so far; None before the first evaluation.
    """

    best: Best | None = None

    def __init__(self, algorithm: Algorithm, config: Any, network: Any):
        self._algorithm, self._config, self._network = algorithm, config, network
        self._at = 0  # environment steps at the last evaluation

    def due(self, env_steps: int) -> bool:
        """Whether an evaluation is due now, with so many environment steps played."""
        every = self._config.eval_every
        if not every or env_steps == self._at:
            return False
        return env_steps // every > self._at // every or env_steps >= self._config.env_steps

    def play(
        self, params: Any, env_steps: int, learner_steps: int, stop: Callable[[], bool]
    ) -> dict[str, float]:
        """Evaluates parameters, and keeps them if they are the best so far.

        Args:
          params: the learner's, on its devices.
          env_steps, learner_steps: how far the run is.
          stop: is asked at each step whether to give up; then the evaluation stays due.

        Returns:
          Numbers for the log: mean returns as eval/<mode>_return and, of several tasks, also as
          eval/<mode>_return/<task>; the share of the episodes that ended as eval/<mode>_ended (the
          others count with their return so far); of games of two teams eval/<mode>_win_rate; of
          tasks that tell of successes eval/successes; the highest score so far as eval/best.
          Nothing if it was given up, or in other processes than 0.
        """
        if not hosts.is_primary():
            self._at = env_steps
            return {}
        algorithm, config = self._algorithm, self._config
        params = learner.snapshot(params)
        try:
            played = play_tasks(
                algorithm, config, self._network, params, config.eval_episodes, SEED, stop
            )
        except Stopped:
            return {}
        self._at = env_steps
        numbers: dict[str, float] = {}
        for mode in algorithm.eval_modes:
            means = {
                task: float(np.mean([e.episode_return for e in episodes]))
                for (own, _, task), episodes in ((k.partition(" "), x) for k, x in played.items())
                if own == mode
            }
            numbers[f"eval/{mode}_return"] = float(np.mean([*means.values()]))
            numbers |= {f"eval/{mode}_return/{task}": x for task, x in means.items() if task}
            own_episodes = [
                e
                for name, episodes in played.items()
                for e in episodes
                if name.partition(" ")[0] == mode
            ]
            numbers[f"eval/{mode}_ended"] = float(np.mean([e.ended for e in own_episodes]))
            won = [e.episode_return > 0 for e in own_episodes if is_team_game(e.task)]
            if won:
                numbers[f"eval/{mode}_win_rate"] = float(np.mean(won))
            reached = [e.successes for e in own_episodes if e.successes is not None]
            if reached and mode == algorithm.score_mode:
                numbers["eval/successes"] = float(np.mean(reached))
        score = numbers[f"eval/{algorithm.score_mode}_return"]
        if np.isfinite(score) and (self.best is None or score > self.best.score):
            self.best = Best(jax.device_get(params), score, env_steps, learner_steps)
        return numbers | ({"eval/best": self.best.score} if self.best else {})

    def sentence(self, numbers: dict[str, float]) -> str:
        """Says what play has given, and whether it is the best so far."""
        means = [
            f"{mode} return {numbers[f'eval/{mode}_return']:,.5g}"
            for mode in self._algorithm.eval_modes
        ]
        text = f"evaluation at {self._at:,} steps: {', '.join(means)}"
        if against := self._against(numbers):
            text += f" ({against})"
        if self.best and self.best.env_steps == self._at:
            text += ", the best so far"
        elif self.best:
            text += f" (best: {self.best.score:,.5g} at {self.best.env_steps:,})"
        ended = min(numbers[f"eval/{mode}_ended"] for mode in self._algorithm.eval_modes)
        if ended < 1.0:
            text += (
                f"; {ended:.0%} of the episodes ended, the others count with their return so far"
            )
        return text

    def _against(self, numbers: dict[str, float]) -> str:
        """Tells against whom a game of two was played, and of several the score against each;
        nothing of other tasks."""
        players = {task.name: task.options.opponent for task in self._config.eval_tasks}
        if not all(players.values()):
            return ""
        if len(players) == 1:
            return f"against {next(iter(players.values()))}"
        mode = self._algorithm.score_mode
        scores = {who: numbers[f"eval/{mode}_return/{name}"] for name, who in players.items()}
        return f"{mode} against {', '.join(f'{who} {x:.3g}' for who, x in scores.items())}"

    def summary(self, folder: Any) -> str | None:
        """Says which parameters were the best, and how to play them; None without evaluations."""
        if self.best is None:
            return None
        return (
            f"best: {self._algorithm.score_mode} return {self.best.score:,.5g} at environment step "
            f"{self.best.env_steps:,}, of the evaluations during training\n"
            f'more episodes of these parameters:\nmake eval RUN={folder} ARGS="--params best"'
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Gives what a checkpoint holds of this: trees, and meta; nothing if there was none."""
        if self.best is None and not self._config.eval_every:
            return {}, {}
        best = self.best and self.best._asdict()
        trees = {"best": best.pop("params")} if best else {}
        return trees, {"evaluations": {"env_steps": self._at, "best": best}}

    def restore(self, meta: dict[str, Any], env_steps: int, read: Callable[[], Any]) -> None:
        """Goes on from a checkpoint; collective, so all processes must call it.

        Args:
          meta: the checkpoint's, with what state gave.
          env_steps: steps played until the checkpoint.
          read: reads the tree of the best parameters, if there is one.
        """
        about = meta.get("evaluations", {"env_steps": env_steps, "best": None})
        # One process may have given up an evaluation of which the others do not know.
        self._at = min(hosts.gather(about["env_steps"]))
        if about["best"]:
            self.best = Best(params=read(), **about["best"])
