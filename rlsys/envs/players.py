"""Players of games of two sides that do not learn: to play against, and to measure strength by.

Each takes observations and gives a weight to each action; one of the heaviest is drawn.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlsys.types import UserError


class Board(NamedTuple):
    """A board on which a row of `line` stones of one's own wins."""

    height: int
    width: int
    line: int
    drops: bool  # an action is a column, in which the stone falls; else it is a cell


BOARDS = {"TicTacToe-v1": Board(3, 3, 3, False), "ConnectFour-v1": Board(6, 7, 4, True)}
TEAMS = {"smax": ["random", "heuristic"], "teams": ["random"]}  # by the word before the slash
# (observations [B, ...], legal actions [B, A] bool) -> weights [B, A], 0 where an action is illegal
Player = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_player(name: str, game: str) -> Player:
    """Returns a player of a game.

    Args:
      name: "random" draws a legal action; "blocker" wins if it can, else keeps the other from
        winning with the next move, else draws; "perfect" draws from the best actions.
      game: EnvPool's id, or that of a game of two teams.

    Raises:
      UserError: there is no such player of this game.
    """
    known = players_of(game)
    if name not in known:
        raise UserError(f"there is no opponent {name!r} in {game!r}, only {', '.join(known)}")
    if name == "heuristic":
        raise UserError(
            f"heuristic is a part of the environment {game}:opponent=heuristic: make eval plays it"
        )
    if name == "random":
        return lambda obs, legal: legal.astype(float)
    if name == "blocker":
        return functools.partial(blocker, BOARDS[game])
    return perfect


def players_of(game: str) -> list[str]:
    """Returns the names of the players of a game, the weakest first."""
    if "/" in game:
        return TEAMS[game.partition("/")[0]]
    on_boards = ["blocker"] if game in BOARDS else []
    return ["random", *on_boards, *(["perfect"] if game == "TicTacToe-v1" else [])]


def draw(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws one of the heaviest actions: [B, A] -> [B] int32."""
    heaviest = weights == weights.max(-1, keepdims=True)
    return (heaviest * random.uniform(0.5, 1.0, weights.shape)).argmax(-1).astype(np.int32)


@functools.cache
def lines(board: Board) -> np.ndarray:
    """Returns the cells of all rows of `line` cells, straight and diagonal: [L, line]."""
    found = []
    for y, x in itertools.product(range(board.height), range(board.width)):
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            cells = [(y + i * dy, x + i * dx) for i in range(board.line)]
            if all(0 <= v < board.height and 0 <= u < board.width for v, u in cells):
                found.append([v * board.width + u for v, u in cells])
    return np.array(found)


def completes(board: Board, stones: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Returns which empty cells complete a line of stones: [B, cells] bool, all three."""
    of_line = lines(board)
    almost = stones[:, of_line].sum(-1) == board.line - 1  # [B, L]
    missing = empty[:, of_line] & almost[..., None]  # [B, L, line]
    found = np.zeros_like(empty)
    rows, which, places = missing.nonzero()
    found[rows, of_line[which, places]] = True
    return found


def blocker(board: Board, obs: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Weighs a move that wins by 3, one that takes the other's winning cell by 2, others by 1."""
    cells = obs.astype(bool).reshape(len(obs), -1, 2)
    mine, theirs = cells[..., 0], cells[..., 1]
    empty = ~(mine | theirs)
    if board.drops:  # only the lowest empty cell of a column can be taken
        grid = empty.reshape(-1, board.height, board.width)
        below = np.concatenate([grid[:, 1:], np.zeros_like(grid[:, :1])], axis=1)
        empty = (grid & ~below).reshape(len(obs), -1)
    wins, blocks = (completes(board, stones, empty) for stones in (mine, theirs))
    value = np.where(wins, 3.0, np.where(blocks, 2.0, 1.0))
    if board.drops:
        grid = np.where(empty, value, 0.0).reshape(-1, board.height, board.width)
        value = grid.max(1)  # [B, columns]
    return np.where(legal, value, 0.0)


@functools.cache
def outcome(mine: int, theirs: int) -> int:
    """Returns how a position of TicTacToe ends for who moves, if both play perfectly: 1, 0 or -1.

    Args:
      mine, theirs: stones, as bits of the nine cells.
    """
    if any(theirs & line == line for line in _masks()):
        return -1
    free = [i for i in range(9) if not (mine | theirs) >> i & 1]
    return max((-outcome(theirs, mine | 1 << i) for i in free), default=0)


@functools.cache
def _masks() -> tuple[int, ...]:
    return tuple(sum(1 << int(i) for i in line) for line in lines(BOARDS["TicTacToe-v1"]))


def perfect(obs: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Weighs the actions of TicTacToe by how the game then ends: 3 for won, 2 drawn, 1 lost."""
    bits = 1 << np.arange(9)
    cells = obs.astype(bool).reshape(len(obs), 9, 2)
    weights = np.zeros(legal.shape)
    for row, (mine, theirs) in enumerate(np.einsum("bcp,c->bp", cells, bits).tolist()):
        for action in np.flatnonzero(legal[row]):
            weights[row, action] = 2 - outcome(theirs, mine | 1 << int(action))
    return weights
