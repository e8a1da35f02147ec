"""Poker's trees are the tasks that EnvPool plays; exploitability by exact best responses."""

import json

import jax
import numpy as np
import pytest
from environments import make

from rlsys import algorithms
from rlsys.acting import actor_critic
from rlsys.acting import exploitability as exact
from rlsys.envs import Episode, Options, read_tasks
from rlsys.envs.poker import tree
from rlsys.envs.spaces import MASK
from rlsys.results import evaluate

KUHN, LEDUC = "KuhnPoker-v1", "LeducHoldem-v1"


def games(game, num_envs, steps, choose):
    """Plays games -> a list of (sees [T, 2, ...], legal [T, 2, A], action [T, 2], moves [T] whose
    move it is, kept [T, 2, ...], reward [2]) with who began as player 0 on the axes of 2.

    choose: takes the environments and a timestep, and gives actions [B] and what to keep [B, ...].
    """
    env = make(game, num_envs, 0)
    timestep, running, done = env.reset(), {}, []
    for _ in range(steps):
        action, kept = choose(env, timestep)
        for row in range(0, num_envs, 2):
            if timestep.first[row]:
                began = row + int(env.to_move[row + 1])
                running[row] = [began, 2 * row + 1 - began], []
            if row in running:
                seats, taken = running[row]
                shown = (timestep.obs["obs"], timestep.obs[MASK], action, env.to_move, kept)
                taken.append([x[seats] for x in shown])
        timestep = env.step(action)
        for row in [row for row in running if timestep.discount[row] == 0]:
            seats, taken = running.pop(row)
            sees, legal, own, moves, kept = map(np.stack, zip(*taken, strict=True))
            done.append((sees, legal, own, moves.argmax(1), kept, timestep.reward[seats]))
    return done


def possible_deals(game, sees):
    """Which deals a game can have had, by what both saw: [D] bool."""
    deals = tree(game).deals
    shown = [sees[0, 0, :3], sees[0, 1, :3], sees[:, 0, 3:6].any(0)][: deals.shape[1]]
    fits = [~card.any() | (deals[:, i] == card.argmax()) for i, card in enumerate(shown)]
    return np.logical_and.reduce(fits)


def at_random(seed):
    """Draws legal actions; folds in Leduc, which end games early, less often."""
    rng = np.random.default_rng(seed)

    def choose(env, timestep):
        legal = timestep.obs[MASK]
        weights = rng.uniform(size=legal.shape) * [1, 1, 0.5][: legal.shape[1]]
        return (weights * legal).argmax(1).astype(np.int32), np.zeros(env.num_envs)

    return choose


@pytest.mark.parametrize("game, num_sets, steps", [(KUHN, 12, 60), (LEDUC, 288, 400)])
def test_the_tree_is_the_game_that_the_task_plays(game, num_sets, steps):
    known, visited = tree(game), set()
    assert len(known.legal) == num_sets
    for sees, legal, action, moves, _, reward in games(game, 256, steps, at_random(0)):
        deals, node = possible_deals(game, sees), 0
        for step, player in enumerate(moves):
            assert known.mover[node] == player
            (own,) = set(known.info_set[node, deals].tolist())
            visited.add(own)
            assert known.paths.last[own] == step
            paths, seen = known.paths, slice(step + 1)
            assert (paths.obs[seen, own] == sees[seen, player]).all()
            assert (paths.legal[seen, own] == legal[seen, player]).all()
            assert (paths.action[:step, own] == action[:step, player]).all()
            assert ((known.child[node] >= 0) == legal[step, player]).all()
            node = known.child[node, action[step, player]]
        assert (known.child[node] < 0).all()
        (payoff,) = set(known.payoff[node, deals].tolist())
        np.testing.assert_array_equal(reward, [payoff, -payoff])
    assert visited == set(range(num_sets))


def uniform(game):
    legal = tree(game).legal
    return legal / legal.sum(-1, keepdims=True)


def weighted(weights):
    """A policy that weighs its actions by the card it holds: weights [3 cards, A]."""

    def policy(obs, legal):
        chance = np.asarray(weights, float)[obs[:, :3].argmax(1)] * legal
        return chance / chance.sum(-1, keepdims=True)

    return policy


