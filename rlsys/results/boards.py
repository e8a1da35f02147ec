"""Boards of games as text, and moves as a person writes them.

The player whose moves are read has X, the other has O. Squares are called by a letter for the
column, from the left, and a number for the row, from the top: a1 is the top left corner.
"""

import string
from typing import NamedTuple

import numpy as np


class Board(NamedTuple):
    """How a game looks, and what its actions are called."""

    height: int
    width: int
    numbers: str = ""  # what plain numbers name: "cell" or "column"; nothing in other games
    special: tuple[str, ...] = ()  # names of the actions that follow those of the cells
    slant: int = 0  # spaces by which each row begins further to the right
    rules: str = ""


BOARDS = {
    "TicTacToe-v1": Board(3, 3, "cell", rules="Three in a row win. A move is a cell, 1 to 9."),
    "ConnectFour-v1": Board(
        6, 7, "column", rules="Four in a row win. A move is a column, 1 to 7; the stone falls."
    ),
    "Othello-v1": Board(
        8, 8, special=("pass",),
        rules="Enclosed stones are turned, and most stones win. A move is a square such as d3, or "
        "pass.",
    ),
    "Hex-v1": Board(
        11, 11, special=("swap",), slant=1,
        rules="Who begins connects top and bottom, the other left and right. A move is a cell such "
        "as f6; the second move may be swap, which takes the first stone over, mirrored.",
    ),
}  # fmt: skip


def name_move(board: Board, action: int) -> str:
    """Returns what an action is called."""
    cells = board.width if board.numbers == "column" else board.height * board.width
    if action >= cells:
        return board.special[action - cells]
    if board.numbers:
        return str(action + 1)
    row, column = divmod(action, board.width)
    return f"{string.ascii_lowercase[column]}{row + 1}"


def read_move(board: Board, text: str) -> int | None:
    """Returns the action that a text names; None if there is none, legal or not."""
    text = text.strip().lower()
    cells = board.height * board.width
    if text in board.special:
        return cells + board.special.index(text)
    if board.numbers:
        most = board.width if board.numbers == "column" else cells
        if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
            return int(text) - 1
    if board.numbers == "column":
        return None
    column, row = string.ascii_lowercase.find(text[:1] or "?"), text[1:]
    if 0 <= column < board.width and row.isascii() and row.isdecimal():
        if 1 <= int(row) <= board.height:
            return (int(row) - 1) * board.width + column
    return None


def draw(board: Board, obs: np.ndarray) -> str:
    """Draws a position.

    Args:
      obs: [height, width, 2 or more] bool, the player's own stones and the other's.
    """
    mine, theirs = np.asarray(obs[..., 0], bool), np.asarray(obs[..., 1], bool)
    cell = np.where(mine, "X", np.where(theirs, "O", "."))
    letters = [string.ascii_lowercase[i] for i in range(board.width)]
    head = [str(i + 1) for i in range(board.width)] if board.numbers == "column" else letters
    lines = [] if board.numbers == "cell" else ["   " + " ".join(head)]
    for y, row in enumerate(cell):
        if board.numbers == "cell":
            names = [str(y * board.width + x + 1) for x in range(board.width)]
            row = np.where(row == ".", names, row)
        label = "  " if board.numbers else f"{y + 1:>2}"
        lines.append(" " * (board.slant * y) + label + " " + " ".join(row))
    return "\n".join(lines)
