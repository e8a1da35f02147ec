"""Games of two: rows in order, whose turn it is, rewards, seeds; and players that do not learn."""

import itertools

import numpy as np
import pytest
from environments import assert_same

from rlsys import algorithms, envs
from rlsys.envs import players, rules
from rlsys.envs.spaces import MASK
from rlsys.types import UserError

GAMES = """AnimalShogi-v1 Backgammon-v1 Chess-v1 ChineseGo9x9-v1 ConnectFour-v1 GardnerChess-v1
Go9x9-v1 Hex-v1 KuhnPoker-v1 LeducHoldem-v1 Othello-v1 TicTacToe-v1""".split()


def made(words, num_envs=8, seed=0):
    (task,) = envs.read_tasks(words, envs.Options())
    return envs.make(task, num_envs, seed)


@pytest.mark.parametrize("game", GAMES)
def test_one_row_of_a_game_moves_and_the_other_has_one_legal_action(game):
    env, rng = made(game), np.random.default_rng(0)
    timestep = env.reset()
    for _ in range(40):
        move, legal = env.to_move.reshape(-1, 2), timestep.obs[MASK]
        ended = (timestep.discount == 0).reshape(-1, 2)
        np.testing.assert_array_equal(move.sum(1), ~ended[:, 0])
        np.testing.assert_array_equal(ended[:, 0], ended[:, 1])
        waits = np.arange(legal.shape[-1]) == 0
        assert (legal[~env.to_move] == waits).all()
        assert legal[env.to_move].any(-1).all()
        timestep = env.step(rules.random_action(env, timestep.obs, rng))
        np.testing.assert_allclose(timestep.reward[::2], -timestep.reward[1::2])


def test_what_a_row_that_waits_plays_changes_nothing():
    def play(of_waiting):
        env, rng, seen = made("ConnectFour-v1", 6), np.random.default_rng(1), []
        timestep = env.reset()
        for _ in range(60):
            action = rules.random_action(env, timestep.obs, rng)
            timestep = env.step(np.where(env.to_move, action, of_waiting))
            seen.append(timestep)
        return seen

    assert_same(play(0), play(5))


def test_a_row_sees_its_own_stones_and_the_move_that_it_made():
    env = made("TicTacToe-v1", 2)
    mover = int(env.reset() and env.to_move.argmax())
    move = np.zeros(2, int)
    move[mover] = 5
    board = env.step(move).obs["obs"].reshape(2, 9, 2)
    np.testing.assert_array_equal(np.argwhere(board[mover]), [[5, 0]])  # mine, at cell 5
    np.testing.assert_array_equal(np.argwhere(board[1 - mover]), [[5, 1]])  # the other's
    assert env.to_move.argmax() == 1 - mover


def test_poker_shows_a_player_its_own_card_alone():
    env = made("KuhnPoker-v1", 600)
    obs = env.reset().obs["obs"]
    cards = obs[:, :3]  # a card's one of three
    assert (cards.sum(1) == 1).all()
    pairs = {tuple(cards[i : i + 2].argmax(1).tolist()) for i in range(0, 600, 2)}
    assert pairs == set(itertools.permutations(range(3), 2))


def test_a_won_line_is_rewarded_to_who_made_it():
    env = made("TicTacToe-v1", 2)
    mover = int(env.reset() and env.to_move.argmax())
    timestep = None
    for cell in (0, 3, 1, 4, 2):  # the first mover fills the top row
        timestep = env.step(np.full(2, cell))
    assert timestep.reward[mover] == 1 and timestep.reward[1 - mover] == -1
    assert (timestep.discount == 0).all() and not env.to_move.any()
    assert [(e.episode_return, e.length) for e in env.pop_episodes()] == [
        (1.0 if row == mover else -1.0, 5) for row in (0, 1)
    ]


def test_seeds_of_a_sweep_are_seeds_of_games():
    both, alone = made("ConnectFour-v1", 8, [3, 4]), made("ConnectFour-v1", 4, 4)
    both.reset(), alone.reset()
    np.testing.assert_array_equal(both.to_move[4:], alone.to_move)
    with pytest.raises(UserError, match="of each of 2 must be even, not 3"):
        made("ConnectFour-v1", 6, [3, 4])


