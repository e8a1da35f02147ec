"""Ratings: of made-up results, of snapshots that play; what a run's folder then holds."""

import csv

import numpy as np
import pytest
from matplotlib import image
from scipy.special import expit
from test_words import run
from untrained import TINY, write_run

from rlsys import train
from rlsys.results import league, match, ratings
from rlsys.results.match import Contender

ROCK = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])  # paper, scissors


def results(strength, num_games=1_000.0):
    """Expected points of players of these log odds, and games."""
    strength = np.asarray(strength)
    games = num_games * (1.0 - np.eye(len(strength)))
    return games * expit(strength[:, None] - strength[None]), games


def test_elo_finds_the_strength_that_the_results_were_made_of():
    strength = np.array([0.3, -1.2, 2.0, 0.9])
    found = ratings.elo(*results(strength), prior=0.0)
    np.testing.assert_allclose(found.rating, 400 / np.log(10) * (strength - 0.5), atol=1e-6)
    # 400 points are odds of 10 to 1.
    found = ratings.elo(np.array([[0.0, 100.0], [10.0, 0.0]]), np.full((2, 2), 110.0), prior=0.0)
    assert found.rating[0] - found.rating[1] == pytest.approx(400.0)


def test_elo_is_the_most_likely_and_its_interval_holds_the_truth():
    random, held = np.random.default_rng(0), []
    strength = np.array([0.0, 0.5, -0.7, 1.0, -0.8])
    points, games = results(strength, 60)
    for _ in range(200):
        won = np.triu(random.binomial(60, points / 60.0 + 0.5 * np.eye(5)), 1)
        drawn = won + np.tril(games - won.T)
        found = ratings.elo(drawn, games, prior=0.0)
        truth = 400 / np.log(10) * strength
        held.append(np.abs(found.rating - truth) <= found.half_width)
        r = found.rating * np.log(10) / 400
        slope = drawn.sum(1) - (games * expit(r[:, None] - r[None])).sum(1)
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)
    assert 0.9 < np.mean(held) < 0.99


def test_elo_of_who_never_lost_is_finite_and_in_order():
    points = np.triu(np.full((6, 6), 20.0), 1)
    found = ratings.elo(points, points + points.T)
    assert (np.diff(found.rating) < -50).all() and np.isfinite(found.half_width).all()
    assert found.rating.mean() == pytest.approx(0.0, abs=1e-9)


def test_of_a_circle_all_are_equal():
    points, games = 5.0 + 5.0 * ROCK, 10.0 * (1.0 - np.eye(3))
    np.testing.assert_allclose(ratings.elo(points, games).rating, 0.0, atol=1e-6)
    found = ratings.nash_average(ratings.logits(points, games))
    np.testing.assert_allclose(found.skill, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.share, 1 / 3, atol=1e-6)


def test_nash_average_of_an_order_is_the_order():
    strength = np.array([0.5, 2.0, -1.0, 1.5])
    found = ratings.nash_average(strength[:, None] - strength[None])
    np.testing.assert_allclose(found.skill, strength - 2.0, atol=1e-5)
    np.testing.assert_allclose(found.share, [0, 1, 0, 0], atol=1e-5)


def test_a_copy_changes_nobodys_nash_average_but_does_change_elo():
    advantage = 2.0 * np.array(
        [[0, 1, -1, 1.5], [-1, 0, 1, 0.2], [1, -1, 0, 1], [-1.5, -0.2, -1, 0]]
    )
    once = ratings.nash_average(advantage)
    copies = [0, 1, 1, 1, 2, 3]
    several = ratings.nash_average(advantage[np.ix_(copies, copies)])
    np.testing.assert_allclose(several.skill, once.skill[copies], atol=1e-4)
    np.testing.assert_allclose(several.share[1:4].sum(), once.share[1], atol=1e-4)
    np.testing.assert_allclose(several.share[1:4], several.share[1], atol=1e-6)  # largest entropy
    assert once.skill[3] < -0.5

    def rated(matrix):
        games = 20.0 * (1.0 - np.eye(len(matrix)))
        return ratings.elo(games * expit(matrix), games).rating

    elo = rated(advantage), rated(advantage[np.ix_(copies, copies)])
    assert abs((elo[1][0] - elo[1][4]) - (elo[0][0] - elo[0][2])) > 50  # who beats the copied gains


