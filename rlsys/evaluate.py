"""Whole episodes with fixed parameters: returns, and a picture of one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from rlsys.envs import Envs, Episode, tasks
from rlsys.types import UserError

SEED = 1_000_000_007  # of environments to evaluate in
MAX_STEPS = 27_000  # of an episode: Atari's 108,000 frames
GIF_FRAMES = 500


class Player(NamedTuple):
    """A policy and the environments that it plays in."""

    envs: Envs
    policy: Callable  # (params, timestep, core_state, key) -> action, aux, core_state, key
    core_state: Any  # [B, ...] to begin with
    seed: int


def play(player: Player, params: Any, num_episodes: int) -> list[Episode]:
    """Plays num_episodes whole episodes.

    How many each environment plays is settled beforehand, so that short episodes are not
    overcounted.

    Raises:
      UserError: no episode has ended after MAX_STEPS steps.
    """
    envs, policy, core_state, seed = player
    quota = np.full(envs.num_envs, num_episodes // envs.num_envs)
    quota[: num_episodes % envs.num_envs] += 1
    timestep, key, episodes = envs.reset(), jax.random.key(seed), []
    # A policy may never end its episode; to start the next takes a step.
    for _ in range((MAX_STEPS + 1) * int(quota.max())):
        if not quota.any():
            break
        action, _, core_state, key = policy(params, timestep, core_state, key)
        timestep = envs.step(np.asarray(action))
        for episode in envs.pop_episodes():
            if quota[episode.env]:
                quota[episode.env] -= 1
                episodes.append(episode)
    if not episodes:
        raise UserError(f"no episode has ended after {MAX_STEPS} steps")
    return episodes


def play_tasks(
    make_player: Callable,
    config: Any,
    network: Any,
    params: Any,
    kinds: Sequence[str],
    num_episodes: int,
    seed: int = SEED,
) -> dict[str, list[Episode]]:
    """Plays num_episodes of each kind in each task: episodes by "kind" or, of several tasks, by
    "kind task".

    make_player: (config, network, Task, num_environments, seed, kind) -> Player.
    """
    found = tasks(config.env, config.task)
    results = {}
    for task in found:
        for kind in kinds:
            num_envs = min(num_episodes, config.num_envs)
            player = make_player(config, network, task, num_envs, seed, kind)
            name = kind if len(found) == 1 else f"{kind} {task.name}"
            results[name] = play(player, params, num_episodes)
            player.envs.close()
    return results


def summary(episodes: list[Episode]) -> dict[str, float]:
    """Mean raw return with the half width of its 95 % interval, spread and mean length."""
    returns = np.array([e.episode_return for e in episodes])
    return {
        "episodes": len(returns),
        "mean": float(returns.mean()),
        "interval_95": float(1.96 * returns.std() / np.sqrt(len(returns))),
        "median": float(np.median(returns)),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "length": float(np.mean([e.length for e in episodes])),
    }


def describe(kind: str, result: dict[str, float]) -> str:
    return (
        f"{kind}: return {result['mean']:.4g} +- {result['interval_95']:.2g} (median "
        f"{result['median']:.4g}, {result['min']:.4g} to {result['max']:.4g}) over "
        f"{result['episodes']} whole episodes of {result['length']:.0f} steps"
    )


def record(path: Path, player: Player, params: Any) -> None:
    """Writes the first episode of environment 0, or its first GIF_FRAMES steps, as a gif.

    Raises:
      UserError: the task has no picture.
    """
    envs, policy, core_state, seed = player
    timestep, key = envs.reset(), jax.random.key(seed)
    images: list[Image.Image] = []
    while len(images) < GIF_FRAMES and not (images and timestep.first[0]):
        images.append(Image.fromarray(envs.render()))
        action, _, core_state, key = policy(params, timestep, core_state, key)
        timestep = envs.step(np.asarray(action))
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, loop=0)


def write(folder: Path, episodes: dict[str, list[Episode]]) -> dict[str, dict[str, float]]:
    """Writes evaluation.json: a summary of each kind of play, which it returns."""
    results = {kind: summary(played) for kind, played in episodes.items()}
    (folder / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n")
    return results


def report(folder: Path, episodes: dict[str, list[Episode]]) -> Path:
    """Prints a summary of each kind of play, and writes them to evaluation.json."""
    for kind, result in write(folder, episodes).items():
        print(describe(kind, result))
    return folder / "evaluation.json"
