"""Past selves: how they are drawn, scored, seated and saved; a game keeps its opponent."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_words import run

from rlsys import algorithms, envs
from rlsys import train as train_command
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.opponents import (
    Opponents,
    PastSelf,
    Result,
    SelfPlay,
    after_game,
    check_memory,
    join,
    probabilities,
)
from rlsys.acting.seats import Seats
from rlsys.algorithms import ppo
from rlsys.learning import learner
from rlsys.losses.opponent_quality import opponent_probabilities, quality_after_win
from rlsys.running import metrics_file
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.first_lines import past_selves
from rlsys.running.log import Silent
from rlsys.types import TRAJECTORY_SPEC, Policy, Timestep, UserError

WORDS = "--env TicTacToe-v1 --num-envs 32 --minibatches 2 --epochs 1 --past-every 2".split()


def pool_of(*quality):
    return tuple(PastSelf(i, 10 * i, {"w": np.float32(i)}, q) for i, q in enumerate(quality))


def test_probabilities_and_the_fall_of_a_loser_are_the_papers():
    quality = np.array([0.0, -0.5, 1.0, 0.25])
    p = np.exp(quality) / np.exp(quality).sum()  # literal, float64
    np.testing.assert_allclose(opponent_probabilities(jnp.array(quality)), p, rtol=1e-6)
    np.testing.assert_allclose(probabilities(pool_of(*quality)), p, rtol=1e-12)
    expected = quality.copy()
    expected[1] -= 0.01 / (4 * p[1])
    np.testing.assert_allclose(quality_after_win(jnp.array(quality), 1), expected, rtol=1e-6)
    result = Result(1, 4 * p[1], 1.0)
    after = after_game(pool_of(*quality), result, 0.01)
    np.testing.assert_allclose([x.quality for x in after], expected, rtol=1e-12)


def test_only_a_win_of_the_learner_lowers_a_quality():
    pool = pool_of(0.0, 0.5)
    for reward in (0.0, -1.0):
        after = after_game(pool, Result(0, 1.0, reward), 0.01)
        assert [x.quality for x in after] == [0.0, 0.5]
        assert after[0].games == 1 and after[0].drawn == (reward == 0) and after[0].won == 0
    assert after_game(pool, Result(7, 1.0, 1.0), 0.01) is pool  # has left
    assert after_game(pool, Result(1, 1.0, 1.0), 0.01)[1].won == 1


def test_many_wins_in_a_row_stay_finite():
    """Present probabilities would make each step larger than the last."""
    pool = pool_of(0.0, 0.0)
    for _ in range(5_000):
        pool = after_game(pool, Result(0, 1.0, 1.0), 0.01)
    assert pool[0].quality == pytest.approx(-50.0)
    assert np.isfinite(probabilities(pool)).all()


def test_who_joins_has_the_highest_quality_and_the_lowest_leaves():
    pool = join(pool_of(-1.0, 0.5, -1.0), {"w": 3}, 99, 3, 4)
    assert pool[-1][:4] == (3, 99, {"w": 3}, 0.5)
    pool = join(pool, {"w": 4}, 100, 4, 4)
    assert [x.number for x in pool] == [1, 2, 3, 4]  # 0, the older of the two at -1, has left
    assert [x.number for x in join(pool_of(0.0), {}, 1, 1, 1)] == [1]
    # past_most may be lowered when a run goes on.
    assert [x.number for x in join(pool_of(0.0, 0.5, 0.0, 0.25), {}, 1, 4, 3)] == [1, 3, 4]


def number_policy():
    """Plays the parameter as its action, and counts its steps of an episode as its state."""

    @jax.jit
    def apply(own, params, timestep, core_state, key):
        age = jnp.where(timestep.first, 0, core_state) + 1
        action = jnp.full(timestep.first.shape, params["w"], jnp.int32)
        return action, jnp.zeros(timestep.first.shape), age, jax.random.split(key)[0]

    return Policy(apply)


def timestep(num_rows, first, ended, reward=0.0):
    x = np.zeros(num_rows, np.float32)
    return Timestep(x, np.broadcast_to(first, num_rows), x + reward, 1.0 - ended, x > 1)


def test_a_game_keeps_its_opponent_to_its_end_and_its_state_begins_anew():
    rng, rows = np.random.default_rng(0), 40
    seats = Seats(number_policy(), rows, SelfPlay(past_share=0.5, past_at_once=3))
    theirs = ~seats.learns
    assert theirs.sum() == 9 and seats.against_past.sum() == 9
    pairs = theirs.reshape(-1, 2)
    assert not (pairs.all(1)).any()  # no game of two past selves
    assert {int(pair.argmax()) for pair in pairs if pair.any()} == {0, 1}  # either side
    pool = pool_of(0.0, 0.0, 0.0, 0.0)
    ended, state, key, met = np.zeros(rows), jnp.zeros(rows, jnp.int32), jax.random.key(0), set()
    playing, first = np.full(rows, -1), np.ones(rows, bool)
    expected_results = []
    for step in range(400):
        if step % 5 == 0:
            seats.meet(pool, jax.random.fold_in(key, step))
        now = timestep(rows, first, ended, 1.0)
        action, _, state, key = seats({"w": jnp.float32(9)}, now, state, key)
        action = np.asarray(action)
        assert (action[seats.learns] == 9).all()
        assert (np.asarray(state)[first] == 1).all()
        same = theirs & ~first
        np.testing.assert_array_equal(action[same], playing[same])
        playing = action
        met |= set(action[theirs].tolist())
        # A game that ended shows its end once, and begins at the next step.
        over = ended == 1
        expected_results += playing[theirs & over].tolist()
        ends = (rng.random(rows // 2) < 0.2).repeat(2)
        first = over
        ended = np.where(over, 0, ends).astype(np.float32)
    assert met == {0, 1, 2, 3}
    results = seats.pop_results()
    assert sorted(x.number for x in results) == sorted(expected_results) and len(results) > 300
    assert all(x.reward == 1 and x.chance == pytest.approx(1.0) for x in results)
    assert seats.pop_results() == []


def test_a_game_that_a_time_limit_cuts_is_a_draw():
    seats = Seats(number_policy(), 4, SelfPlay(past_share=1.0, past_at_once=1))
    params, state, key = {"w": jnp.float32(9)}, jnp.zeros(4, jnp.int32), jax.random.key(0)
    seats.meet(pool_of(0.0), key)
    cut = timestep(4, False, np.zeros(4), 0.1)._replace(truncated=np.ones(4, bool))
    for now in (timestep(4, True, np.zeros(4)), timestep(4, False, np.zeros(4), 0.1), cut):
        assert seats.pop_results() == []
        seats(params, now, state, key)
    assert [(x.number, x.reward) for x in seats.pop_results()] == [(0, 0.0), (0, 0.0)]


def test_past_selves_draw_other_numbers_than_the_learner():
    """Their keys are made of none of the bits that the learner draws its actions from."""

    def apply(own, params, timestep, core_state, key):
        act_key = jax.random.split(key)[1]  # as actor_critic.make_policy has it
        drawn = jax.random.bits(act_key, timestep.first.shape)
        mine = jax.lax.reduce_xor(jax.random.key_data(key), (0,))  # as bits makes one of two
        action = jnp.where(params["w"] == 9, drawn, mine)
        return action, (), core_state, key

    seats = Seats(Policy(apply), 8, SelfPlay(past_share=1.0))
    seats.meet(pool_of(0.0), key := jax.random.key(0))
    start = timestep(8, True, np.zeros(8))
    action = np.asarray(seats({"w": jnp.float32(9)}, start, jnp.zeros(8), key)[0])
    drawn = np.asarray(jax.random.bits(jax.random.split(key)[1], (8,)))
    np.testing.assert_array_equal(action[seats.learns], drawn[seats.learns])
    assert len(set(action[~seats.learns])) > 1 and not set(action[~seats.learns]) & set(drawn)


def test_a_game_that_ends_at_a_checkpoint_is_credited_to_nobody_else():
    """The environments start afresh there, and other past selves are drawn; in a run that goes on
    nobody remembers who played it."""
    rows, state, key = 4, jnp.zeros(4, jnp.int32), jax.random.key(0)
    seats = Seats(number_policy(), rows, SelfPlay(past_share=1.0, past_at_once=1))
    params = {"w": jnp.float32(9)}
    seats.meet(pool_of(0.0), key)
    seats(params, timestep(rows, True, np.zeros(rows)), state, key)
    ended = timestep(rows, False, np.ones(rows), 1.0)
    seats.clear()
    seats.meet(pool_of(-1e9, 0.0), key)
    seats(params, ended, state, key)
    assert seats.pop_results() == []
    seats(params, timestep(rows, True, np.zeros(rows)), state, key)
    seats(params, ended, state, key)
    assert [x.number for x in seats.pop_results()] == [1, 1]


@pytest.mark.parametrize(
    ("share", "most", "games", "expected"),
    [
        (0.2, 4, 32, (3, 2)),  # of the preset team
        (0.2, 4, 128, (4, 6)),  # of the preset game
        (0.25, 4, 128, (4, 8)),
        (0.2, 4, 30, (3, 2)),
        (0.05, 4, 16, (1, 1)),
        (1.0, 4, 7, (1, 7)),
        (1.0, 4, 15, (3, 5)),
        (1.0, 1, 8, (1, 8)),
    ],
)
def test_past_selves_play_the_share_of_games_that_is_asked_for(share, most, games, expected):
    """Within a tenth of it or, where no number of past selves can, as nearly as some can, in
    equally many games each."""
    config = SelfPlay(past_share=share, past_at_once=most)
    assert config.groups(games) == expected
    found = abs(expected[0] * expected[1] - share * games)
    nearest = min(
        abs(n * size - share * games) for n in range(1, most + 1) for size in range(1, games + 1)
    )
    assert found <= max(nearest, 0.1 * share * games)
    assert expected[0] * expected[1] <= games


def test_the_first_lines_say_where_it_is_another_share():
    config = algorithms.config_of("ppo", ["--env", "TicTacToe-v1"])
    (line,) = past_selves(config)
    assert line == (
        "past selves: 4 at a time play in 24 of each actor's 128 games, 18.8 % in place of 20 %"
    )
    for words in (["--past-share", "0.25"], ["--past-share", "0"]):
        assert past_selves(algorithms.config_of("ppo", ["--env", "TicTacToe-v1", *words])) == []
    assert past_selves(algorithms.config_of("ppo", ["--env", "CartPole-v1"])) == []


def test_opponents_are_drawn_in_proportion_to_exp_quality():
    pool, counts = pool_of(0.0, 1.0, -1.0), np.zeros(3)
    for i in range(600):
        seats = Seats(number_policy(), 8, SelfPlay(past_share=1.0))
        seats.meet(pool, jax.random.key(i))
        counts += np.bincount(seats._numbers[:, 0], minlength=3)
    assert stats.chisquare(counts, counts.sum() * probabilities(pool)).pvalue > 1e-3


def played(words, num_unrolls=3):
    config = algorithms.config_of("ppo", [*WORDS, *words])
    pools = make_envs(config)
    algorithm = algorithms.find("ppo")
    network = algorithm.make_network(config, *envs.shared_spaces(pools))
    state = algorithm.make_state(network, config)
    opponents = Opponents(config.self_play, state.params) if config.has_past_selves else None
    policies = algorithm.make_policies(network, config)
    actors = Actors(pools, policies, network.initial, config, Silent().time, opponents=opponents)
    unrolls = [actors.get(state.params, 0).trajectory for _ in range(num_unrolls)]
    episodes = actors.pop_episodes()
    actors.close()
    return config, unrolls, episodes, opponents


def test_rows_of_past_selves_and_rows_that_wait_are_not_learned_from():
    _, unrolls, episodes, opponents = played(["--past-share", "0.5", "--actors", "2"])
    for unroll in unrolls:
        legal = unroll.steps.obs["action_mask"][:-1].sum(-1)
        learns = unroll.learns
        past = ~learns.any(0)
        assert past.sum() == 8  # of 16 games half, one row each
        assert not (learns & (unroll.steps.discount[:-1] == 0)).any()
        waits = legal == 1
        assert learns[~waits & ~past[None]].mean() > 0.99
        both = learns.reshape(len(learns), -1, 2)
        assert not both.all(-1).any()  # never both at once
    assert len(episodes) > 0
    assert opponents is not None and len(opponents._results) > 0


def test_without_past_selves_both_sides_of_every_game_are_learned_from():
    _, unrolls, _, opponents = played(["--past-share", "0"])
    assert opponents is None
    learns = unrolls[1].learns.reshape(32, -1, 2)
    moved = learns.any(-1)
    assert learns.any(0).all() and moved.mean() > 0.8


def train(folder, words=(), env_steps=5_120, resume=False):
    args = [*WORDS, "--env-steps", str(env_steps), "--checkpoint-every", "2000", "--log-every"]
    args += ["1024", "--eval-episodes", "4", "--run-dir", str(folder), *words]
    algorithms.find("ppo").train(algorithms.config_of("ppo", args), resume=resume)


def newest(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    number = checkpoints.numbers()[-1]
    names = ["learner", "actors"]
    names += ["opponents"] if "opponents" in checkpoints.meta(number) else []
    _, trees, meta = checkpoints.restore(dict.fromkeys(names), number)
    keys = (jax.random.key_data, lambda x: x)
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: keys[not is_key(x)](x), trees), meta


@pytest.mark.parametrize("ahead", ["0", "1"])
@pytest.mark.slow
def test_a_resumed_run_has_the_same_past_selves_to_the_bit(tmp_path, ahead):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = "--actors 2 --core-size 8 --sequence-length 8 --unrolls-ahead".split()
    train(whole, [*words, ahead])
    shutil.copytree(whole, cut)
    later = sorted((cut / "checkpoints").iterdir(), key=lambda path: int(path.name))[1:]
    assert later
    for path in later:
        shutil.rmtree(path)
    train(cut, [*words, ahead], resume=True)
    (trees, meta), again = newest(whole), newest(cut)
    jax.tree.map(np.testing.assert_array_equal, trees, again[0])
    assert meta == again[1]
    about = meta["opponents"]
    assert len(about["past_selves"]) == 1 + about["iterations"] // 2 >= 3
    assert sum(x["games"] for x in about["past_selves"]) > 10
    assert len({x["quality"] for x in about["past_selves"]}) > 1
    lines = metrics_file.read(whole)
    assert lines[-1]["opponents/past_selves"] == len(about["past_selves"])
    assert all(0 <= line["opponents/score"] <= 1 for line in lines)


@pytest.mark.slow
def test_a_run_goes_on_with_past_selves_that_it_had_none_of(tmp_path):
    """The first of them is the policy as it was when it went on."""
    folder = tmp_path / "run"
    train(folder, ["--past-share", "0", "--core-size", "8", "--sequence-length", "8"], 1_024)
    before = newest(folder)[0]["learner"]["params"]
    steps = newest(folder)[1]["counters"]["env_steps"]
    words = ["resume", str(folder), "--past-share", "0.5", "--past-every", "100"]
    train_command.main([*words, "--env-steps", str(steps + 1)])
    trees, meta = newest(folder)
    assert [x["env_steps"] for x in meta["opponents"]["past_selves"]] == [steps]
    assert meta["counters"]["env_steps"] > steps
    jax.tree.map(np.testing.assert_array_equal, trees["opponents"]["0"], before)
    assert metrics_file.read(folder)[-1]["opponents/past_selves"] == 1


def learned(num_devices):
    """Parameters after one unroll of self-play, on so many devices."""
    config, unrolls, _, _ = played(["--past-share", "0.5"], 1)
    pools = make_envs(config)
    network = ppo.ALGORITHM.make_network(config, *envs.shared_spaces(pools))
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    program = functools.partial(ppo.learn, network)
    learn = learner.data_parallel(program, mesh, TRAJECTORY_SPEC)
    state = learner.place(mesh, ppo.make_state(network, config))
    state, metrics = learn(config, state, learner.place(mesh, unrolls[0], TRAJECTORY_SPEC))
    return jax.device_get((state.params, metrics["loss"])), unrolls[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, 4])
def test_games_are_learned_from_alike_on_any_number_of_devices(num_devices):
    (one, unroll), (several, _) = learned(1), learned(num_devices)
    assert unroll.learns.any() and not unroll.learns.all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one, several)


def test_what_past_selves_play_does_not_move_the_parameters():
    """Nor do rewards and observations of their rows, or of rows that wait for the other's move."""
    config, (unroll,), _, _ = played(["--past-share", "0.5"], 1)
    network = ppo.ALGORITHM.make_network(config, *envs.shared_spaces(make_envs(config)))
    mesh = learner.make_mesh(jax.devices()[:1])
    learn = learner.data_parallel(functools.partial(ppo.learn, network), mesh, TRAJECTORY_SPEC)
    past = ~unroll.learns.any(0)
    assert past.any()
    reward = np.where(past, 5.0, unroll.steps.reward).astype(np.float32)
    board = np.where(past[:, None, None, None], True, unroll.steps.obs["obs"])
    other = unroll._replace(
        steps=unroll.steps._replace(reward=reward, obs=unroll.steps.obs | {"obs": board}),
        action=np.where(past, 0, unroll.action),
    )
    params = []
    for trajectory in (unroll, other):
        state = learner.place(mesh, ppo.make_state(network, config))
        state, _ = learn(config, state, learner.place(mesh, trajectory, TRAJECTORY_SPEC))
        params.append(jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *params)


