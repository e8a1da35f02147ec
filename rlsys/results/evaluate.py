"""Evaluation: what episodes with fixed parameters returned, the score among it."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlsys.acting import exploitability
from rlsys.acting.playing import SEED, play_tasks
from rlsys.config import check_at_least
from rlsys.envs import Episode, against_players, is_team_game, layout, make, shared_spaces
from rlsys.learning import hosts
from rlsys.results import evaluations, gif, ranges
from rlsys.running import events, output, process
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import CheckpointError, Checkpoints
from rlsys.running.display import Display
from rlsys.running.session import Session
from rlsys.types import Stopped, UserError

RESAMPLES = 2_000  # of the bootstrap
NEWEST, BEST = "newest", "best"  # parameters in a checkpoint


def mean_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval by bootstrap, which lies within the data's bounds.

    values: one number or more; of one the interval is that number.

    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife",
    https://doi.org/10.1214/aos/1176344552; the percentiles of the means of resamples.
    """
    x, random = np.fromiter(values, float), np.random.default_rng(0)
    means = [random.choice(x, len(x)).mean() for _ in range(RESAMPLES)]
    found = x.mean(), *np.percentile(means, [2.5, 97.5])
    mean, low, high = np.clip(found, x.min(), x.max()).tolist()  # a rounded mean may pass them
    return mean, low, high


def summary(episodes: list[Episode]) -> dict[str, float]:
    """Mean raw return with its 95 % interval, spread, mean length, and how many have ended; of
    games of two teams also how many were won, drawn and lost, and of tasks that tell of successes
    their mean in an episode with its interval, and their median."""
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
        **(results_of_games(returns) if is_team_game(episodes[0].task) else {}),
        **_successes([e.successes for e in episodes if e.successes is not None]),
    }


def _successes(found: list[float]) -> dict[str, float]:
    """Sums up the successes of episodes; nothing if there are none that tell."""
    if not found:
        return {}
    mean, low, high = mean_interval(found)
    about = {"successes": mean, "successes_95_low": low, "successes_95_high": high}
    return {**about, "successes_median": float(np.median(found))}


def describe_successes(result: dict[str, float]) -> str:
    """Says how many successes a summary has; nothing if its task does not tell."""
    if "successes" not in result:
        return ""
    return (
        f"{result['successes']:.4g} successes an episode (95 % interval "
        f"{result['successes_95_low']:.4g} to {result['successes_95_high']:.4g}; median "
        f"{result['successes_median']:.4g})"
    )


def results_of_games(returns: np.ndarray) -> dict[str, int]:
    """How many games were won, drawn and lost, by their returns: above 0, 0 and below."""
    signs = {"won": 1, "drawn": 0, "lost": -1}
    return {name: int((np.sign(returns) == sign).sum()) for name, sign in signs.items()}


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
    if "won" in result:
        words += f": won {result['won']}, drawn {result['drawn']}, lost {result['lost']}"
    if told := describe_successes(result):
        words += f"; {told}"
    if ended := cut(result):
        words += f"; {ended}, the others count with their return so far"
    return words


