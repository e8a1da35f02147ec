"""Matches: who plays which rows, who begins, what is counted, what is refused."""

import json

import jax
import numpy as np
import pytest
from test_words import run
from untrained import TINY, write_run

from rlsys import algorithms, envs, train
from rlsys.envs.spaces import MASK
from rlsys.results import match
from rlsys.results.match import Contender


def game(words):
    return envs.read_tasks(words, envs.Options())[0]


def contenders(words, *names):
    return [match.player_contender(name, game(words)) for name in names]


def spy(seen):
    """Plays the first legal action; keeps what it saw, and counts its steps as its memory."""

    def act(timestep, memory):
        seen.append((timestep, memory))
        return timestep.obs[MASK].argmax(-1), memory + 1

    return Contender("spy", lambda num_rows, seed: np.zeros(num_rows, int), act)


def test_the_first_of_a_pair_begins_and_each_acts_for_its_own_rows():
    seen, other = [], []
    pairs = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0]])
    played = match.play([spy(seen), spy(other)], pairs, game("TicTacToe-v1"))
    # Both take the first free cell: 0, 2, 4, 6 give whoever begins a diagonal at the 7th move.
    np.testing.assert_array_equal(played.reward, np.ones(5))
    assert played.ended.all() and len(seen) == 7
    for steps, begins in ((seen, [True, False, True, False, False]), (other, ~pairs[:, 0] == -1)):
        moves = steps[0][0].obs[MASK].sum(-1) > 1
        np.testing.assert_array_equal(moves, np.asarray(begins) == (steps is seen))
        assert [x[1].tolist() for x in steps] == [[i] * 5 for i in range(7)]


def test_a_round_robin_gives_each_player_its_rows():
    seen = [[], [], []]
    pairs = np.argwhere(~np.eye(3, dtype=bool))
    match.play([spy(x) for x in seen], pairs, game("ConnectFour-v1"))
    assert [len(x[0][0].first) for x in seen] == [4, 4, 4]


def test_players_of_known_strength(monkeypatch):
    monkeypatch.setattr(match, "AT_ONCE", 150)  # in parts
    sides = contenders("TicTacToe-v1", "perfect", "random")
    pairs = np.repeat([[0, 1], [1, 0]], 200, axis=0)
    played = match.play(sides, pairs, game("TicTacToe-v1"))
    reward = np.where(pairs[:, 0] == 0, played.reward, -played.reward)
    assert len(reward) == 400 and (reward >= 0).all() and reward.mean() > 0.7
    assert reward[:200].mean() > reward[200:].mean()  # it begins, it does not
    again = match.play(sides, pairs, game("TicTacToe-v1"))
    np.testing.assert_array_equal(played.reward, again.reward)
    other = match.play(sides, pairs, game("TicTacToe-v1"), seed=1)
    assert (played.reward != other.reward).any()
    perfect = match.play(contenders("TicTacToe-v1", "perfect"), pairs * 0, game("TicTacToe-v1"))
    assert (perfect.reward == 0).all()


def test_equal_sides_of_a_game_of_luck_are_equal():
    sides = contenders("KuhnPoker-v1", "random", "random")
    played = match.play(sides, np.repeat([[0, 1], [1, 0]], 1_000, axis=0), game("KuhnPoker-v1"))
    assert set(np.abs(played.reward).tolist()) == {1.0, 2.0}
    result = match.summary(np.where(played.pairs[:, 0] == 0, played.reward, -played.reward))
    assert result["interval_95_low"] < 0.5 < result["interval_95_high"]


def test_a_summary_counts_and_its_interval_holds_the_truth():
    x = match.summary(np.array([2.0, 1.0, 0.0, -1.0]))
    counts = {name: x[name] for name in ("games", "won", "drawn", "lost", "score", "mean_reward")}
    assert counts == {
        "games": 4, "won": 2, "drawn": 1, "lost": 1, "score": 0.625, "mean_reward": 0.5
    }  # fmt: skip
    random, held = np.random.default_rng(0), []
    for p in ([0.1, 0.0, 0.9], [0.3, 0.4, 0.3], [0.01, 0.02, 0.97]):
        truth = p[2] + 0.5 * p[1]
        for _ in range(400):
            low, high = match.score_interval(random.choice([0.0, 0.5, 1.0], 100, p=p))
            held.append(low <= truth <= high)
    assert 0.93 < np.mean(held) <= 1.0
    low, high = match.score_interval(np.ones(1_000))
    assert 0.99 < low < 0.999 and high == 1.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, words in {
        "a": f"ppo --env TicTacToe-v1 {TINY} --core-size 8 --sequence-length 8",
        "b": f"ppo --env TicTacToe-v1 {TINY} --seed 1 --past-share 0",
        "q": "r2d2 --env TicTacToe-v1:opponent=random --hidden-size 16 --core-size 8",
        "other": f"ppo --env ConnectFour-v1 {TINY}",
        "pole": f"ppo --env CartPole-v1 {TINY}",
    }.items():
        write_run(folder / name, words, checkpoint=name in "abq")
    return folder