@pytest.mark.parametrize(
    "game, weights, nash_conv",
    [  # NashConv by the package open_spiel 2.0.2: exploitability.nash_conv of the same policies
        (KUHN, [[1, 1]] * 3, 0.9166666666666666),
        (KUHN, [[1, 0]] * 3, 0.6666666666666665),
        (KUHN, [[0, 1]] * 3, 2.0),
        (KUHN, [[0.7, 0.3]] * 3, 0.6666666666666666),
        (LEDUC, [[1, 1, 1]] * 3, 4.747222222222222),
        (LEDUC, [[1, 0, 0]] * 3, 2.9333333333333336),
        (LEDUC, [[0.5, 0.3, 0.2]] * 3, 3.769265306122448),
        (LEDUC, [[1 / 2, (c + 1) / 4, (3 - c) / 6] for c in range(3)], 3.4206545239010633),
    ],
)
def test_exploitability_is_half_of_open_spiels_nash_conv(game, weights, nash_conv):
    found = exact.of_function(game, weighted(weights))
    assert found == pytest.approx(nash_conv / 2, abs=1e-12)


def kuhn_policy(bet_first, bet_second, hold_first, hold_second):
    """Probabilities of a bet, by card, of who begins and the other; and to hold against one."""
    known, policy = tree(KUHN), np.zeros((12, 2))
    chances = {(0, 0): bet_first, (1, 1): bet_second, (2, 0): hold_first, (1, 0): hold_second}
    for node, deal in np.argwhere(known.info_set >= 0):
        step = known.paths.last[known.info_set[node, deal]]
        player = known.mover[node]
        facing = known.paths.obs[step, known.info_set[node, deal], 6]  # the other has bet
        chance = chances[step, 0 if facing or step == 0 else 1][known.deals[deal, player]]
        policy[known.info_set[node, deal]] = chance, 1 - chance
    return policy


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1 / 3])
def test_kuhns_equilibria_cannot_be_exploited(alpha):
    """Kuhn 1950; alpha is how often who begins bluffs with the lowest card."""
    policy = kuhn_policy([alpha, 0, 3 * alpha], [1 / 3, 0, 1], [0, 1 / 3 + alpha, 1], [0, 1 / 3, 1])
    assert exact.exploitability(tree(KUHN), policy) == pytest.approx(0.0, abs=1e-12)
    assert exact.best_response(tree(KUHN), policy, 0) == pytest.approx(-1 / 18)
    assert exact.best_response(tree(KUHN), policy, 1) == pytest.approx(1 / 18)


def test_what_is_no_equilibrium_can_be_exploited():
    policy = kuhn_policy([0.4, 0, 1], [1 / 3, 0, 1], [0, 2 / 3, 1], [0, 1 / 3, 1])
    assert exact.exploitability(tree(KUHN), policy) > 0.001


def test_without_memory_kuhn_poker_cannot_be_played_perfectly():
    """Who holds the middle card and faces a bet is to hold it 2/3 of the times if it began and bets
    as here, else 1/3; and the task shows no difference."""
    bet, hold = [1 / 3, 0, 1], [0, 2 / 3, 1]
    found = exact.exploitability(tree(KUHN), kuhn_policy(bet, bet, hold, hold))
    assert found == pytest.approx(1 / 36)
    paths = tree(KUHN).paths
    assert len(np.unique(paths.obs[paths.last, np.arange(12)], axis=0)) == 6


def cfr(game, iterations):
    """The average policy of CFR (Zinkevich et al. 2007) whose players are updated in turn."""
    num_nodes, num_deals = game.info_set.shape
    regret, total = np.zeros(game.legal.shape), np.zeros(game.legal.shape)

    def policy():
        positive = np.maximum(regret, 0) * game.legal
        summed = positive.sum(-1, keepdims=True)
        even = game.legal / game.legal.sum(-1, keepdims=True)
        return np.where(summed > 0, positive / np.where(summed > 0, summed, 1), even)

    for player in [0, 1] * iterations:
        pi, sign = policy(), 1 - 2 * player
        reach = np.ones((2, num_nodes, num_deals))  # by the other and chance, by the player
        reach[0] *= game.chance
        for node, after in enumerate(game.child):
            own = int(game.mover[node] == player)
            for action in np.flatnonzero(after >= 0):
                reach[:, after[action]] = reach[:, node]
                reach[own, after[action]] *= pi[game.info_set[node], action]
        value = sign * game.payoff.copy()
        for node in reversed(range(num_nodes)):
            legal, sets = np.flatnonzero(game.child[node] >= 0), game.info_set[node]
            if not legal.size:
                continue
            each = value[game.child[node, legal]]  # [A', D]
            value[node] = (pi[sets][:, legal].T * each).sum(0)
            if game.mover[node] == player:
                gain = reach[0, node] * (each - value[node])
                for i, action in enumerate(legal):
                    np.add.at(regret[:, action], sets, gain[i])
                    weight = reach[1, node] * pi[sets, action] * game.chance
                    np.add.at(total[:, action], sets, weight)
    return total / total.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "game, by_iterations",  # NashConv by open_spiel 2.0.2's cfr.CFRSolver
    [
        (KUHN, {10: 0.1373975876343151, 100: 0.016451954631830412}),
        (LEDUC, {10: 1.777157966337538, 100: 0.19143270600919524}),
    ],
)
def test_cfr_comes_as_near_to_equilibrium_as_open_spiels(game, by_iterations):
    for iterations, nash_conv in by_iterations.items():
        found = exact.exploitability(tree(game), cfr(tree(game), iterations))
        assert found == pytest.approx(nash_conv / 2, rel=1e-6)


