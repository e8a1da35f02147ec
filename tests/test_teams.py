"""Two teams by self-play: who is learned from, whose rewards, past selves, devices, resuming."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_opponents import newest, number_policy, pool_of, timestep
from test_words import run
from untrained import write_run

from rlsys import algorithms, envs, train
from rlsys.acting import actor_critic
from rlsys.acting.actors import Actors, make_envs
from rlsys.acting.opponents import Opponents, SelfPlay
from rlsys.acting.seats import Seats
from rlsys.algorithms import ppo
from rlsys.envs.spaces import MASK
from rlsys.learning import learner
from rlsys.losses.gae import gae
from rlsys.running import metrics_file
from rlsys.running.log import Silent
from rlsys.sweep.members import members, numbers
from rlsys.types import TRAJECTORY_SPEC

SMALL = (
    "--env teams/team_fakes:Duel --num-envs 64 --minibatches 2 --epochs 1 --unroll-length 16 "
    "--refresh-steps 16 --past-every 2 --hidden-size 16 --head-size 8 --zero-sum 1"
).split()


def config_of(words=()):
    return algorithms.config_of("ppo", [*SMALL, *words])


@functools.cache
def played(*words, num_unrolls=1):
    config = config_of(words)
    pools = make_envs(config)
    network = ppo.ALGORITHM.make_network(config, *envs.shared_spaces(pools))
    state = ppo.make_state(network, config)
    opponents = Opponents(config.self_play, state.params) if config.has_past_selves else None
    policies = ppo.ALGORITHM.make_policies(network, config)
    actors = Actors(pools, policies, network.initial, config, Silent().time, opponents=opponents)
    unrolls = [actors.get(state.params, 0).trajectory for _ in range(num_unrolls)]
    episodes = actors.pop_episodes()
    actors.close()
    return config, network, unrolls, episodes, opponents


def test_the_dead_and_whole_teams_of_past_selves_are_not_learned_from():
    words = "--past-share 0.5 --actors 2".split()
    config, network, unrolls, episodes, opponents = played(*words, num_unrolls=3)
    for unroll in unrolls:
        steps = unroll.steps
        past = ~unroll.learns.any(0)
        teams = past.reshape(-1, 2, 2)
        np.testing.assert_array_equal(teams[..., 0], teams[..., 1])  # a whole team
        assert teams.any(-1).sum() == 8 and not teams.all((1, 2)).any()  # in half of 16 games
        dead = steps.obs["obs"][:-1, :, 3] == 0
        over = steps.discount[:-1] == 0
        assert (dead & ~past).any()
        np.testing.assert_array_equal(unroll.learns, ~dead & ~over & ~past)
        mask, _ = actor_critic.learned_turns(network, unroll, config.gae_lambda)
        assert not np.asarray(mask)[dead | past].any()
    assert len(episodes) > 0 and {x.episode_return for x in episodes} <= {-1.0, 0.0, 1.0}
    assert {x.env % 2 for x in episodes} == {0}
    results = opponents._results
    assert len(results) > 10 and {x.reward for x in results} <= {-1.0, 0.0, 1.0}
    assert len({x.reward for x in results}) > 1


def test_a_team_keeps_its_opponent_to_the_games_end():
    rng, rows = np.random.default_rng(0), 64
    seats = Seats(number_policy(), rows, SelfPlay(past_share=0.5, past_at_once=3), team_size=4)
    theirs = ~seats.learns
    assert theirs.sum() == 4 * 4 and seats.against_past.sum() == 4 * 4
    teams = theirs.reshape(8, 2, 4)
    assert (teams.all(-1) == teams.any(-1)).all()
    assert not (teams.all((1, 2))).any() and teams[..., 0].any(0).all()  # either team
    pool, key = pool_of(0.0, 0.0, 0.0), jax.random.key(0)
    ended, state = np.zeros(rows), jnp.zeros(rows, jnp.int32)
    playing, first = np.full(rows, -1), np.ones(rows, bool)
    over_games, met = 0, set()
    for step in range(200):
        if step % 5 == 0:
            seats.meet(pool, jax.random.fold_in(key, step))
        now = timestep(rows, first, ended, 1.0)
        action, _, state, key = seats({"w": jnp.float32(9)}, now, state, key)
        action = np.asarray(action)
        assert (action[seats.learns] == 9).all()
        assert (np.asarray(state)[first] == 1).all()
        of_team = action[theirs].reshape(-1, 4)
        assert (of_team == of_team[:, :1]).all()  # one past self plays a whole team
        same = theirs & ~first
        np.testing.assert_array_equal(action[same], playing[same])
        playing, met = action, met | set(action[theirs].tolist())
        over = ended == 1
        over_games += (over & theirs).sum() // 4
        first = over
        ends = (rng.random(8) < 0.2).repeat(8)
        ended = np.where(over, 0, ends).astype(np.float32)
    assert met == {0, 1, 2}
    assert len(seats.pop_results()) == over_games > 50  # one a game


def literal_rewards(reward, tau):
    """Zero-sum, then shared: [T, B] of games of two teams of two, literally."""
    result = np.zeros(reward.shape)
    for t in range(len(reward)):
        for game in range(reward.shape[1] // 4):
            r = reward[t, 4 * game : 4 * game + 4].astype(float)
            own = [r[0] - (r[2] + r[3]) / 2, r[1] - (r[2] + r[3]) / 2]
            own += [r[2] - (r[0] + r[1]) / 2, r[3] - (r[0] + r[1]) / 2]
            for i in range(4):
                team = (own[0] + own[1]) / 2 if i < 2 else (own[2] + own[3]) / 2
                result[t, 4 * game + i] = (1 - tau) * own[i] + tau * team
    return result


def with_progress(config, network, progress):
    return ppo.make_state(network, config)._replace(progress=jnp.float32(progress))


@pytest.mark.parametrize("progress, tau", [(0.0, 0.3), (0.5, 0.65), (1.0, 1.0), (1.5, 1.0)])
def test_rewards_are_zero_sum_and_shared_as_a_literal_loop_has_them(progress, tau):
    config, network, (unroll,), _, _ = played("--past-share", "0")
    reward = unroll.steps.reward[1:]
    ours, spirit = ppo.team_rewards(config, with_progress(config, network, progress), reward)
    assert spirit == pytest.approx(tau)
    np.testing.assert_allclose(ours, literal_rewards(reward, tau), atol=1e-5)
    games = np.asarray(ours).reshape(len(reward), -1, 4)
    assert (games != 0).any()
    np.testing.assert_allclose(games.sum(-1), 0.0, atol=1e-5)
    half = dataclasses.replace(config, zero_sum=0.5)
    ours, _ = ppo.team_rewards(half, with_progress(config, network, progress), reward)
    teams = reward.reshape(len(reward), -1, 2, 2)
    mean = teams.mean(-1)[..., None]
    expected = (1 - tau) * teams + tau * mean - 0.5 * mean[:, :, ::-1]
    np.testing.assert_allclose(ours, expected.reshape(reward.shape), atol=1e-5)


def test_one_team_against_an_opponent_shares_its_rewards_alone():
    words = "--opponent", "random", "--team-spirit", "0", "--past-every", "10"
    config, network, (unroll,), _, _ = played(*words)
    reward = unroll.steps.reward[1:]
    ours, _ = ppo.team_rewards(config, with_progress(config, network, 0.0), reward)
    np.testing.assert_allclose(ours, reward, atol=1e-6)
    ours, _ = ppo.team_rewards(config, with_progress(config, network, 1.0), reward)
    mean = reward.reshape(len(reward), -1, 2).mean(-1).repeat(2, axis=-1)
    np.testing.assert_allclose(ours, mean, atol=1e-6)
    assert not config.has_past_selves and unroll.learns.shape == reward.shape


def literal_advantage(acts, ended, reward, v, discount, lambda_):
    """Computes {t: advantage} for the steps in which one player acts, if the unroll shows what came
    of them. Rewards after its death, until the game's end, belong to its last action."""
    found, after = {}, None  # after: its next step's advantage, if that is known
    for t in reversed(range(len(reward))):
        if not acts[t]:
            continue
        total, factor, s = 0.0, 1.0, t
        while True:
            total += factor * reward[s]
            factor *= discount
            s += 1
            if ended[s]:
                found[t], goes_on = total - v[t], False
                break
            if s == len(reward) and not acts[s]:
                goes_on = None  # nobody knows
                break
            if acts[s]:
                found[t], goes_on = total + factor * v[s] - v[t], True
                break
        if goes_on and after is not None and s < len(reward):
            found[t] += factor * lambda_ * after
        after = found.get(t)
    return found


