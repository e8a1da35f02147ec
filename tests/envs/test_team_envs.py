"""Games of two teams: rows in order, the dead, results and events, seeds, words; and SMAX."""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rock_paper_scissors
from rlsys import algorithms, envs
from rlsys.acting.actors import make_envs
from rlsys.envs import check, rules, smax
from rlsys.envs.spaces import MASK
from rlsys.losses.team_spirit import team_spirit, zero_sum
from rlsys.types import UserError

DUEL = "teams/team_fakes:Duel"
SCISSORS = "teams/experiments.rock_paper_scissors:RockPaperScissors"
needs_jaxmarl = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="JaxMARL is not installed: EXTRA=teams"
)


def made(words, num_envs=8, seed=0, **more):
    (task,) = envs.read_tasks(words, envs.Options())
    return envs.make(task, num_envs, seed, **more)


def play(env, num_steps, seed=0):
    """Timesteps, actions, and to_move of each, of random legal actions."""
    rng, timesteps, actions = np.random.default_rng(seed), [env.reset()], []
    to_move = [env.to_move]
    for _ in range(num_steps):
        actions.append(rules.random_action(env, timesteps[-1].obs, rng))
        timesteps.append(env.step(actions[-1]))
        to_move.append(env.to_move)
    return jax.tree.map(lambda *x: np.stack(x), *timesteps), np.stack(actions), np.stack(to_move)


def test_rows_are_ordered_by_game_team_and_player_and_each_sees_its_own():
    steps, _, _ = play(made(DUEL, 12), 40)
    game, who, time, _ = np.moveaxis(steps.obs["obs"].reshape(41, 3, 4, 4), -1, 0)
    np.testing.assert_array_equal(who, np.broadcast_to(np.arange(4), who.shape))
    assert (game == game[:, :, :1]).all() and (time == time[:, :, :1]).all()
    assert len(np.unique(game[0])) == 3  # games differ
    np.testing.assert_array_equal(steps.first.reshape(41, 3, 4), (time == 0))
    np.testing.assert_array_equal(
        time[1:], np.where(steps.first[1:].reshape(40, 3, 4), 0, time[:-1] + 1)
    )


def test_rock_paper_scissors_has_its_payoffs_and_its_equilibrium():
    env = made(SCISSORS, 8)
    steps, actions, _ = play(env, 40)
    own, other = actions.reshape(40, 4, 2)[..., 0], actions.reshape(40, 4, 2)[..., 1]
    won, played = steps.reward[1:].reshape(40, 4, 2), ~steps.first[1:].reshape(40, 4, 2)[..., 0]
    np.testing.assert_array_equal(won[..., 0], -won[..., 1])
    expected = np.where(played, rock_paper_scissors.PAYOFF[own, other], 0)
    np.testing.assert_allclose(won[..., 0], expected, rtol=1e-6)
    best = np.array([1, 10, 5]) / 16
    assert abs(rock_paper_scissors.exploitability(best)) < 1e-12
    for i in range(3):
        moved = best + 0.01 * (np.eye(3)[i] - best)
        assert rock_paper_scissors.exploitability(moved) > 1e-4