def evaluation(
    score: str,
    episodes: dict[str, list[Episode]],
    *,
    env_steps: int,
    learner_steps: int,
    seed: int = SEED,
    exact: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Sums up episodes as evaluation.json keeps them: see evaluations.read.

    Args:
      score: the mode of play that is the algorithm's score, which stands first.
      episodes: as of play_tasks.
      env_steps, learner_steps: counters of the checkpoint whose parameters played.
      seed: of the environments.
      exact: measures that were computed, not played: see exploitability.of_run.
    """
    names = sorted(episodes, key=lambda name: name.partition(" ")[0] != score)
    return {
        "score": score,
        "env_steps": env_steps,
        "learner_steps": learner_steps,
        "episodes": len(episodes[names[0]]),
        "seed": seed,
        **({"exact": exact} if exact else {}),
        "results": {name: summary(episodes[name]) for name in names},
    }


def save(folder: Path, found: dict[str, Any]) -> Path | None:
    """Adds an evaluation to evaluation.json and to TensorBoard's events, and returns the first's
    path; says why if it cannot, and returns None."""
    try:
        path = evaluations.add(folder, found)
        add_events(folder, events.evaluation(found["results"]), found["env_steps"])
    except UserError as error:
        print(f"{error}.", flush=True)
        return None
    return path


def add_events(folder: Path, summary: Any, env_steps: int) -> None:
    """Adds to a run's events.

    Raises:
      UserError: the disk is full.
    """
    try:
        events.add(folder, summary, env_steps)
    except OSError as error:
        raise UserError(f"{folder}: events could not be written: {error.strerror}") from None


def report(folder: Path, found: dict[str, Any]) -> Path | None:
    """Prints a line for each mode of play of an evaluation, and saves it; returns its file, or None
    if the disk is full."""
    for name, result in found["results"].items():
        is_score = name.partition(" ")[0] == found["score"]
        output.say(f"{'score' if is_score else 'also'}: {describe(name, result)}")
    if exact := found.get("exact"):
        output.say(exploitability.describe(exact))
    return save(folder, found)


class Saved(NamedTuple):
    """An agent, and how far it was trained."""

    network: Any
    params: Any
    env_steps: int
    learner_steps: int


def record(
    folder: Path,
    algorithm: Algorithm,
    config: Any,
    agent: Saved,
    seed: int = SEED,
    name: str = "episode",
    say: Callable[[str], None] = output.say,
) -> list[Path]:
    """Records gifs as gif.record_tasks does, and adds them to events; returns their files."""
    gifs = gif.record_tasks(folder, algorithm, config, agent.network, agent.params, seed, name, say)
    for path in gifs:
        try:
            add_events(folder, events.picture(path.stem, path), agent.env_steps)
        except UserError as error:
            say(f"{error}.")
    return gifs


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
    agent = Saved(session.network, session.params, run.env_steps, run.learner_steps)
    playing = "playing the episodes of the evaluation"
    with run.ending_well(), Display() as display, display.phase(playing):
        episodes = play_tasks(algorithm, config, *agent[:2], config.eval_episodes)
    counters = {"env_steps": run.env_steps, "learner_steps": run.learner_steps}
    exact = exploitability.of_run(config.tasks, *agent[:2])
    report(run.folder, evaluation(algorithm.score_mode, episodes, **counters, exact=exact))
    run.print_health()
    if session.evaluations and (best := session.evaluations.summary(run.folder)):
        output.say(best)
    gifs = []
    if config.gif:
        with Display() as display, display.phase("recording an episode"):
            gifs = record(run.folder, algorithm, config, agent, say=display.say)
    pictures = [path.name for path in (*gifs, *ranges.picture(run.folder, run.env_steps))]
    files = ["config.json", "metrics.jsonl", "evaluation.json", *pictures]
    output.say(
        f"{run.folder}: {', '.join(files)}, checkpoints/, and events for TensorBoard\n"
        f"more episodes:\nmake eval RUN={run.folder}"
    )
    return run.folder


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Plays episodes with the parameters in a run's newest checkpoint."""

    params: str = NEWEST
    """Whose episodes: the newest parameters, or the best of a run that was trained with
    --eval-every."""
    episodes: int = 100
    """The number of episodes in each of the two ways: greedily, and with random actions as in
    training."""
    seed: int = SEED
    """The environments follow from it."""
    gif: bool = True
    """Record an episode, played in the way that is the algorithm's score."""

    def __post_init__(self):
        check_at_least(self, 1, "episodes")
        check_at_least(self, 0, "seed")


def saved(algorithm: Algorithm, config: Any, params: str = NEWEST) -> Saved:
    """Reads an agent in a run's newest checkpoint.

    Args:
      params: "newest" for the parameters that the run goes on from, or "best" for those that did
        best in the evaluations during training.

    Raises:
      UserError: params is neither, or there was no evaluation during training.
      CheckpointError: there is no checkpoint.
    """
    if params not in (NEWEST, BEST):
        raise UserError(f"params must be {NEWEST} or {BEST}, not {params!r}")
    process.check_32_bits()
    pools = [make(against_players(task)[0], layout(task).players, SEED) for task in config.tasks]
    network = algorithm.make_network(config, *shared_spaces(pools))
    for envs in pools:
        envs.close()
    state = algorithm.make_state(network, config)
    checkpoints = Checkpoints(Path(config.run_dir) / "checkpoints")
    if params == BEST:
        number = checkpoints.newest([BEST])
        counters = checkpoints.meta(number).get("evaluations", {}).get("best")
        if not counters:
            raise CheckpointError(
                f"{checkpoints.directory / str(number)} has no best parameters, which a run keeps "
                f"that is trained with --eval-every"
            )
        found = checkpoints.restore({BEST: state.params}, number)[1][BEST]
    else:
        _, trees, meta = checkpoints.restore({"learner": state})
        counters, found = meta["counters"], trees["learner"].params
    return Saved(network, found, counters["env_steps"], counters["learner_steps"])


def evaluate_run(algorithm: Algorithm, config: Any, options: EvalConfig) -> None:
    """Plays each mode, prints and saves the returns, and records a gif."""
    agent, folder = saved(algorithm, config, options.params), Path(config.run_dir)
    network, params = agent.network, agent.params
    if options.params == BEST:
        print(f"the best parameters, of {agent.env_steps:,} environment steps")
    episodes = play_tasks(algorithm, config, network, params, options.episodes, options.seed)
    counters = {"env_steps": agent.env_steps, "learner_steps": agent.learner_steps}
    exact = exploitability.of_run(config.tasks, network, params)
    result = evaluation(algorithm.score_mode, episodes, **counters, seed=options.seed, exact=exact)
    if path := report(folder, result):
        print(f"saved in {path}, beside the evaluations that it held")
    if options.gif:
        name = "best" if options.params == BEST else "episode"
        record(folder, algorithm, config, agent, options.seed, name)