def test_what_a_team_wins_after_a_players_death_belongs_to_its_last_action():
    _, network, (unroll,), _, _ = played("--past-share", "0")
    steps, rng = unroll.steps, np.random.default_rng(0)
    reward = literal_rewards(steps.reward[1:], 0.65)
    v = rng.normal(size=steps.reward.shape)
    mask, lambda_t = actor_critic.learned_turns(network, unroll, 0.9)
    advantage = gae(v[:-1], v[1:], reward, 0.97 * steps.discount[1:], lambda_=lambda_t)
    acts, ended = (steps.obs[MASK].sum(-1) > 1) & (steps.discount == 1), steps.discount == 0
    died_and_won = 0
    for row in range(reward.shape[1]):
        columns = (x[:, row] for x in (acts, ended, reward, v))
        expected = literal_advantage(*columns, 0.97, 0.9)
        own = np.flatnonzero(mask[:, row])
        assert sorted(expected) == own.tolist()
        np.testing.assert_allclose(
            advantage[own, row], [expected[t] for t in own], rtol=1e-4, atol=1e-4
        )
        died_and_won += sum(not acts[t + 1, row] and not ended[t + 1, row] for t in own)
    assert died_and_won > 5


def learned(config, network, unroll, num_devices=1):
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    program = functools.partial(ppo.learn, network)
    learn = learner.data_parallel(program, mesh, TRAJECTORY_SPEC)
    state = learner.place(mesh, with_progress(config, network, 0.25))
    settings = learner.place(mesh, config)
    state, metrics = learn(settings, state, learner.place(mesh, unroll, TRAJECTORY_SPEC))
    return jax.device_get((state.params, metrics["loss"], metrics["team_spirit"]))


