"""Games between players of fixed strength: trained policies, and players that do not learn. In a
game of two teams each is a whole team; the first team counts as the one that begins.

Both sides of all games act in batches: one call a step for each player, whatever it plays against.
"""

import dataclasses
import json
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlsys import streams
from rlsys.acting.playing import MAX_STEPS, SEED
from rlsys.config import check_at_least
from rlsys.envs import Task, is_team_game, layout, make, plain_game, players
from rlsys.envs.spaces import MASK
from rlsys.results.evaluate import Saved, saved
from rlsys.running import files
from rlsys.running.algorithm import Algorithm
from rlsys.types import Timestep, UserError

OUT = "runs/matches"  # the folder of results
AT_ONCE = 4_096  # games
ONE_GAME = "no interval: both play greedily, so all games that one side begins are the same"


class Contender(NamedTuple):
    """Somebody who plays any number of games at a time."""

    name: str
    # (number of rows, seed) -> what it remembers before its first step
    start: Callable[[int, int], Any]
    # (its rows' Timestep, what it remembers) -> action [B], what it remembers
    act: Callable[[Timestep, Any], tuple[np.ndarray, Any]]


class Games(NamedTuple):
    """How games ended. The first of each pair began the game."""

    pairs: np.ndarray  # [G, 2] who played
    reward: np.ndarray  # [G] of the first
    ended: np.ndarray  # [G] bool, False where the game was cut after MAX_STEPS steps
    repeats: np.ndarray  # [G] bool, True where moves and reward are those of the pair's first game

    @property
    def points(self) -> np.ndarray:
        """[G] 1 where the first won, 0.5 where nobody did, else 0."""
        return 0.5 + 0.5 * np.sign(self.reward)


def policy_contender(
    name: str, algorithm: Algorithm, config: Any, network: Any, params: Any, mode: str
) -> Contender:
    """A policy with fixed parameters, which plays in one of the algorithm's modes."""

    def start(num_rows: int, seed: int) -> Any:
        policy = algorithm.make_eval_policy(network, config, num_rows, mode)
        return policy, network.initial(num_rows), streams.key(seed, "evaluation")

    def act(timestep: Timestep, memory: Any) -> tuple[np.ndarray, Any]:
        policy, core_state, key = memory
        action, _, core_state, key = policy(params, timestep, core_state, key)
        return np.asarray(action), (policy, core_state, key)

    return Contender(name, start, act)


def player_contender(name: str, game: Task) -> Contender:
    """A player of envs/players.py, by its name.

    Raises:
      UserError: there is no such player of the game.
    """
    player = players.make_player(name, game.env_id)

    def act(timestep: Timestep, random: Any) -> tuple[np.ndarray, Any]:
        seen = timestep.obs.get("obs", timestep.obs[MASK])  # a team game may name it otherwise
        return players.draw(player(seen, timestep.obs[MASK]), random), random

    return Contender(name, lambda num_rows, seed: np.random.default_rng(seed), act)


def play(contenders: Sequence[Contender], pairs: np.ndarray, game: Task, seed: int = SEED) -> Games:
    """Plays one game for each pair, as many at the same time as AT_ONCE allows.

    Args:
      contenders: who plays.
      pairs: [G, 2] int, numbers of contenders; the first of a pair begins.
      game: a task of two players.
      seed: environments and random moves follow from it.
    """
    parts = np.split(pairs, range(AT_ONCE, len(pairs), AT_ONCE))
    played = [_play(contenders, part, game, seed, i) for i, part in enumerate(parts)]
    return Games(*map(np.concatenate, zip(*played, strict=True)))


def _play(
    contenders: Sequence[Contender], pairs: np.ndarray, game: Task, seed: int, part: int
) -> Games:
    """Plays one game for each pair, all at the same time; part: tells parts of one seed apart."""
    sequence = streams.sequence(seed, "evaluation", part)
    own = sequence.generate_state(1 + len(contenders)).tolist()
    envs = make(game, pairs.size * layout(game).players, own.pop())
    timestep = envs.reset()
    sides = np.arange(envs.num_envs).reshape(*pairs.shape, -1)  # [G, 2, rows of a side]
    begins = envs.to_move[sides].any(-1).argmax(axis=1)  # the first of two teams, which both move
    row = sides[np.arange(len(pairs))[:, None], np.stack([begins, 1 - begins], axis=1)]
    player = np.empty(envs.num_envs, int)
    player[row] = pairs[..., None]
    rows = {i: np.flatnonzero(player == i) for i in np.unique(pairs)}
    memory = {i: contenders[i].start(len(mine), own[i]) for i, mine in rows.items()}
    reward, playing = np.zeros(len(pairs)), np.ones(len(pairs), bool)
    _, model, which = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    model, repeats = model[which.ravel()], playing.copy()  # [G] the pair's first game
    first = row[:, 0, 0]
    for _ in range(MAX_STEPS):
        action = np.zeros(envs.num_envs, np.int32)
        for i, mine in rows.items():
            own_part = jax.tree.map(operator.itemgetter(mine), timestep)
            action[mine], memory[i] = contenders[i].act(own_part, memory[i])
        moves = action[row].reshape(len(pairs), -1)
        repeats &= playing == playing[model]
        repeats &= ~playing | (moves == moves[model]).all(axis=1)
        timestep = envs.step(action)
        reward += playing * timestep.reward[first]
        playing &= (timestep.discount[first] > 0) & ~timestep.truncated[first]
        if not playing.any():
            break
    envs.close()
    return Games(pairs, reward, ~playing, repeats & (reward == reward[model]))