@pytest.mark.parametrize(
    ("free", "way_out"), [(1e6, "--past-most 10 would fit"), (1e4, "not one would fit")]
)
def test_a_pool_that_does_not_fit_the_memory_is_refused(
    free, way_out, tmp_path, monkeypatch, capsys
):
    """Before a folder is made, and so before anything is compiled."""
    monkeypatch.setattr("rlsys.replay.memory.free_bytes", lambda: free)
    folder = tmp_path / "run"
    assert run(train_command.main, f"ppo {' '.join(WORDS)} --run-dir {folder}") == 2
    error = capsys.readouterr().err
    needs = re.search(r"50 past selves take ([\d.]+) MB, but there are ([\d.]+) MB free", error)
    assert needs and error.count("\n") == 1 and way_out in error and not folder.exists(), error
    size = 50 * 4 * num_parameters(WORDS)
    assert float(needs[1]) == pytest.approx(size / 1e6, abs=0.06)
    assert float(needs[2]) == pytest.approx(free / 1e6, abs=0.06)


def test_a_pool_that_fits_the_memory_is_not_refused(monkeypatch):
    params = {"w": np.zeros(250, np.float32)}  # 1 kB
    for most, free, fits in ((10, 11_200, True), (10, 11_000, False)):
        monkeypatch.setattr("rlsys.replay.memory.free_bytes", lambda free=free: free)
        if fits:
            check_memory(SelfPlay(past_most=most), params)
            continue
        with pytest.raises(UserError, match="--past-most 8 would fit"):
            check_memory(SelfPlay(past_most=most), params)
        check_memory(SelfPlay(past_most=most, frozen="runs/x"), params)  # one alone


def num_parameters(words):
    config = algorithms.config_of("ppo", words)
    network = ppo.ALGORITHM.make_network(config, *envs.shared_spaces(make_envs(config)))
    shapes = jax.eval_shape(lambda: ppo.make_state(network, config))
    return sum(x.size for x in jax.tree.leaves(shapes.params))


@pytest.mark.slow
def test_self_play_learns_never_to_lose_tictactoe(tmp_path):
    words = ["--env", "TicTacToe-v1", "--eval-episodes", "1000", "--run-dir", str(tmp_path / "run")]
    ppo.ALGORITHM.train(algorithms.config_of("ppo", words))
    results = json.loads((tmp_path / "run/evaluation.json").read_text())["results"]
    assert results["greedy TicTacToe-v1:opponent=perfect"]["min"] == 0
    assert results["greedy TicTacToe-v1:opponent=blocker"]["min"] >= 0
    assert results["greedy TicTacToe-v1:opponent=random"]["mean"] > 0.7
