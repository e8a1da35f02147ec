"""Episodes with fixed parameters: returns, the score among them, and a picture of an episode."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rlsys import streams
from rlsys.envs import Envs, Episode, Task, make, shared_spaces
from rlsys.learning import hosts
from rlsys.running import files, output, process
from rlsys.running.algorithm import Algorithm
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.display import Display
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
        output.say(f"{'score' if is_score else 'also'}: {describe(name, result)}")
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
    playing = "playing the episodes of the evaluation"
    with run.ending_well(), Display() as display, display.phase(playing):
        episodes = play_tasks(
            algorithm, config, session.network, session.params, config.eval_episodes
        )
    report(run.folder, algorithm.score_mode, episodes)
    run.print_health()
    output.say(
        f"{run.folder}: config.json, metrics.jsonl, evaluation.json, checkpoints/, and events "
        f"for TensorBoard\n"
        f"more episodes, and a gif of one:\nmake eval RUN={run.folder}"
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
    process.check_32_bits()
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
        for i, task in enumerate(found):
            path = Path(config.run_dir) / (f"episode-{i}.gif" if i else "episode.gif")
            mode = algorithm.score_mode
            player = eval_policy(
                algorithm, config, network, task, 1, options.seed, mode, render=True
            )
            try:
                record(path, player, params)
                print(f"saved {path}")
            except UserError as error:  # an environment of one's own often has no picture
                print(f"no gif: {error}")
            player.envs.close()