def score_interval(points: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean of points within [0, 1].

    Two games won and two lost are added before the normal interval is taken, so that 100 wins of
    100 do not look certain: Agresti and Coull 1998, "Approximate Is Better than 'Exact' for
    Interval Estimation of Binomial Proportions", https://doi.org/10.1080/00031305.1998.10480550.
    """
    x = np.concatenate([points, [0.0, 0.0, 1.0, 1.0]])
    half = 1.96 * x.std() / np.sqrt(len(x))
    return max(float(x.mean() - half), 0.0), min(float(x.mean() + half), 1.0)


def one_game(played: Games, *modes: str) -> bool:
    """Whether all games that one side begins are the same, so that more of them tell no more: both
    play greedily, and nothing in the game is drawn. modes: in which they play."""
    return set(modes) == {"greedy"} and bool(played.repeats.all())


def summary(reward: np.ndarray, *, alike: bool = False) -> dict[str, Any]:
    """Wins, draws and losses, the mean score (a win counts 1, a draw 0.5) with its 95 % interval,
    and the mean reward.

    Args:
      reward: [N] of N games.
      alike: whether the games are one game played N times, of which there is no interval.
    """
    points = 0.5 + 0.5 * np.sign(reward)
    low, high = (None, None) if alike else score_interval(points)
    return {
        "games": len(reward),
        "won": int((reward > 0).sum()),
        "drawn": int((reward == 0).sum()),
        "lost": int((reward < 0).sum()),
        "score": float(points.mean()),
        "interval_95_low": low,
        "interval_95_high": high,
        "mean_reward": float(reward.mean()),
    }


def game_of(config: Any) -> Task:
    """The game of two that a run was trained for, without the opponent that it may have met.

    Raises:
      UserError: it was trained for another task, or for several.
    """
    task, *others = config.tasks
    if others:
        raise UserError(f"{config.run_dir} plays {1 + len(others)} tasks, not one game of two")
    try:
        return plain_game(task)
    except UserError:
        raise UserError(
            f"{config.run_dir} plays {task.name!r}, which is no game of two players"
        ) from None


def check_mode(algorithm: Algorithm, mode: str) -> str:
    """The mode in which an algorithm's policy is to play: its score's, unless one is given.

    Raises:
      UserError: it has no such mode.
    """
    mode = mode or algorithm.score_mode
    algorithm.check_mode(mode)
    return mode


class RunOfGame(NamedTuple):
    """A run of a game of two."""

    algorithm: Algorithm
    config: Any
    agent: Saved
    game: Task
    mode: str  # of play

    def contender(self, name: str, params: Any = None) -> Contender:
        """The run's policy, with its newest parameters or with others."""
        params = self.agent.params if params is None else params
        return policy_contender(
            name, self.algorithm, self.config, self.agent.network, params, self.mode
        )


def open_run(algorithm: Algorithm, config: Any, mode: str = "") -> RunOfGame:
    """Reads the newest policy of a run of a game of two.

    Args:
      config: of the run, with its folder as run_dir.
      mode: the policy's way to play; if empty, that of the algorithm's score.

    Raises:
      UserError: the run is no such run, or its algorithm has no such mode.
      CheckpointError: it has no checkpoint.
    """
    game, mode = game_of(config), check_mode(algorithm, mode)
    return RunOfGame(algorithm, config, saved(algorithm, config), game, mode)


@dataclasses.dataclass(frozen=True)
class MatchConfig:
    """Plays two runs of one game against each other; a player's name may stand for one of them."""

    episodes: int = 1_000
    """The number of games, an even one: each side begins half of them."""
    mode: str = ""
    """How policies play: sampled draws actions as in training, greedy plays the likeliest one. If
    empty, each plays in the way that is its algorithm's score."""
    seed: int = SEED
    """The games and all random moves follow from it."""
    out: str = ""
    """The file of the result; if empty, one in runs/matches that is named after both sides."""

    def __post_init__(self):
        if self.episodes < 2 or self.episodes % 2:
            raise UserError(
                f"episodes must be 2 or more, and even, as each side begins half of the games, not "
                f"{self.episodes}"
            )
        check_at_least(self, 0, "seed")


def match(sides: Sequence[tuple[Algorithm, Any] | str], options: MatchConfig) -> Path:
    """Plays a match, prints its result and writes it to a file, whose path it returns.

    Args:
      sides: two, each a run's algorithm and Config, or the name of a player; one is a run.

    Raises:
      UserError: the sides do not play the same game, or the file cannot be written.
    """
    games = {side[1].run_dir: game_of(side[1]) for side in sides if not isinstance(side, str)}
    (folder, game), *others = games.items()
    for other, its in others:
        if its != game:
            raise UserError(f"{folder} plays {game.name!r} and {other} plays {its.name!r}")
    contenders: list[Contender] = []
    about: list[dict[str, Any]] = []
    for side in sides:
        if isinstance(side, str):
            contenders.append(player_contender(side, game))
            about.append({"player": side})
            continue
        run = open_run(*side, options.mode)
        name = f"{run.config.run_dir} ({run.mode})"
        contenders.append(run.contender(name))
        steps = {"env_steps": run.agent.env_steps, "mode": run.mode}
        about.append({"run": str(run.config.run_dir), "algorithm": run.algorithm.name, **steps})
    half = options.episodes // 2
    played = play(contenders, np.repeat([[0, 1], [1, 0]], half, axis=0), game, options.seed)
    reward = np.where(played.pairs[:, 0] == 0, played.reward, -played.reward)
    alike = one_game(played, *(side.get("mode", "") for side in about))
    found = {
        "game": game.name,
        "seed": options.seed,
        "sides": about,
        "ended": int(played.ended.sum()),
        "result": summary(reward, alike=alike),
        "began": summary(reward[:half], alike=alike),
        "did_not_begin": summary(reward[half:], alike=alike),
    }
    print("\n".join(describe(found, *(x.name for x in contenders))))
    names = [Path(side if isinstance(side, str) else side[1].run_dir).name for side in sides]
    path = Path(options.out or Path(OUT) / f"{names[0]}-against-{names[1]}.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}") from None
    print(f"saved {path}")
    return path


def sides(game: str) -> tuple[str, str]:
    """Returns the words for half of the games each: where a side begins, or is the first team."""
    if is_team_game(game):
        return "  as first team", "  as second team"
    return "  it began", "  it did not"


def interval_words(result: dict[str, Any], spec: str) -> str:
    """The 95 % interval of a summary of games, each end written as spec says; "none" if it has
    none, because the games are one game."""
    low, high = result["interval_95_low"], result["interval_95_high"]
    return "none" if low is None else f"{low:{spec}} to {high:{spec}}"


def line(words: str, result: dict[str, Any], number: str = "score") -> str:
    """A line of a table on games: how many were won, drawn and lost, and a mean with its interval.

    Args:
      words: what the games are.
      result: as summary() gives it; number: the name of its mean.
    """
    counts = "".join(f"{result[name]:>8,}" for name in ("won", "drawn", "lost"))
    return f"{words:<16}{counts}{result[number]:>9.3f}   {interval_words(result, '.3f')}"


def describe(found: dict[str, Any], first: str, second: str) -> list[str]:
    """Lines on a match, as match() writes it, from the first side's view."""
    whole = found["result"]
    lines = [
        f"{found['game']}, {whole['games']:,} games",
        f"  {first}",
        f"  against {second}",
        f"{'':<16}     won   drawn    lost    score   95 % interval",
        line("all games", whole),
        *map(line, sides(found["game"]), (found["began"], found["did_not_begin"])),
        "score: the mean of 1 for a win, 0.5 for a draw",
    ]
    if abs(whole["mean_reward"] - 2 * whole["score"] + 1) > 1e-6:  # not 1, 0 or -1 alone
        lines.insert(-1, f"mean reward {whole['mean_reward']:.4g}")
    if whole["interval_95_low"] is None:
        lines.append(ONE_GAME)
    if unfinished := whole["games"] - found["ended"]:
        lines.append(f"{unfinished} games had not ended after {MAX_STEPS:,} steps: drawn")
    return lines
