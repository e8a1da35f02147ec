"""Episodes with fixed parameters: returns, the score among them, and a picture of an episode."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rlsys import streams
from rlsys.envs import Envs, Episode, Task, make, shared_spaces
from rlsys.learning import hosts
from rlsys.results import evaluations
from rlsys.running import events, files
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.session import Session
from rlsys.types import Policy, Stopped, UserError

SEED = 1_000_000_007  # of environments to evaluate in, the same for all runs
MAX_STEPS = 27_000  # of an episode: Atari's 108,000 frames
RESAMPLES = 2_000  # of the bootstrap
GIF_FRAMES = 500


class EvalPolicy(NamedTuple):
    """A policy and the environments that it plays in."""

    envs: Envs
    policy: Policy
    core_state: Any  # [B, ...] to begin with
    seed: int


def eval_policy(
    algorithm: Algorithm,
    config: Any,
    network: Any,
    task: Task,
    num_envs: int,
    seed: int,
    mode: str,
    *,
    render: bool = False,
) -> EvalPolicy:
    """An algorithm's policy in environments of a task; mode: the way it plays."""
    envs = make(task, num_envs, seed, render=render)
    policy = algorithm.make_eval_policy(network, config, num_envs, mode)
    return EvalPolicy(envs, policy, network.initial(num_envs), seed)


def play(player: EvalPolicy, params: Any, num_episodes: int) -> list[Episode]:
    """Plays num_episodes episodes, in rounds of one in each environment: were the next begun as
    soon as one has ended, short ones would be overcounted.

    An episode that has not ended after MAX_STEPS steps is cut and comes as it is, with its return
    so far and `ended` False.
    """
    envs, policy, core_state, seed = player
    key, episodes = streams.key(seed, "evaluation"), list[Episode]()
    while len(episodes) < num_episodes:
        playing = set(range(min(envs.num_envs, num_episodes - len(episodes))))
        timestep, core_state = envs.reset(), player.core_state
        for _ in range(MAX_STEPS):
            action, _, core_state, key = policy(params, timestep, core_state, key)
            timestep = envs.step(np.asarray(action))
            ended = [episode for episode in envs.pop_episodes() if episode.env in playing]
            playing -= {episode.env for episode in ended}
            episodes += ended
            if not playing:
                break
        episodes += [episode for episode in envs.running_episodes() if episode.env in playing]
    return episodes


def play_tasks(
    algorithm: Algorithm,
    config: Any,
    network: Any,
    params: Any,
    num_episodes: int,
    seed: int = SEED,
) -> dict[str, list[Episode]]:
    """Plays num_episodes of each of the algorithm's modes in each task: episodes by "mode" or, of
    several tasks, by "mode task". All modes meet the same environments."""
    found = config.tasks
    rounds = -(-num_episodes // config.num_envs)
    num_envs = -(-num_episodes // rounds)  # all play equally often, but for a rest
    results = {}
    for i, task in enumerate(found):
        (own,) = streams.sequence(seed, "evaluation", i).generate_state(1).tolist()
        for mode in algorithm.eval_modes:
            player = eval_policy(algorithm, config, network, task, num_envs, own, mode)
            name = mode if len(found) == 1 else f"{mode} {task.name}"
            results[name] = play(player, params, num_episodes)
            player.envs.close()
    return results


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


def record(path: Path, player: EvalPolicy, params: Any) -> None:
    """Writes the first episode of environment 0, or its first GIF_FRAMES steps, as a gif.

    Raises:
      UserError: the task has no picture, or the disk is full.
    """
    envs, policy, core_state, seed = player
    timestep, key = envs.reset(), streams.key(seed, "evaluation")
    images: list[Image.Image] = []
    while len(images) < GIF_FRAMES and not (images and timestep.first[0]):
        images.append(Image.fromarray(envs.render()))
        action, _, core_state, key = policy(params, timestep, core_state, key)
        timestep = envs.step(np.asarray(action))
    try:
        with files.replacing(path) as new:
            images[0].save(new, "GIF", save_all=True, append_images=images[1:], duration=50, loop=0)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from None


def evaluation(
    score: str,
    episodes: dict[str, list[Episode]],
    *,
    env_steps: int,
    learner_steps: int,
    seed: int = SEED,
) -> dict[str, Any]:
    """Sums up episodes as evaluation.json keeps them: see evaluations.read.

    Args:
      score: the mode of play that is the algorithm's score, which stands first.
      episodes: as of play_tasks.
      env_steps, learner_steps: counters of the checkpoint whose parameters played.
      seed: of the environments.
    """
    names = sorted(episodes, key=lambda name: name.partition(" ")[0] != score)
    return {
        "score": score,
        "env_steps": env_steps,
        "learner_steps": learner_steps,
        "episodes": len(episodes[names[0]]),
        "seed": seed,
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
    """Prints a line for each mode of play of an evaluation, and saves it."""
    for name, result in found["results"].items():
        is_score = name.partition(" ")[0] == found["score"]
        print(f"{'score' if is_score else 'also'}: {describe(name, result)}", flush=True)
    return save(folder, found)


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
    counters = {"env_steps": run.env_steps, "learner_steps": run.learner_steps}
    report(run.folder, evaluation(algorithm.score_mode, episodes, **counters))
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


class Saved(NamedTuple):
    """The agent in a run's newest checkpoint."""

    network: Any
    params: Any
    env_steps: int
    learner_steps: int


def newest(algorithm: Algorithm, config: Any) -> Saved:
    """Reads the agent in a run's newest checkpoint.

    Raises:
      CheckpointError: there is none.
    """
    pools = [make(task, 1, SEED) for task in config.tasks]
    network = algorithm.make_network(config, *shared_spaces(pools))
    for envs in pools:
        envs.close()
    state = algorithm.make_state(network, config)
    checkpoints = Checkpoints(Path(config.run_dir) / "checkpoints")
    _, trees, meta = checkpoints.restore({"learner": state})
    counters = meta["counters"]
    return Saved(network, trees["learner"].params, counters["env_steps"], counters["learner_steps"])


def evaluate_run(algorithm: Algorithm, config: Any, options: EvalConfig) -> None:
    """Plays each mode, prints and saves the returns, and records a picture."""
    found, agent = config.tasks, newest(algorithm, config)
    network, params = agent.network, agent.params
    episodes = play_tasks(algorithm, config, network, params, options.episodes, options.seed)
    counters = {"env_steps": agent.env_steps, "learner_steps": agent.learner_steps}
    result = evaluation(algorithm.score_mode, episodes, **counters, seed=options.seed)
    if path := report(Path(config.run_dir), result):
        print(f"saved in {path}, beside the evaluations that it held")
    if options.gif:
        for i, task in enumerate(found):
            path = Path(config.run_dir) / (f"episode-{i}.gif" if i else "episode.gif")
            mode = algorithm.score_mode
            player = eval_policy(
                algorithm, config, network, task, 1, options.seed, mode, render=True
            )
            try:
                record(path, player, params)
                add_events(path.parent, events.picture(path.stem, path), agent.env_steps)
                print(f"saved {path}")
            except UserError as error:  # an environment of one's own often has no picture
                print(f"no gif: {error}")
            player.envs.close()