def test_the_dead_have_one_legal_action_and_do_not_move_but_are_rewarded_for_the_result():
    env = made(f"{DUEL}:event_rewards=0", 40)
    steps, _, to_move = play(env, 80)
    lives, legal = steps.obs["obs"][..., 3], steps.obs[MASK]
    ended = steps.discount == 0
    dead = lives == 0
    assert dead.any() and ended.any()
    np.testing.assert_array_equal(to_move, ~dead & ~ended)
    np.testing.assert_array_equal(
        legal[dead], np.broadcast_to([True, False, False], legal[dead].shape)
    )
    assert legal[~dead].all()
    reward = steps.reward.reshape(81, -1, 2, 2)
    assert set(np.unique(reward)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(reward[..., 0], reward[..., 1])  # one result for a team
    np.testing.assert_array_equal(reward[:, :, 0], -reward[:, :, 1])
    won = ended & (steps.reward == 1)
    assert (won & dead).any()  # who died for the victory has it too
    assert (steps.reward[~ended] == 0).all()
    episodes = env.pop_episodes()
    assert {x.env % 2 for x in episodes} == {0}  # one of each team
    assert len(episodes) == ended.reshape(81, -1, 2)[..., 0].sum()
    assert {x.env for x in env.running_episodes()} == set(range(0, 40, 2))


def test_events_are_added_to_the_learners_rewards_but_for_a_games_last_step():
    raw, _, _ = play(made(f"{DUEL}:event_rewards=0", 40), 60)
    shown, actions, _ = play(made(f"{DUEL}:event_rewards=2", 40), 60)
    events = shown.reward - raw.reward
    ended = raw.discount == 0
    assert (events[ended | raw.first] == 0).all() and (events != 0).any()
    lives = raw.obs["obs"][..., 3].reshape(61, -1, 4)
    for t in range(1, 61):  # literally, hit by hit
        for game in range(10):
            row = 4 * game
            if raw.first[t, row] or ended[t, row]:
                continue
            expected = np.zeros(4)
            for hit in range(4):
                aimed = [
                    i
                    for i in range(4)
                    if (i < 2) != (hit < 2)
                    and lives[t - 1, game, i] > 0
                    and actions[t - 1, row + i] > 0
                    and actions[t - 1, row + i] - 1 == hit % 2
                ]
                lost = lives[t - 1, game, hit] - lives[t, game, hit]
                expected[hit] -= lost
                for i in aimed:
                    expected[i] += lost / len(aimed)
            np.testing.assert_allclose(events[t, row : row + 4], 0.2 * expected, atol=1e-6)


@pytest.mark.parametrize(
    "words", [DUEL, f"{DUEL}:opponent=random", f"{DUEL}:max_episode_steps=3", SCISSORS]
)
def test_team_games_keep_the_rules_of_environments(words):
    found = check.check(lambda seed: made(f"{words}:event_rewards=0", 8, seed), 60)
    assert [x for x in found if x.kept is False] == []


def test_seeds_of_a_sweep_are_seeds_of_games():
    both, alone = made(DUEL, 16, [3, 4]).reset(), made(DUEL, 8, 4).reset()
    np.testing.assert_array_equal(both.obs["obs"][8:], alone.obs["obs"])
    with pytest.raises(UserError, match="has 4 rows, so num_envs must be a multiple of 4, not 6"):
        made(DUEL, 12, [3, 4])


def test_against_random_moves_the_agent_is_one_team_and_the_other_by_turns():
    env = made(f"{DUEL}:opponent=random", 8)
    steps, actions, to_move = play(env, 60)
    who = steps.obs["obs"][..., 1].reshape(61, 4, 2)
    np.testing.assert_array_equal(who[0], [[0, 1], [2, 3], [0, 1], [2, 3]])
    np.testing.assert_array_equal(to_move, (steps.obs["obs"][..., 3] > 0) & (steps.discount == 1))
    assert {x.env for x in env.pop_episodes()} == {0, 2, 4, 6}
    assert actions.shape == (60, 8)


@pytest.mark.parametrize(
    "words, message",
    [
        (f"ppo --env {DUEL} --num-envs 6", "has 4 players, each with a row .* multiple of 4"),
        (f"r2d2 --env {DUEL}", "is a game of two teams, which only ppo can play"),
        ("apex --env smax/5m", "is a game of two teams, which only ppo can play"),
        ("impala --env smax/5m", "is a game of two teams, which only ppo can play"),
        (f"impala --env {DUEL}:opponent=random", "is a game of two teams, which only ppo can play"),
        (f"ppo --env {DUEL} --team-spirit 1.5", r"team_spirit must be within \[0, 1\], not 1.5"),
        (f"ppo --env {DUEL} --team-spirit-end -1", r"team_spirit_end must be within \[0, 1\]"),
        ("ppo --team-spirit 0.5", "team_spirit is for games of two teams, not 'CartPole-v1'"),
        ("ppo --env TicTacToe-v1 --team-spirit-end 0", "team_spirit_end is for games of two teams"),
        (f"ppo --env {DUEL} --num-envs 4 --minibatches 1", "of an actor's 1 games comes to none"),
        ("ppo --env smax/5m_vs_6m", "no map '5m_vs_6m' of two equal teams, only 3m, 5m"),
        (f"ppo --env {DUEL}:opponent=heuristic", "no opponent 'heuristic' in .* only random"),
        ("ppo --env smax/5m:opponent=blocker", "no opponent 'blocker' in .* random, heuristic"),
        ("ppo --zero-sum 0.5", "zero_sum is for games of two teams, not 'CartPole-v1'"),
        ("ppo --env teams/none:Duel", "there is no module 'none', which 'teams/none:Duel' names"),
        ("ppo --env teams/team_fakes", "a team game is named teams/<module>:<class>"),
        ("ppo --env teams/team_fakes:Nothing", "JAX cannot make .* AttributeError"),
        ("ppo --env teams/team_fakes:NoSize", "needs team_size, the number of a team's players"),
        (f"ppo --env {DUEL},CartPole-v1 --actors 2 --num-envs 80", "sides are of one size"),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_sentence(words, message):
    name, *args = words.split()
    with pytest.raises(UserError, match=message):
        algorithms.config_of(name, args)


def test_a_game_without_a_mask_is_refused_before_it_is_played():
    with pytest.raises(UserError, match="event_rewards is for games of two teams"):
        made("CartPole-v1:event_rewards=2")
    with pytest.raises(UserError, match="must show each player its legal actions as 'action_mask'"):
        made("teams/team_fakes:NoMask", 4)


def test_without_jaxmarl_one_sentence_names_the_command(monkeypatch):
    util = types.SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(smax, "importlib", types.SimpleNamespace(util=util))
    config = algorithms.config_of("ppo", ["--env", "smax/3m"])
    with pytest.raises(UserError, match=r"'smax/3m' needs JaxMARL, .*: make install EXTRA=teams"):
        make_envs(config)


@pytest.mark.parametrize("seed", range(3))
def test_events_of_smax_against_a_literal_loop(seed):
    rng, size = np.random.default_rng(seed), 3
    before = rng.random(2 * size) * (rng.random(2 * size) < 0.8)
    after = before * np.where(rng.random(2 * size) < 0.3, 0.0, rng.random(2 * size))
    target = rng.integers(size, 2 * size, 2 * size)
    target[size:] -= size
    target[rng.random(2 * size) < 0.3] = -1
    expected = np.zeros(2 * size)
    for unit in range(2 * size):
        lost, died = before[unit] - after[unit], before[unit] > 0 and after[unit] == 0
        expected[unit] -= smax.TAKEN * lost
        aimed = [i for i in range(2 * size) if target[i] == unit and before[i] > 0]
        for i in aimed:
            expected[i] += (smax.DEALT * lost + smax.KILL * died) / len(aimed)
    args = target, before.astype(np.float32), after.astype(np.float32)
    np.testing.assert_allclose(smax.of_events(*args), expected, atol=1e-6)
    # One team's players alone, as against scripted enemies, earn the same.
    alone = smax.of_events(target[:size], *args[1:])
    np.testing.assert_allclose(alone, expected[:size], atol=1e-6)


def test_who_is_left_has_won():
    left = jnp.array([[1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(
        jax.vmap(smax.of_result)(left), [[1, 1, -1, -1], [-1, -1, 1, 1], [0] * 4, [0] * 4]
    )


@pytest.fixture
def promotion():
    """JaxMARL adds arrays of different ranks, which the tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


@needs_jaxmarl
@pytest.mark.usefixtures("promotion")
def test_smax_keeps_order_masks_and_the_ratio_of_jaxmarls_own_reward(monkeypatch):
    from jaxmarl.environments.smax import SMAX

    monkeypatch.setattr(smax, "KILL", 0.0)
    monkeypatch.setattr(smax, "TAKEN", 1.0)
    pure = smax.read("smax/5m")
    env = SMAX()
    step = jax.jit(pure.step)
    key, rng = jax.random.key(3), np.random.default_rng(0)
    obs, state = jax.jit(pure.reset)(key)
    dealt = deaths = 0
    for t in range(100):
        legal = {a: np.asarray(m) for a, m in env.get_avail_actions(state).items()}
        np.testing.assert_array_equal(obs[MASK], np.stack([legal[a] for a in env.agents]))
        alive = np.asarray(state.unit_alive)
        np.testing.assert_array_equal(np.asarray(obs[MASK]).sum(-1) > 1, alive)
        shoot = np.asarray(obs[MASK]) * (1 + 9 * (np.arange(10) > 4))
        toward = np.where(np.arange(10) < 5, 1, 3)[:, None] == np.arange(10)  # along x
        weight = shoot + 5 * toward * np.asarray(obs[MASK])
        action = (weight * rng.uniform(0.9, 1.0, weight.shape)).argmax(-1)
        step_key = jax.random.fold_in(key, t)
        health = state.unit_health
        obs, state, rewards, over, _ = step(step_key, state, jnp.int32(action))
        seen, theirs = env.get_obs(state), env.compute_reward(state, health, state.unit_health)
        np.testing.assert_allclose(obs["obs"], np.stack([seen[a] for a in env.agents]), atol=1e-6)
        assert bool(over) == bool(env.is_terminal(state))
        result, events = np.asarray(rewards).T
        np.testing.assert_allclose(events.sum(), 0.0, atol=1e-5)  # all damage is dealt by somebody
        ours = team_spirit(zero_sum(jnp.array(events + result).reshape(2, 5)), 1.0)[:, 0]
        theirs = np.array([theirs["ally_0"], theirs["enemy_0"]])
        np.testing.assert_allclose(ours, 2 * (theirs - theirs[::-1]), atol=1e-5)
        dealt, deaths = dealt + np.abs(events).sum(), deaths + (~alive).sum()
        if over:
            break
    assert over and dealt > 1 and deaths and set(result) == {1.0, -1.0}


@needs_jaxmarl
@pytest.mark.slow
@pytest.mark.usefixtures("promotion")
@pytest.mark.parametrize(
    "words", ["smax/3m", "smax/3m:opponent=heuristic", "smax/smacv2_5_units", "smax/2s3z"]
)
def test_smax_keeps_the_rules_of_environments(words):
    size = 5 if "5" in words or "2s3z" in words else 3
    rows = size * (1 if "heuristic" in words else 2)
    found = check.check(lambda seed: made(f"{words}:event_rewards=0", 2 * rows, seed), 120)
    assert [x for x in found if x.kept is False] == []
    env = made(words, 2 * rows, render=True)
    env.reset()
    picture = env.render()
    assert picture.dtype == np.uint8 and len(np.unique(picture.reshape(-1, 3), axis=0)) >= 3
    assert env.steps_per_second == 2.0


@needs_jaxmarl
@pytest.mark.slow
@pytest.mark.usefixtures("promotion")
def test_scripted_enemies_beat_random_moves():
    env = made("smax/5m:opponent=heuristic", 100)
    steps, _, to_move = play(env, 60)
    returns = [x.episode_return for x in env.pop_episodes()]
    assert len(returns) > 20 and np.mean(returns) < -0.8
    assert not to_move[steps.obs[MASK].sum(-1) == 1].any()