@pytest.mark.parametrize("number", [1, 2, 7, 15])
def test_nash_average_is_an_equilibrium(number):
    x = np.random.default_rng(number).normal(size=(number, number))
    advantage = x - x.T
    found = ratings.nash_average(advantage)
    assert found.share.sum() == pytest.approx(1.0) and (found.share >= 0).all()
    assert (found.skill <= 1e-4).all()  # none is better than the mixture
    np.testing.assert_allclose(found.skill[found.share > 1e-3], 0.0, atol=1e-4)


def test_the_largest_entropy_is_taken_of_several_equilibria():
    """0 and 1 draw, and both beat 2: any mixture of the two is an equilibrium."""
    advantage = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [-1.0, -1.0, 0.0]])
    found = ratings.nash_average(advantage)
    np.testing.assert_allclose(found.share, [0.5, 0.5, 0.0], atol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "tictactoe"
    return write_run(folder, f"ppo --env TicTacToe-v1 {TINY}", past_selves=7)


def test_the_round_robin_of_players_of_known_strength(monkeypatch):
    """The parameters of a snapshot are the name of the player that plays for it."""

    class Run(match.RunOfGame):
        def contender(self, name: str, params=None) -> Contender:
            return match.player_contender(params, self.game)

    algorithm, config = (
        train.algorithms.find("ppo"),
        train.algorithms.config_of("ppo", ["--env", "TicTacToe-v1"]),
    )
    own = Run(algorithm, config, None, match.game_of(config), "sampled")
    found = [league.Snapshot(x, i, x) for i, x in enumerate(["random", "blocker", "perfect"])]
    table = league.round_robin(own, found, 60)
    assert np.isnan(np.diag(table.score)).all()
    score = np.where(np.isnan(table.score), 0.5, table.score)
    np.testing.assert_allclose(score + score.T, 1.0)
    assert score[2, 0] > 0.8 and score[1, 0] > 0.7 and score[2, 1] >= 0.5
    assert (np.diff(table.elo.rating) > 0).all() and (np.diff(table.nash.skill) > 0).all()
    assert 0.3 < table.against_random[0] < 0.7 and table.against_random[2] > 0.8


def test_ratings_of_a_run(trained, capsys):
    words = f"ratings {trained} --games 4 --selves 5"
    assert run(train.main, words) == 0
    said = capsys.readouterr().out
    with (trained / "ratings.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [x["snapshot"] for x in lines] == ["0", "2", "3", "4", "6", "newest"]
    assert [int(x["env_steps"]) for x in lines] == [0, 2_000, 3_000, 4_000, 6_000, 9_000]
    assert np.mean([float(x["elo"]) for x in lines]) == pytest.approx(0.0, abs=1e-6)
    assert sum(float(x["nash_share"]) for x in lines) == pytest.approx(1.0)
    assert all(0 <= float(x["score_against_random"]) <= 1 for x in lines)
    picture = image.imread(trained / "ratings.png")
    assert picture.shape[0] > 300 and picture.std() > 0.05
    table = [x for x in said.splitlines() if x.startswith(("newest", "0 "))]
    assert len(table) == 2 and "9,000" in table[1]
    assert max(map(len, said.replace(str(trained), "runs/x").splitlines())) <= 80


def test_snapshots_have_each_their_own_parameters(trained):
    own = match.open_run(*train.load(str(trained)))
    found = league.snapshots(own)
    assert [x.env_steps for x in found] == [*range(0, 7_000, 1_000), 9_000]
    kernels = [x.params["params"]["head"]["policy"]["kernel"] for x in found]
    assert len({x.tobytes() for x in map(np.asarray, kernels)}) == 8
    newest = own.agent.params["params"]["head"]["policy"]["kernel"]
    np.testing.assert_array_equal(kernels[-1], newest)


def test_what_cannot_be_rated_is_refused_in_a_sentence(trained, tmp_path, capsys):
    alone = write_run(tmp_path / "alone", f"ppo --env TicTacToe-v1 {TINY} --past-share 0")
    pole = write_run(tmp_path / "pole", f"ppo --env CartPole-v1 {TINY}", checkpoint=False)
    for words, message in {
        f"{alone}": "alone has no past selves to rate",
        f"{pole}": "which is no game of two players",
        f"{trained} --games 3": "games must be 2 or more, and even",
        f"{trained} --selves -1": "selves must be 0 or more",
        f"{tmp_path}/none": "is no run",
        "": "ratings needs the folder of a run",
    }.items():
        assert run(train.main, f"ratings {words}") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