@pytest.mark.parametrize(
    "policy", [np.full((12, 2), 0.6), np.tile([1.5, -0.5], (12, 1)), np.zeros((12, 2))]
)
def test_what_is_no_policy_is_refused(policy):
    with pytest.raises(ValueError):
        exact.exploitability(tree(KUHN), policy)


def test_illegal_actions_are_refused():
    with pytest.raises(ValueError, match="illegal"):
        exact.exploitability(tree(LEDUC), np.full((288, 3), 1 / 3))


def made(game, *words):
    """A network of PPO, with parameters that make its policy differ between states."""
    config = algorithms.config_of("ppo", ["--env", game, *words])
    env = make(game, 2, 0)
    network = actor_critic.make_network(config, env.observation_space, env.action_space)
    params = algorithms.find("ppo").make_state(network, config).params
    keys = iter(jax.random.split(jax.random.key(3), 100))
    noisy = jax.tree.map(lambda x: x + 0.4 * jax.random.normal(next(keys), x.shape), params)
    return network, noisy


MEMORY = ["--core-size", "16", "--sequence-length", "16"]


@pytest.mark.parametrize(
    "game, words, steps", [(KUHN, [], 60), (KUHN, MEMORY, 60), (LEDUC, MEMORY, 100)]
)
def test_a_network_is_asked_for_what_it_plays(game, words, steps, monkeypatch):
    """The policy of each information set is the one that games are played with."""
    network, params = made(game, *words)
    state = [network.initial(64)]

    @jax.jit
    def act(timestep, core_state, key):
        action, pi, after = actor_critic.sample(network, params, timestep, core_state, key)
        return action, jax.nn.softmax(pi.logits), after

    keys = iter(jax.random.split(jax.random.key(0), steps))

    def choose(env, timestep):
        action, chance, state[0] = act(timestep, state[0], next(keys))
        return np.asarray(action), np.asarray(chance)

    policies = []
    monkeypatch.setattr(exact, "exploitability", lambda _, policy: policies.append(policy))
    exact.of_policy(game, network, params)
    (asked,), known, differ = policies, tree(game), set()
    for sees, _, action, moves, chance, _ in games(game, 64, steps, choose):
        deals, node = possible_deals(game, sees), 0
        for step, player in enumerate(moves):
            own = known.info_set[node, deals][0]
            np.testing.assert_allclose(asked[own], chance[step, player], atol=1e-5)
            differ.add(round(float(asked[own, 0]), 3))
            node = known.child[node, action[step, player]]
    assert len(differ) > 5  # else it would not matter which state is asked for


def test_a_memoryless_network_is_a_function_of_what_it_sees():
    network, params = made(KUHN)
    paths = tree(KUHN).paths
    seen = paths.obs[paths.last, np.arange(12)]

    def policy(obs, legal):
        same = (obs[:, None] == seen).all(-1).argmax(1)
        return asked[same]

    asked = np.asarray(exact.along_paths(network, params, KUHN))[paths.last, np.arange(12)]
    expected = exact.of_function(KUHN, policy)
    assert exact.of_policy(KUHN, network, params) == pytest.approx(expected, abs=1e-6)
    assert expected > 1 / 36


def test_only_runs_of_these_games_as_they_are_have_the_number():
    network, params = made(KUHN)

    def of(words):
        return exact.of_run(read_tasks(words, Options()), network, params)

    assert of(KUHN).keys() == {"eval/exploitability"}
    for words in (f"{KUHN}:permute=1", f"{KUHN}:opponent=random", "TicTacToe-v1"):
        assert of(words) == {}


def test_an_evaluation_keeps_and_prints_the_number(tmp_path, capfd):
    episodes = {"sampled": [Episode(1.0, 2, 0, KUHN)]}
    found = evaluate.evaluation(
        "sampled", episodes, env_steps=8, learner_steps=2, exact={exact.NAME: 0.0625}
    )
    path = evaluate.report(tmp_path, found)
    assert json.loads(path.read_text())["exact"] == {"eval/exploitability": 0.0625}
    assert "exact: exploitability 0.0625, which sampled play loses a game" in capfd.readouterr().out
    without = evaluate.evaluation("sampled", episodes, env_steps=8, learner_steps=2, exact={})
    assert "exact" not in without
