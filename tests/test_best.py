"""Evaluations during training: they change nothing of it, and the best parameters are kept."""

import json
import math
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_train import WORDS, checkpoint, logged, play

from rlsys import algorithms, load_policy, train
from rlsys.algorithms import impala
from rlsys.config import RunConfig
from rlsys.envs import Episode, Options, Task
from rlsys.results import evaluate
from rlsys.running import best
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.session import Session
from rlsys.sweep.__main__ import main as sweep
from rlsys.sweep.members import check_together, members
from rlsys.types import Stopped, UserError

STEPS, EVERY = 2400, 500


def words(algorithm, folder, *more):
    fields = ["--env-steps", STEPS, "--eval-episodes", 4, "--no-gif", "--run-dir", folder]
    return [algorithm, *WORDS[algorithm], *fields, *more]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def best_of(folder):
    """The best parameters in a run's newest checkpoint, and what its meta says of them."""
    _, trees, meta = Checkpoints(folder / "checkpoints").restore({"best": None})
    return trees["best"], meta["evaluations"]


def without_evaluations(lines):
    return [{k: v for k, v in line.items() if not k.startswith("eval/")} for line in lines]


class Killed(Exception):
    pass


@pytest.mark.parametrize("algorithm", ["r2d2", "apex", "ppo"])
@pytest.mark.slow
def test_training_is_the_same_with_evaluations_and_after_a_kill(tmp_path, algorithm, monkeypatch):
    """To the bit: on 4 devices, with two tasks and several actors (IMPALA, PPO); the run killed in
    an evaluation goes on to the same evaluations and the same best parameters."""
    whole, plain, killed = (tmp_path / name for name in ("whole", "plain", "killed"))
    assert play(*words(algorithm, plain)) == 0
    assert play(*words(algorithm, whole, "--eval-every", EVERY)) == 0
    evaluated, number = best.Evaluations.play, []

    def play_some(self, *args, **options):
        number.append(0)
        if len(number) == 4:
            raise Killed
        return evaluated(self, *args, **options)

    monkeypatch.setattr(best.Evaluations, "play", play_some)
    assert play(*words(algorithm, killed, "--eval-every", EVERY)) == 1
    monkeypatch.undo()
    before = Checkpoints(killed / "checkpoints").numbers()[-1]
    assert play("resume", killed) == 0

    of_plain, of_whole, of_killed = map(checkpoint, (plain, whole, killed))
    assert before < of_whole[0]
    same(of_plain[1], of_whole[1])
    same(of_whole[1], of_killed[1])
    same(best_of(whole)[0], best_of(killed)[0])
    assert of_whole[2] == of_killed[2]
    assert logged(whole) == logged(killed)
    results = [(path / "evaluation.json").read_text() for path in (plain, whole, killed)]
    assert len(set(results)) == 1

    assert "evaluations" not in of_plain[2]
    assert not any(name.startswith("eval/") for line in logged(plain) for name in line)
    lines = [line for line in logged(whole) if "eval/best" in line]
    assert [line["env_steps"] // EVERY for line in lines] == [1, 2, 3, 4, 4]
    assert lines[-1]["env_steps"] == STEPS
    score = {"r2d2": "greedy", "apex": "greedy"}.get(algorithm, "sampled")
    other = {"r2d2": "ladder", "apex": "ladder"}.get(algorithm, "greedy")
    returns = [line[f"eval/{score}_return"] for line in lines]
    assert [line["eval/best"] for line in lines] == np.maximum.accumulate(returns).tolist()
    assert all(-1 <= line[f"eval/{other}_return"] <= 1 for line in lines)
    first = lines[int(np.argmax(returns))]
    about = best_of(whole)[1]["best"]
    assert about["env_steps"] == first["env_steps"] and about["score"] == max(returns)
    assert about["learner_steps"] == first["learner_steps"]


def task_of(name):
    return Task(name, "", Options(opponent=name.partition(":opponent=")[2]))


def make(returns, monkeypatch, *, tasks=("",), score="sampled", every=100, total=1000):
    """Evaluations of a run whose k-th evaluation returns the k-th of returns, of each task."""
    found = iter(returns)

    def play_tasks(algorithm, config, network, params, num_episodes, seed, stop):
        values = next(found)
        if values is None:
            raise Stopped
        return {
            f"{mode} {task}".strip(): [Episode(sign * x, 1, 0, task)] * num_episodes
            for mode, sign in (("sampled", 1), ("greedy", -1))
            for task, x in zip(tasks, values, strict=True)
        }

    monkeypatch.setattr(best, "play_tasks", play_tasks)
    algorithm = SimpleNamespace(eval_modes=("greedy", "sampled"), score_mode=score)
    config = SimpleNamespace(
        eval_every=every, eval_episodes=3, env_steps=total, eval_tasks=list(map(task_of, tasks))
    )
    return best.Evaluations(algorithm, config, None)


def test_the_best_is_of_the_highest_score(monkeypatch):
    """Not of a later one that equals it, nor of one that is no number."""
    own = make([[1.0], [math.nan], [3.0], [3.0], [2.0]], monkeypatch)
    found = [own.play({"w": jax.numpy.float32(i)}, 100 * i, i, lambda: False) for i in range(1, 6)]
    assert [x["eval/best"] for x in found] == [1.0, 1.0, 3.0, 3.0, 3.0]
    assert own.best.params == {"w": 3.0} and own.best[1:] == (3.0, 300, 3)
    assert "(best: 3 at 300)" in own.sentence(found[-1])
    assert "sampled return 3 at environment step 300" in own.summary("runs/x")
    assert "--params best" in own.summary("runs/x")


def test_episodes_that_did_not_end_are_told(monkeypatch):
    """They are a part of the mean, so the log and the sentence say how many ended."""
    own = make([[1.0], [2.0]], monkeypatch, tasks=("a", "b"))
    played = {
        f"{mode} {task}": [Episode(1.0, 9, 0, task, ended=ended) for ended in (True, True, now)]
        for mode, now in (("greedy", True), ("sampled", False))
        for task in ("a", "b")
    }
    monkeypatch.setattr(best, "play_tasks", lambda *_: played)
    numbers = own.play({}, 100, 1, lambda: False)
    assert numbers["eval/greedy_ended"] == 1.0 and numbers["eval/sampled_ended"] == 2 / 3
    said = own.sentence(numbers)
    assert ", the best so far; 67 % of the episodes ended, the others count" in said.replace(
        "67%", "67 %"
    )


def test_an_evaluation_of_a_game_names_its_players(monkeypatch):
    returns = [[0.9, -0.25]]
    names = ["Hex-v1:opponent=random", "Hex-v1:opponent=blocker"]
    own = make(returns, monkeypatch, tasks=names)
    said = own.sentence(own.play({}, 100, 1, lambda: False))
    assert said.startswith("evaluation at 100 steps: greedy return -0.325, sampled return 0.325 (")
    assert "(sampled against random 0.9, blocker -0.25), the best so far" in said
    for tasks, words in ((names[:1], " (against random)"), ([""], ""), (["a", "b"], "")):
        own = make([[1.0] * len(tasks)], monkeypatch, tasks=tasks)
        said = own.sentence(own.play({}, 100, 1, lambda: False))
        assert said.endswith(f"sampled return 1{words}, the best so far")


def test_the_mode_of_the_score_decides(monkeypatch):
    own = make([[1.0], [2.0]], monkeypatch, score="greedy")
    for i in (1, 2):
        own.play({}, 100 * i, i, lambda: False)
    assert own.best.score == -1.0 and own.best.env_steps == 100


def test_of_several_tasks_the_mean_decides(monkeypatch):
    own = make([[1.0, 5.0], [4.0, 3.0]], monkeypatch, tasks=("a", "b"))
    found = [own.play({}, 100 * i, i, lambda: False) for i in (1, 2)]
    assert found[1]["eval/sampled_return"] == 3.5 == found[1]["eval/best"]
    assert found[1]["eval/sampled_return/a"] == 4.0 and found[1]["eval/greedy_return/b"] == -3.0


def test_when_one_is_due(monkeypatch):
    """When a multiple is passed, whatever the steps of an unroll, and at the end, once each."""
    own = make([[1.0]] * 9, monkeypatch, every=100, total=430)
    seen = []
    for env_steps in range(30, 470, 40):
        if own.due(env_steps):
            seen.append(env_steps)
            own.play({}, env_steps, 0, lambda: False)
            assert not own.due(env_steps)
    assert seen == [110, 230, 310, 430]
    off = make([], monkeypatch, every=0)
    assert not any(off.due(n) for n in (1, 100, 1000)) and off.state() == ({}, {})


def test_one_that_a_signal_ended_stays_due(monkeypatch):
    own = make([[1.0], None, [2.0]], monkeypatch)
    own.play({}, 100, 1, lambda: False)
    assert own.play({}, 200, 2, lambda: True) == {} and own.best.env_steps == 100
    assert own.due(240)
    trees, meta = own.state()
    again = make([[2.0]], monkeypatch)
    again.restore(json.loads(json.dumps(meta)), 240, lambda: trees["best"])
    assert again.best == own.best and again.due(280)


def test_a_signal_ends_an_evaluation_at_once():
    """Within a step."""
    config = impala.Config(env="CartPole-v1", num_envs=4, batch_size=4, eval_every=10)
    asked = []

    def stop():
        asked.append(0)
        return len(asked) > 3

    algorithm = impala.ALGORITHM
    pools = [evaluate.make(task, 1, 0) for task in config.tasks]
    spaces = pools[0].observation_space, pools[0].action_space
    network = algorithm.make_network(config, *spaces)
    params = algorithm.make_state(network, config).params
    own = best.Evaluations(algorithm, config, network)
    assert own.play(params, 10, 1, stop) == {} and len(asked) == 4 and own.best is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that evaluates itself from its second half on."""
    folder = tmp_path_factory.mktemp("best") / "run"
    constant = ["--learning-rate-decay", 0, "--checkpoint-every", 1200]
    assert play(*words("r2d2", folder, *constant, "--env-steps", 1200)) == 0
    with pytest.raises(UserError, match="no best parameters, which a run keeps that is trained"):
        evaluate.saved(*train.load(str(folder)), "best")
    resumed = ["--env-steps", STEPS, "--eval-every", EVERY]
    assert play("resume", folder, *resumed) == 0
    return folder


@pytest.mark.slow
def test_evaluations_may_begin_on_resume(run):
    lines = [line["env_steps"] for line in logged(run) if "eval/best" in line]
    assert min(lines) >= 1500 and lines[-1] == STEPS


def test_a_run_does_not_go_on_with_damaged_best_parameters(run, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    newest, before = Checkpoints(folder / "checkpoints").numbers()[:-3:-1]
    files = (folder / f"checkpoints/{newest}/trees/best").rglob("*")
    largest = max((x for x in files if x.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    taken = []

    def restore(self):
        taken.append(self.run.number)
        raise Stopped

    monkeypatch.setattr(Session, "restore", restore)
    assert play("resume", folder) == 3 and taken == [before]
    said = capfd.readouterr().out
    assert f"is damaged: its checksum is not the one written; checkpoint {before} is taken" in said


def test_eval_and_export_take_the_best(run, tmp_path, capfd):
    tree, about = best_of(run)
    found = evaluate.saved(*train.load(str(run)), "best")
    same(jax.tree.leaves(found.params), jax.tree.leaves(tree))
    assert found.env_steps == about["best"]["env_steps"]
    assert play("eval", run, "--params", "best", "--episodes", 3) == 0
    output = capfd.readouterr().out
    assert f"the best parameters, of {found.env_steps:,} environment steps" in output
    assert f"saved {run}/best.gif" in output and (run / "best.gif").exists()
    assert play("export", run, "--params", "best", "--out", tmp_path / "best.zip") == 0
    policy = load_policy(tmp_path / "best.zip")
    assert policy.about["params"] == "best" and policy.about["env_steps"] == found.env_steps
    assert play("eval", run, "--params", "last") == 2
    assert "params must be newest or best, not 'last'" in capfd.readouterr().err


def test_a_sweep_refuses_it(tmp_path, capfd):
    more = ["--seeds", "2", "--eval-every", "500"]
    arguments = [str(x) for x in words("impala", tmp_path / "sweep", *more)]
    with pytest.raises(UserError, match="eval_every is for a run alone: a sweep evaluates each"):
        sweep(arguments)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_leaves_out_a_presets_evaluations():
    words = "--env TicTacToe-v1 --past-share 0 --seeds 2".split()
    assert algorithms.config_of("ppo", words[:4]).eval_every > 0
    found = members("ppo", words)
    check_together([member.config for member in found])
    assert [member.config.eval_every for member in found] == [0, 0]
    assert not any("--eval-every" in member.words for member in found)


def test_the_field_is_checked():
    assert RunConfig().eval_every == 0
    with pytest.raises(UserError, match="eval_every must be 0 or more, not -1"):
        RunConfig(eval_every=-1)