@pytest.mark.parametrize("words", ["TicTacToe-v1", "KuhnPoker-v1", "TicTacToe-v1:opponent=blocker"])
def test_games_keep_the_rules_of_environments(words):
    from rlsys.envs import check

    found = check.check(lambda seed: made(words, 4, seed), 80)
    assert [x for x in found if x.kept is False] == []


def play(me, words, games=400):
    env, rng = made(words, 128), np.random.default_rng(0)
    player, timestep, results = players.make_player(me, env.name.split(":")[0]), env.reset(), []
    while len(results) < games:
        weights = player(timestep.obs["obs"], timestep.obs[MASK])
        timestep = env.step(players.draw(weights, rng))
        results += [x.episode_return for x in env.pop_episodes()]
    return np.array(results)


def test_perfect_players_of_tictactoe_draw_and_never_lose():
    assert (play("perfect", "TicTacToe-v1:opponent=perfect") == 0).all()
    assert (play("perfect", "TicTacToe-v1:opponent=random") >= 0).all()
    assert (play("random", "TicTacToe-v1:opponent=perfect") <= 0).all()
    assert players.outcome(0, 0) == 0


@pytest.mark.parametrize("game", ["TicTacToe-v1", "ConnectFour-v1"])
def test_a_blocker_beats_random_moves(game):
    mine = play("blocker", f"{game}:opponent=random")
    assert mine.mean() > 0.6
    assert abs(play("random", f"{game}:opponent=blocker").mean() + mine.mean()) < 0.15


@pytest.mark.parametrize(
    "mine, theirs, expected",
    [
        ([35, 36, 37], [28, 29, 30], {3}),  # three in the bottom row: the fourth wins
        ([28, 29], [35, 36, 37], {3}),  # the other's are blocked
        ([], [], set(range(7))),
        ([28, 29, 30], [], set(range(7))),  # a winning cell in the air cannot be taken
        ([35, 28, 21], [36, 29, 22], {0}),  # one's own win comes before a block
    ],
)
def test_a_blocker_of_connect_four(mine, theirs, expected):
    obs = np.zeros((1, 42, 2), bool)
    obs[0, mine, 0] = obs[0, theirs, 1] = True
    weights = players.blocker(
        players.BOARDS["ConnectFour-v1"], obs.reshape(1, 6, 7, 2), np.ones((1, 7), bool)
    )
    assert set(np.flatnonzero(weights[0] == weights.max()).tolist()) == expected


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "ppo --env TicTacToe-v1 --num-envs 7",
            "so each actor needs an even number",
        ),
        ("r2d2 --env TicTacToe-v1", "is a game of two players, which only ppo can play"),
        ("apex --env ConnectFour-v1", "is a game of two players, which only ppo can play"),
        ("impala --env ConnectFour-v1", "is a game of two players, which only ppo can play"),
        ("ppo --env CartPole-v1:opponent=random", "opponent is for PGX"),
        ("ppo --env Play2048-v1:opponent=random", "opponent is for games of two players"),
        ("ppo --env Hex-v1:opponent=perfect", "no opponent 'perfect' in 'Hex-v1', only random"),
        ("ppo --env CartPole-v1 --past-share 0.5", "are for games of two, not .CartPole-v1"),
        ("ppo --env TicTacToe-v1 --past-share 1.5", "past_share must lie in"),
        ("ppo --env TicTacToe-v1 --past-every 0", "past_every must be 1 or more"),
        (
            "ppo --env TicTacToe-v1 --num-envs 4",
            "of an actor's [12] games comes to none",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_sentence(words, message):
    name, *args = words.split()
    with pytest.raises(UserError, match=message):
        algorithms.config_of(name, args)


def test_one_agent_can_play_against_a_player_with_any_algorithm():
    config = algorithms.config_of("r2d2", ["--env", "TicTacToe-v1:opponent=random"])
    assert [t.name for t in config.eval_tasks] == ["TicTacToe-v1:opponent=random"]


def test_a_sweep_of_games_plays_no_past_selves():
    from rlsys.sweep.members import check_together

    words = ["--env", "TicTacToe-v1", "--eval-every", "0"]
    with pytest.raises(UserError, match="a sweep plays games with past_share 0"):
        check_together([algorithms.config_of("ppo", words)])
    check_together([algorithms.config_of("ppo", [*words, "--past-share", "0"])])
