"""Episodes played with fixed parameters, in environments of their own."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from rlsys import networks, streams
from rlsys.envs import Envs, Episode, Task, layout, make
from rlsys.types import Policy, Stopped

SEED = 1_000_000_007  # of environments to evaluate in, the same for all runs
MAX_STEPS = 27_000  # of an episode: Atari's 108,000 frames


class Evaluated(Protocol):
    """The part of an algorithm's record (running/algorithm.py) that evaluation asks for."""

    @property
    def eval_modes(self) -> Sequence[str]: ...

    @property
    def make_eval_policy(self) -> Callable[[Any, Any, int, str], Policy]: ...


class EvalPolicy(NamedTuple):
    """A policy and the environments that it plays in."""

    envs: Envs
    policy: Policy
    core_state: Any  # [B, ...] to begin with
    seed: int


def eval_policy(
    algorithm: Evaluated,
    config: Any,
    network: Any,
    task: Task,
    num_envs: int,
    seed: int,
    mode: str,
    *,
    render: bool = False,
) -> EvalPolicy:
    """Returns an algorithm's policy in environments of a task; mode: the way it plays. The task
    need not show what the values alone read."""
    network = networks.policy_alone(network)
    envs = make(task, num_envs, seed, render=render)
    policy = algorithm.make_eval_policy(network, config, num_envs, mode)
    return EvalPolicy(envs, policy, network.initial(num_envs), seed)


def play(
    player: EvalPolicy, params: Any, num_episodes: int, stop: Callable[[], bool] = lambda: False
) -> list[Episode]:
    """Plays num_episodes episodes, in rounds of one in each environment, or of each team: were the
    next begun as soon as one has ended, short ones would be overcounted.

    An episode that has not ended after MAX_STEPS steps, or that was cut because its simulation
    exploded (randomise/groups.py), comes as it is, with its return so far and `ended` False.

    Raises:
      Stopped: stop(), which is asked at each step, was True.
    """
    envs, policy, core_state, seed = player
    params = jax.device_put(params)  # once, and not at each step
    key, episodes = streams.key(seed, "evaluation"), list[Episode]()
    while len(episodes) < num_episodes:
        teams = min(envs.num_envs // envs.team_size, num_episodes - len(episodes))
        playing = {i * envs.team_size for i in range(teams)}
        timestep, core_state = envs.reset(), player.core_state
        for _ in range(MAX_STEPS):
            if stop():
                raise Stopped
            action, _, core_state, key = policy(params, timestep, core_state, key)
            timestep = envs.step(np.asarray(action))
            ended = [episode for episode in envs.pop_episodes() if episode.env in playing]
            playing -= {episode.env for episode in ended}
            if cut := playing & set(np.flatnonzero(timestep.truncated).tolist()):
                ended += [episode for episode in envs.running_episodes() if episode.env in cut]
                playing -= cut
            episodes += ended
            if not playing:
                break
        episodes += [episode for episode in envs.running_episodes() if episode.env in playing]
    return episodes


def play_tasks(
    algorithm: Evaluated,
    config: Any,
    network: Any,
    params: Any,
    num_episodes: int,
    seed: int = SEED,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, list[Episode]]:
    """Plays num_episodes of each of the algorithm's modes in each task: episodes by "mode" or, of
    several tasks, by "mode task". All modes meet the same environments.

    Raises:
      Stopped: stop(), which is asked at each step, was True.
    """
    found = config.eval_tasks
    results = {}
    for i, task in enumerate(found):
        players = layout(task).players
        rounds = -(-num_episodes // max(config.num_envs // players, 1))
        num_envs = -(-num_episodes // rounds) * players  # all play equally often, but for a rest
        (own,) = streams.sequence(seed, "evaluation", i).generate_state(1).tolist()
        for mode in algorithm.eval_modes:
            player = eval_policy(algorithm, config, network, task, num_envs, own, mode)
            name = mode if len(found) == 1 else f"{mode} {task.name}"
            with contextlib.closing(player.envs):
                results[name] = play(player, params, num_episodes, stop)
    return results
