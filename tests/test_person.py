"""A person plays against a policy: boards, moves, and whole games fed as standard input."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from test_match import game
from test_words import run
from untrained import TINY, write_run

from rlsys import envs, train
from rlsys.envs.spaces import MASK
from rlsys.results import boards, person

GAMES = list(boards.BOARDS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in GAMES:
        torso = "--torso mlp --hidden-size 16 --head-size 8 --num-envs 32 --minibatches 1"
        write_run(folder / name, f"ppo --env {name} {torso}")
    return folder


@pytest.mark.parametrize("name", GAMES)
def test_every_action_has_a_name_that_is_read_as_the_action(name):
    env, board = envs.make(game(name), 2, 0), boards.BOARDS[name]
    actions = range(env.action_space.n)
    names = [boards.name_move(board, i) for i in actions]
    assert len(set(names)) == len(names)
    assert [boards.read_move(board, f" {x.upper()}\n") for x in names] == list(actions)
    for text in ("", "?", "0", "-1", "99", "z1", "a0", "a99", "1a", "a", "²", "a²", "pass it"):
        assert boards.read_move(board, text) is None


def test_moves_as_people_write_them():
    othello, hexagons = boards.BOARDS["Othello-v1"], boards.BOARDS["Hex-v1"]
    assert boards.read_move(othello, "d3") == 2 * 8 + 3
    assert boards.read_move(othello, "pass") == 64
    assert boards.read_move(hexagons, "swap") == 121 and boards.read_move(hexagons, "k11") == 120
    assert boards.read_move(hexagons, "pass") is None
    assert boards.read_move(boards.BOARDS["TicTacToe-v1"], "b2") == 4
    assert boards.read_move(boards.BOARDS["ConnectFour-v1"], "a1") is None


def test_boards_show_what_a_player_sees():
    drawn = boards.draw(boards.BOARDS["TicTacToe-v1"], np.eye(9)[[0, 5]].T.reshape(3, 3, 2))
    assert drawn.split() == ["X", "2", "3", "4", "5", "O", "7", "8", "9"]
    env = envs.make(game("ConnectFour-v1"), 2, 0)
    timestep = env.reset()
    mover = int(env.to_move.argmax())
    timestep = env.step(np.full(2, 2))
    lines = boards.draw(boards.BOARDS["ConnectFour-v1"], timestep.obs["obs"][mover]).splitlines()
    assert lines[0].split() == list("1234567") and lines[-1].split() == list("..X....")
    assert "O" in boards.draw(boards.BOARDS["ConnectFour-v1"], timestep.obs["obs"][1 - mover])
    start = envs.make(game("Othello-v1"), 2, 0).reset()
    lines = boards.draw(boards.BOARDS["Othello-v1"], start.obs["obs"][0]).splitlines()
    assert lines[0].split() == list("abcdefgh") and lines[4].split()[0] == "4"
    assert sum(line.count("X") + line.count("O") for line in lines) == 4


class Typist(io.StringIO):
    """Asks for the legal moves, then types a random one of those that are printed."""

    def __init__(self, begins, capsys, seed=0):
        super().__init__()
        self.said, self.typed, self._capsys = "", [], capsys
        self._begins, self._random = begins, np.random.default_rng(seed)

    def readline(self, *_):
        new = self._capsys.readouterr().out
        self.said += new
        if new.endswith("draw lots) "):
            word = self._begins
        else:
            assert new.endswith("Your move: "), new
            _, asked, legal = new.removesuffix("Your move: ").partition("Legal moves:")
            word = self._random.choice(legal.split()) if asked else "?"
        self.typed.append(word)
        return f"{word}\n"


@pytest.mark.parametrize("begins", ["y", "n", ""])
@pytest.mark.parametrize("name", GAMES)
@pytest.mark.slow
def test_whole_games(name, begins, runs, capsys, monkeypatch):
    typist = Typist(begins, capsys)
    monkeypatch.setattr(sys, "stdin", typist)
    assert run(train.main, f"play {runs / name} --seed 3") == 0
    said = typist.said + capsys.readouterr().out
    assert max(map(len, said.replace(str(runs), "runs").splitlines())) <= 80
    i_begin = "You begin." in said
    assert i_begin != ("It begins." in said)
    assert not begins or i_begin == (begins == "y")
    mine = [x for x in typist.typed[1:] if x != "?"]
    theirs = re.findall(r"^It plays (\w+)\.$", said, re.M)
    assert len(mine) >= 3
    # The moves that were shown are a game, which ends as was said.
    ended = end_of(name, mine, theirs) if i_begin else -end_of(name, theirs, mine)
    assert said.splitlines()[-1] == {1: "You win.", 0: "A draw.", -1: "The policy wins."}[ended]


def end_of(name, first, second):
    """The reward, to who began, of a game of these moves."""
    env = envs.make(game(name), 2, 0)
    timestep = env.reset()
    begins = int(env.to_move.argmax())
    moves = [iter(first), iter(second)]
    while timestep.discount[0] > 0:
        row = int(env.to_move.argmax())
        move = boards.read_move(boards.BOARDS[name], next(moves[row != begins]))
        assert timestep.obs[MASK][row][move]
        timestep = env.step(np.full(2, move))
    assert [*moves[0], *moves[1]] == []
    return int(timestep.reward[begins])


def typed(words, runs, monkeypatch, capsys, name="TicTacToe-v1", more=""):
    monkeypatch.setattr(sys, "stdin", io.StringIO(words))
    assert run(train.main, f"play {runs / name} --seed 3 {more}") == 0
    return capsys.readouterr().out


def test_what_is_no_move_is_answered_and_not_played(runs, monkeypatch, capsys):
    said = typed("maybe\ny\n5\n5\nzz\n\n?\nq\n", runs, monkeypatch, capsys)
    assert "'maybe' is no answer" in said
    assert "5 is not legal here" in said and "'zz' is no move" in said and "'' is no move" in said
    legal = re.search(r"Legal moves: (.*)", said)[1].split()
    assert len(legal) == 7 and "5" not in legal  # one of mine, one of the policy's
    assert said.count("It plays") == 1 and said.endswith("The game ends here. Good-bye.\n")
    assert said.count("Your move:") == 6


@pytest.mark.parametrize("words", ["", "y\n", "y\n5\n", "q\n", "n\nq\n", "y\n5"])
def test_the_end_of_the_input_ends_the_game_well(words, runs, monkeypatch, capsys):
    said = typed(words, runs, monkeypatch, capsys)
    assert said.endswith("The game ends here. Good-bye.\n")


def test_lots_are_drawn_both_ways(runs, monkeypatch):
    drawn = set()
    for seed in range(12):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
        drawn.add(person.ask_who_begins(np.random.default_rng(seed)))
    assert drawn == {True, False}


@pytest.mark.slow
def test_in_a_process_of_its_own(runs):
    command = [sys.executable, "-m", "rlsys", "play", str(runs / "TicTacToe-v1"), "--seed", "1"]
    done = subprocess.run(command, input="y\n5\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Your move: 5\n" in done.stdout and re.search(r"\w X \w", done.stdout)
    assert done.stdout.endswith("The game ends here. Good-bye.\n") and not done.stderr


def test_what_a_person_cannot_play_is_refused_in_a_sentence(tmp_path, runs, capsys):
    for words, message in {
        "KuhnPoker-v1": "plays 'KuhnPoker-v1', and a person can play TicTacToe-v1, ConnectFour-v1",
        "TicTacToe-v1:permute=3": "plays 'TicTacToe-v1:permute=3', and a person can play",
        "CartPole-v1": "plays 'CartPole-v1', which is no game of two players",
    }.items():
        folder = tmp_path / words.partition(":")[0]
        write_run(folder, f"ppo --env {words} {TINY}", checkpoint=False)
        (tmp_path / "x").mkdir(exist_ok=True)
        assert run(train.main, f"play {folder}") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        folder.rename(tmp_path / "x" / words)
    assert run(train.main, f"play {runs / 'TicTacToe-v1'} --mode ladder") == 2
    assert "mode must be greedy or sampled" in capsys.readouterr().err
    assert run(train.main, f"play {tmp_path / 'none'}") == 2
    assert "is no run" in capsys.readouterr().err


@pytest.mark.parametrize("step, wins", [(-1, True), (1, False)])
def test_neighbours_on_the_board_of_hex_are_neighbours_in_the_game(step, wins):
    """Each row is drawn half a cell further right, so a cell touches the two half a cell away in
    the row below: the same column, and the one to its left."""
    env = envs.make(game("Hex-v1"), 2, 0)
    timestep = env.reset()
    begins = int(env.to_move.argmax())
    mine = [11 * y + (10 - y if step < 0 else y) for y in range(11)]
    theirs = [i for i in range(121) if i not in mine and i % 11 in (0, 1)]
    for i in range(21):
        timestep = env.step(np.full(2, mine[i // 2] if i % 2 == 0 else theirs[i // 2 * 2 % 20]))
    assert (timestep.reward[begins] == 1) == wins