@pytest.mark.parametrize("sides", ["a b", "random a", "q blocker"])
def test_a_match_is_printed_and_written(sides, runs, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = " ".join(str(runs / x) if (runs / x).exists() else x for x in sides.split())
    before = sorted(runs.rglob("*"))
    assert run(train.main, f"match {words} --episodes 20") == 0
    said = capsys.readouterr().out
    path = tmp_path / "runs/matches" / f"{sides.replace(' ', '-against-')}.json"
    found = json.loads(path.read_text())
    result = found["result"]
    assert result["won"] + result["drawn"] + result["lost"] == result["games"] == 20
    assert found["began"]["games"] == found["did_not_begin"]["games"] == 10
    assert found["ended"] == 20 and found["game"] == "TicTacToe-v1"
    (line,) = [line.split() for line in said.splitlines() if line.startswith("all games")]
    numbers = [result[x] for x in ("won", "drawn", "lost", "score", "interval_95_low")]
    assert [float(x) for x in line[2:7]] == pytest.approx(numbers, abs=5e-4)
    assert f"saved {path.relative_to(tmp_path)}" in said
    assert max(map(len, said.replace(str(runs), "runs").splitlines())) <= 80
    assert sorted(runs.rglob("*")) == before  # neither run is touched
    assert run(train.main, f"match {words} --episodes 20 --out {tmp_path / 'x.json'}") == 0
    assert json.loads((tmp_path / "x.json").read_text()) == found


def test_greedy_play_of_a_policy_against_itself_is_one_game(runs, tmp_path, capsys):
    out = tmp_path / "x.json"
    words = f"match {runs / 'a'} {runs / 'a'} --episodes 20 --mode greedy --out {out}"
    assert run(train.main, words) == 0
    found = json.loads(out.read_text())
    assert max(found["began"][x] for x in ("won", "drawn", "lost")) == 10
    assert found["began"]["won"] == found["did_not_begin"]["lost"]
    assert found["sides"][0]["mode"] == "greedy"
    for part in ("result", "began", "did_not_begin"):
        assert found[part]["interval_95_low"] is found[part]["interval_95_high"] is None
    said = capsys.readouterr().out
    short = said.replace(str(runs), "runs").replace(str(tmp_path), "")
    assert match.ONE_GAME in said and all(len(x) <= 80 for x in short.splitlines())
    assert run(train.main, words.replace("--mode greedy", "--mode sampled")) == 0
    assert json.loads(out.read_text())["result"]["interval_95_low"] < 0.5
    assert match.ONE_GAME not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "modes", "alike"),
    [
        ("TicTacToe-v1", ("greedy", "greedy"), True),
        ("TicTacToe-v1", ("greedy", "sampled"), False),
        ("TicTacToe-v1", ("greedy", ""), False),  # a player, who draws
        ("KuhnPoker-v1", ("greedy", "greedy"), False),  # cards are drawn
    ],
)
def test_games_are_one_game_where_nothing_is_drawn(name, modes, alike):
    pairs = np.repeat([[0, 1], [1, 0]], 20, axis=0)
    played = match.play([spy([]), spy([])], pairs, game(name))
    assert match.one_game(played, *modes) == alike
    drawn = match.play([spy([]), *contenders(name, "random")], pairs, game(name))
    assert not match.one_game(drawn, "greedy", "greedy")


def test_a_side_that_remembers_keeps_a_state_for_each_row(runs):
    """Alone or among others, a game is the same: nothing leaks between rows."""
    algorithm, config = train.load(str(runs / "a"))
    own = match.open_run(algorithm, config, "greedy")
    sides = [own.contender("a"), spy([])]
    many = match.play(sides, np.repeat([[0, 1]], 6, axis=0), own.game)
    one = match.play(sides, np.array([[0, 1]]), own.game)
    np.testing.assert_array_equal(many.reward, np.repeat(one.reward, 6))
    state = sides[0].start(3, 0)[1]
    assert {x.shape[0] for x in jax.tree.leaves(state)} == {3}


@pytest.mark.parametrize(
    "words, message",
    [
        ("{a} {other}", "a plays 'TicTacToe-v1' and .*other plays 'ConnectFour-v1'"),
        ("{a} {pole}", "pole plays 'CartPole-v1', which is no game of two players"),
        ("{a}", "needs two runs, or one and a player's name, not 1"),
        ("", "needs two runs, or one and a player's name, not 0"),
        ("{a} {b} {q}", "not 3"),
        ("{a} {a}/none", "none/config.json is missing: .*none is no run"),
        ("{a} nobody", "nobody is neither a run nor a player of TicTacToe-v1: random, blocker"),
        ("{other} perfect", "perfect is neither a run nor a player of ConnectFour-v1"),
        ("random perfect", "random and perfect are no runs"),
        ("{a} random --episodes 7", "episodes must be 2 or more, and even"),
        ("{a} random --seed -1", "seed must be 0 or more"),
        ("{a} random --mode ladder", "mode must be greedy or sampled for a run of ppo"),
        ("{q} random --mode sampled", "mode must be greedy or ladder for a run of r2d2"),
        ("{a} random --games 7", "there is no field '--games'"),
        ("{a} random --out {a}/config.json/x", "could not be written"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_a_sentence(words, message, runs, capsys):
    words = words.format(**{path.name: path for path in runs.iterdir()})
    assert run(train.main, f"match {words}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


def test_help_of_a_match(capsys):
    for words in ("match --help", "ratings --help", "play --help"):
        with pytest.raises(SystemExit) as exit_info:
            train.main(words.split())
        assert exit_info.value.code == 0
    said = capsys.readouterr().out
    assert "rlsys match RUN RUN" in said and "--episodes" in said and "--games" in said


def test_algorithms_are_found_by_name():
    assert algorithms.NAMES  # a command must not hide one
    assert not {"match", *train.COMMANDS} & set(algorithms.NAMES)