def test_games_of_teams_are_learned_from_alike_on_any_number_of_devices():
    config, network, (unroll,), _, _ = played("--past-share", "0.5")
    one, several = (learned(config, network, unroll, n) for n in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one, several)
    np.testing.assert_allclose(one[2], 0.3 + 0.25 * 0.7, rtol=1e-6)
    with pytest.raises(Exception, match="16 games of 4 players cannot be shared evenly by 3"):
        ppo.check_mesh(jax.make_mesh((3,), ("x",), devices=jax.devices()[:3]), config_of())


def test_what_the_dead_see_and_play_does_not_move_the_parameters_but_their_rewards_do():
    config, network, (unroll,), _, _ = played("--past-share", "0")
    dead = unroll.steps.obs["obs"][..., 3] == 0
    over = unroll.steps.discount == 0
    idle = dead & ~over
    obs = {**unroll.steps.obs, "obs": np.where(idle[..., None], 7.0, unroll.steps.obs["obs"])}
    obs["obs"] = obs["obs"].astype(np.float32)
    other = unroll._replace(
        steps=unroll.steps._replace(obs=obs), action=np.where(idle[:-1], 0, unroll.action)
    )
    reward = unroll.steps.reward.copy()
    after = np.zeros_like(idle)
    after[1:] = idle[:-1] & (unroll.steps.discount[1:] == 0)
    assert after.any()
    reward[after] += 1.0
    rewarded = unroll._replace(steps=unroll.steps._replace(reward=reward))
    params, same, changed = (
        jax.tree.leaves(learned(config, network, x)[0]) for x in (unroll, other, rewarded)
    )
    for a, b in zip(params, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(params, changed, strict=True)) > 1e-5


