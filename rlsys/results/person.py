"""A person plays a game against a trained policy, in the terminal."""

import dataclasses
import operator
import sys
import textwrap
from typing import Any

import jax
import numpy as np

from rlsys.envs import make
from rlsys.envs.spaces import MASK
from rlsys.results import boards, match
from rlsys.running.algorithm import Algorithm
from rlsys.types import UserError

HELP = "? lists the legal moves, q ends the game."


@dataclasses.dataclass(frozen=True)
class PlayConfig:
    """Has you play a game against a run's newest policy, in the terminal."""

    mode: str = ""
    """How the policy plays: sampled draws actions as in training, greedy plays the likeliest one.
    If empty, in the way that is the algorithm's score."""
    seed: int | None = None
    """The policy's random moves follow from it, and who begins if lots are drawn; if None, each
    game is another."""

    def __post_init__(self):
        if self.seed is not None and self.seed < 0:
            raise UserError(f"seed must be 0 or more, not {self.seed}")


class Quit(Exception):
    """The person, or the end of the input, ends the game."""


def ask(question: str) -> str:
    """Reads a line, without spaces around it, in small letters.

    Raises:
      Quit: it is q, or the input has ended.
    """
    print(question, end="", flush=True)
    line = sys.stdin.readline()
    if not sys.stdin.isatty():  # a terminal shows what is typed
        print(line.rstrip("\n"))
    if not line:
        raise Quit
    text = line.strip().lower()
    if text in ("q", "quit", "exit"):
        raise Quit
    return text


def ask_who_begins(random: np.random.Generator) -> bool:
    """Returns whether the person begins; an empty line draws lots."""
    while True:
        text = ask("Do you begin? (y, n, or Enter to draw lots) ")
        if text in ("y", "yes", "n", "no"):
            return text[0] == "y"
        if not text:
            return bool(random.integers(2))
        print(f"{text!r} is no answer: y, n, or Enter.")


def ask_move(board: boards.Board, legal: np.ndarray) -> int:
    """Returns the person's move, and answers all that is none. legal: [A] bool."""
    names = [boards.name_move(board, i) for i in np.flatnonzero(legal).tolist()]
    while True:
        text = ask("Your move: ")
        action = boards.read_move(board, text)
        if text == "?":
            print(textwrap.fill(f"Legal moves: {' '.join(names)}", 79))
        elif action is None:
            print(f"{text!r} is no move. {HELP}")
        elif not legal[action]:
            print(f"{boards.name_move(board, action)} is not legal here. {HELP}")
        else:
            return action


def play(
    run: match.RunOfGame, board: boards.Board, seed: int, person_begins: bool | None = None
) -> float | None:
    """Plays a game.

    Args:
      run: whose policy plays.
      board: of the game.
      seed: of the game, and of the policy's moves.
      person_begins: None to ask.

    Returns:
      the person's reward, or None if the game was ended before its end.
    """
    envs = make(run.game, 2, seed)
    policy = run.contender("the policy")
    try:
        print(f"{run.game.name} against {run.config.run_dir} ({run.mode})")
        print(textwrap.fill(f"{board.rules} {HELP}", 79))
        if person_begins is None:
            person_begins = ask_who_begins(np.random.default_rng(seed))
        timestep = envs.reset()
        begins = int(envs.to_move.argmax())
        me = begins if person_begins else 1 - begins
        other = 1 - me
        print(f"You have X, the policy has O. {'You begin' if person_begins else 'It begins'}.")
        memory, last = policy.start(1, seed), ""
        while timestep.discount[me] > 0 and not timestep.truncated[me]:
            action = np.zeros(2, np.int32)
            its_part = jax.tree.map(operator.itemgetter([other]), timestep)
            action[[other]], memory = policy.act(its_part, memory)
            if envs.to_move[me]:
                print(f"\n{last}{boards.draw(board, timestep.obs['obs'][me])}")
                action[me] = ask_move(board, timestep.obs[MASK][me])
                last = ""
            else:
                last += f"It plays {boards.name_move(board, int(action[other]))}.\n"
            timestep = envs.step(action)
    except Quit:
        print("The game ends here. Good-bye.")
        return None
    finally:
        envs.close()
    reward = float(timestep.reward[me])
    print(f"\n{last}{boards.draw(board, timestep.obs['obs'][me])}")
    print("You win." if reward > 0 else "The policy wins." if reward < 0 else "A draw.")
    return reward


def play_run(algorithm: Algorithm, config: Any, options: PlayConfig) -> None:
    """Has a person play a game against a run's newest policy.

    Raises:
      UserError: the run is of no game that can be shown as text.
      CheckpointError: it has no checkpoint.
    """
    game = match.game_of(config)
    if game.name not in boards.BOARDS:
        raise UserError(
            f"{config.run_dir} plays {game.name!r}, and a person can play "
            f"{', '.join(boards.BOARDS)}"
        )
    run = match.open_run(algorithm, config, options.mode)
    seed = options.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    play(run, boards.BOARDS[game.name], seed)
