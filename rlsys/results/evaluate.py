"""Evaluation: what episodes with fixed parameters returned, the score among it."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rlsys.envs import Episode, make, shared_spaces
from rlsys.learning import hosts
from rlsys.results import gif
from rlsys.results.episodes import MAX_STEPS, SEED, play_tasks
from rlsys.running import files
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.session import Session
from rlsys.types import Stopped

RESAMPLES = 2_000  # of the bootstrap


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval by bootstrap, which lies within the data's bounds.

    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife",
    https://doi.org/10.1214/aos/1176344552; the percentiles of the means of resamples.
    """
    x, random = np.fromiter(values, float), np.random.default_rng(0)
    means = [random.choice(x, len(x)).mean() for _ in range(RESAMPLES)]
    found = x.mean(), *np.percentile(means, [2.5, 97.5])
    mean, low, high = np.clip(found, x.min(), x.max()).tolist()  # a rounded mean may pass them
    return mean, low, high


def summary(episodes: list[Episode]) -> dict[str, float]:
    """Mean raw return with its 95 % interval, spread, mean length, and how many have ended."""
    returns = np.array([e.episode_return for e in episodes])
    mean, low, high = mean_interval(returns)
    return {
        "episodes": len(returns),
        "ended": sum(e.ended for e in episodes),
        "mean": mean,
        "interval_95_low": low,
        "interval_95_high": high,
        "median": float(np.median(returns)),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "length": float(np.mean([e.length for e in episodes])),
    }


def cut(result: dict[str, float]) -> str:
    """Says how many episodes of a summary have ended; nothing if all have."""
    if result["ended"] == result["episodes"]:
        return ""
    return f"{result['ended']} of {result['episodes']} ended"


def describe(name: str, result: dict[str, float]) -> str:
    """A sentence on a summary; name: the mode and, of several tasks, the task."""
    mode, _, task = name.partition(" ")
    words = (
        f"{mode} return{task and f' in {task}'} {result['mean']:.4g} (95 % interval "
        f"{result['interval_95_low']:.4g} to {result['interval_95_high']:.4g}; median "
        f"{result['median']:.4g}, {result['min']:.4g} to {result['max']:.4g}) over "
        f"{result['episodes']} episodes of {result['length']:.0f} steps"
    )
    if ended := cut(result):
        words += f"; {ended}, the others count with their return after {MAX_STEPS:,} steps"
    return words


def summaries(score: str, episodes: dict[str, list[Episode]]) -> dict[str, Any]:
    """Returns what evaluation.json holds: the mode of play that is the algorithm's score, and a
    summary of each mode, the score's first."""
    names = sorted(episodes, key=lambda name: name.partition(" ")[0] != score)
    return {"score": score, "results": {name: summary(episodes[name]) for name in names}}


def write(folder: Path, found: dict[str, Any]) -> Path | None:
    """Writes evaluation.json and returns its path; says why if it cannot, and returns None."""
    path = folder / "evaluation.json"
    try:
        files.write_text(path, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        print(f"{path} could not be written: {error.strerror}.", flush=True)
        return None
    return path


def report(folder: Path, score: str, episodes: dict[str, list[Episode]]) -> Path | None:
    """Prints a line for each mode of play, and writes evaluation.json."""
    found = summaries(score, episodes)
    for name, result in found["results"].items():
        is_score = name.partition(" ")[0] == score
        print(f"{'score' if is_score else 'also'}: {describe(name, result)}", flush=True)
    return write(folder, found)


def conclude(algorithm: Algorithm, session: Session) -> Path:
    """Ends a run, once its session is closed: unless it was stopped, evaluates it, and prints what
    came of it, how healthy it was and where everything is. Gives the run's folder.

    Raises:
      Stopped: a signal stopped the run, which can be resumed.
    """
    primary = hosts.is_primary()
    hosts.end()
    run, config = session.run, session.config
    if run.stopped:
        raise Stopped
    if not primary:
        return run.folder
    episodes = play_tasks(algorithm, config, session.network, session.params, config.eval_episodes)
    report(run.folder, algorithm.score_mode, episodes)
    run.print_health()
    print(
        f"{run.folder}: config.json, metrics.jsonl, evaluation.json, checkpoints/, and events "
        f"for TensorBoard\n"
        f"make eval RUN={run.folder}    more episodes, and a gif of one"
    )
    return run.folder


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Plays episodes with a run's newest checkpoint."""

    episodes: int = 100
    """The number of episodes in each of the two ways: greedily, and with random actions as in
    training."""
    seed: int = SEED
    """The environments follow from it."""
    gif: bool = True
    """Record an episode, played in the way that is the algorithm's score."""


def newest(algorithm: Algorithm, config: Any) -> tuple[Any, Any]:
    """The network of a run and the parameters in its newest checkpoint.

    Raises:
      CheckpointError: there is none.
    """
    pools = [make(task, 1, SEED) for task in config.tasks]
    network = algorithm.make_network(config, *shared_spaces(pools))
    for envs in pools:
        envs.close()
    state = algorithm.make_state(network, config)
    checkpoints = Checkpoints(Path(config.run_dir) / "checkpoints")
    return network, checkpoints.restore({"learner": state})[1]["learner"].params


def evaluate_run(algorithm: Algorithm, config: Any, options: EvalConfig) -> None:
    """Plays each mode, prints and saves the returns, and records a picture."""
    found = config.tasks
    network, params = newest(algorithm, config)
    episodes = play_tasks(algorithm, config, network, params, options.episodes, options.seed)
    if path := report(Path(config.run_dir), algorithm.score_mode, episodes):
        print(f"saved {path}")
    if options.gif:
        gif.record_tasks(Path(config.run_dir), algorithm, config, network, params, options.seed)