def test_team_spirit_is_a_number_that_a_sweep_varies():
    found = members("ppo", [*SMALL, *"--past-share 0 --team-spirit 0 1".split()])
    assert {"team_spirit", "team_spirit_end"} <= set(numbers(found[0].config))
    config, network, (unroll,), _, _ = played("--past-share", "0")
    reward, state = unroll.steps.reward[1:], with_progress(config, network, 0.0)
    configs = [dataclasses.replace(config, team_spirit=x) for x in (0.0, 1.0)]
    both = jax.tree.map(lambda *x: jnp.stack([jnp.float32(v) for v in x]), *configs)
    shared, tau = jax.vmap(lambda c: ppo.team_rewards(c, state, reward))(both)
    np.testing.assert_array_equal(tau, [0.0, 1.0])
    for i in range(2):
        np.testing.assert_allclose(shared[i], literal_rewards(reward, i), atol=1e-5)


def trained(folder, words=(), resume=False):
    args = "--env-steps 8192 --checkpoint-every 3000 --log-every 1024 --eval-episodes 4".split()
    config = config_of([*args, "--run-dir", str(folder), *words])
    ppo.ALGORITHM.train(config, resume=resume)


@pytest.mark.slow
def test_a_resumed_run_of_teams_is_the_same_to_the_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = "--actors 2 --core-size 8 --sequence-length 8 --unrolls-ahead 1 --no-gif".split()
    words += ["--eval-every", "4096"]
    trained(whole, words)
    shutil.copytree(whole, cut)
    later = sorted((cut / "checkpoints").iterdir(), key=lambda path: int(path.name))[1:]
    assert later
    for path in later:
        shutil.rmtree(path)
    trained(cut, words, resume=True)
    (trees, meta), again = newest(whole), newest(cut)
    jax.tree.map(np.testing.assert_array_equal, trees, again[0])
    assert meta == again[1]
    past = meta["opponents"]["past_selves"]
    assert len(past) >= 3 and sum(x["games"] for x in past) > 10
    lines = metrics_file.read(whole)
    assert 0.3 <= lines[0]["team_spirit"] < lines[-1]["team_spirit"] <= 1.0
    for mode in ("greedy", "sampled"):
        rates = [line[x] for line in lines if (x := f"eval/{mode}_win_rate") in line]
        assert len(rates) == 2 and all(0 <= x <= 1 for x in rates)
    result = json.loads((whole / "evaluation.json").read_text())["results"]["sampled"]
    assert result["won"] + result["drawn"] + result["lost"] == result["episodes"] == 4


@pytest.mark.slow
def test_runs_of_teams_play_matches(tmp_path, capsys):
    for name, words in {"a": "--core-size 8 --sequence-length 8", "b": "--seed 1"}.items():
        write_run(tmp_path / name, f"ppo {' '.join(SMALL)} {words}", past_selves=2)
    for sides in (f"{tmp_path / 'a'} {tmp_path / 'b'}", f"random {tmp_path / 'a'}"):
        out = tmp_path / "x.json"
        assert run(train.main, f"match {sides} --episodes 20 --out {out}") == 0
        found = json.loads(out.read_text())
        result = found["result"]
        assert result["won"] + result["drawn"] + result["lost"] == 20 == found["ended"]
        assert abs(result["mean_reward"] - 2 * result["score"] + 1) < 1e-9  # the result alone
        assert "as first team" in capsys.readouterr().out
    assert run(train.main, f"ratings {tmp_path / 'a'} --games 4") == 0
    assert "against random" in capsys.readouterr().out
    zipped = tmp_path / "policy.zip"
    assert run(train.main, f"export {tmp_path / 'a'} --out {zipped}") == 0


@pytest.mark.slow
def test_teams_learn_to_beat_random_moves(tmp_path):
    words = "--env-steps 400000 --epochs 4 --eval-episodes 256 --log-every 50000".split()
    ppo.ALGORITHM.train(config_of([*words, "--run-dir", str(tmp_path / "run")]))
    result = json.loads((tmp_path / "run/evaluation.json").read_text())["results"]["sampled"]
    assert result["won"] / result["episodes"] > 0.75
