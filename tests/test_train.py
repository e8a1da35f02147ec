"""Whole runs, from the command line, with faults where faults happen."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from environments import make

from rlsys import algorithms, cli, train
from rlsys.acting.actors import Actors
from rlsys.algorithms import r2d2
from rlsys.algorithms.r2d2 import ALGORITHM, Config
from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.results import evaluations
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.health import first_not_finite
from rlsys.running.log import Log

SMALL = (
    "--env Catch-v0 --num-envs 8 --batch-size 8 --replay-capacity 4000 --learning-starts 400 "
    "--hidden-size 16 --core-size 16 --head-size 16 --target-update 20 --eval-episodes 8 "
    "--unroll-length 10 --refresh-steps 20 --log-every 560 --checkpoint-every 1200"
).split()
TASKS = ("Catch-v0", "Catch-v0:permute=1")
SHORT = (  # of the others: two tasks, and checkpoints that are due within a round of the actors
    f"--env {','.join(TASKS)} --num-envs 16 --actors 4 --unrolls-ahead 0 --hidden-size 16 "
    "--core-size 0 --head-size 16 --eval-episodes 8 --unroll-length 10 --refresh-steps 20 "
    "--log-every 200 --checkpoint-every 360"
).split()
OTHERS = {
    "impala": [*SHORT, "--batch-size", "4"],
    "ppo": [*SHORT, "--sequence-length", "5", "--epochs", "2", "--minibatches", "2"],
}
REPLAYS = {"r2d2": SMALL, "apex": [*SMALL, "--core-size", "0"]}
WORDS = REPLAYS | OTHERS  # of every algorithm
SLOW_APEX = pytest.param("apex", marks=pytest.mark.slow)


def command(*words):
    return [sys.executable, "-m", "rlsys.train", *map(str, words)]


def start(*words, cwd):
    env = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}
    return subprocess.Popen(
        command(*words), cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def run(*words, cwd):
    process = start(*words, cwd=cwd)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def checkpoint(folder):
    """Everything in a run's newest checkpoint, and which it is."""
    algorithm = json.loads((folder / "config.json").read_text())["algorithm"]
    names = {"learner": None, "actors": None}
    names |= {"replay": None} if algorithm in REPLAYS else {}
    number, trees, meta = Checkpoints(folder / "checkpoints").restore(names)
    data = jax.tree.map(
        lambda x: (
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ),
        trees,
    )
    return number, data, meta


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged(folder):
    """Reads what a run logged, without the numbers that depend on the clock."""
    return [
        {k: v for k, v in line.items() if "second" not in k and not k.startswith("time")}
        for line in metrics(folder)
    ]


def play(*words):
    """As `run`, in this process."""
    return cli.exit_code(lambda: train.main([str(word) for word in words]))


def test_every_algorithm_is_tried_here():
    assert set(WORDS) == set(algorithms.NAMES)


@pytest.mark.parametrize("algorithm", ["r2d2", SLOW_APEX])
def test_killed_and_resumed_equals_never_killed(tmp_path, algorithm):
    """To the bit: parameters, optimiser, replay, priorities, keys, counters, and what is logged."""
    words = [algorithm, *REPLAYS[algorithm], "--env-steps", "4800", "--seed", "3"]
    code, output = run(*words, "--run-dir", "whole", cwd=tmp_path)
    assert code == 0, output
    killed = start(*words, "--run-dir", "killed", cwd=tmp_path)
    wait_for((tmp_path / "killed/checkpoints/2").is_dir, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = Checkpoints(tmp_path / "killed/checkpoints").numbers()[-1]
    code, output = run("resume", "killed", cwd=tmp_path)
    assert code == 0, output

    number, trees, meta = checkpoint(tmp_path / "whole")
    again = checkpoint(tmp_path / "killed")
    assert number == again[0] == 4 and before < 4
    assert meta == again[2] and meta["counters"]["env_steps"] == 4800
    assert meta["counters"]["learner_steps"] > 40
    assert len(jax.tree.leaves(trees)) > 30
    jax.tree.map(np.testing.assert_array_equal, trees, again[1])
    lines = [logged(tmp_path / folder) for folder in ("whole", "killed")]
    assert lines[0] == lines[1]
    assert [line["env_steps"] for line in lines[0]] == [
        560,
        1120,
        1200,
        1760,
        2320,
        2400,
        2960,
        3520,
        3600,
        4160,
        4720,
        4800,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", OTHERS)
def test_the_others_killed_and_resumed_equal_never_killed(tmp_path, algorithm):
    """Which is also to repeat themselves, with several actors, tasks and batches in a round."""
    words = [algorithm, *OTHERS[algorithm], "--core-size", 8, "--env-steps", 3520, "--run-dir"]
    assert play(*words, tmp_path / "whole") == 0
    killed = start(*words, "killed", cwd=tmp_path)
    wait_for((tmp_path / "killed/checkpoints/2").is_dir, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = Checkpoints(tmp_path / "killed/checkpoints").numbers()[-1]
    assert play("resume", tmp_path / "killed") == 0

    (number, trees, meta), again = (checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert before < number == again[0] and meta == again[2]
    updates = {"impala": 3520 // 40, "ppo": 3520 // 160 * 4}[algorithm]
    assert meta["counters"]["env_steps"] == 3520
    assert meta["counters"]["learner_steps"] == updates
    jax.tree.map(np.testing.assert_array_equal, trees, again[1])
    lines = [logged(tmp_path / name) for name in ("whole", "killed")]
    assert lines[0] == lines[1] and len(lines[0]) > 10
    rates = [line["learning_rate"] for line in lines[0] if line.get("learning_rate") is not None]
    assert len(rates) > 10 and all(x > y > 0 for x, y in itertools.pairwise(rates))
    assert np.ptp([lines[0][-1][f"popart_mean/{task}"] for task in TASKS]) > 0
    if algorithm == "ppo":
        assert all(line["sample_reuse"] == 2 for line in lines[0])
        staleness = [line["staleness"] for line in lines[0]]
        # Copied for two unrolls, each learned from in 4 steps: 0 to 3 / 4, then 1 to 7 / 4.
        assert min(staleness) >= 0.375 and max(staleness) <= 1.375
    for name in ("whole", "killed"):
        evaluation = json.loads((tmp_path / name / "evaluation.json").read_text())
        kinds = ("greedy", "sampled")
        assert evaluation["score"] == "sampled"
        assert set(evaluation["results"]) == {f"{kind} {task}" for kind in kinds for task in TASKS}


@pytest.mark.parametrize(
    ("algorithm", "number"),
    [
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in (
                ("r2d2", signal.SIGINT), ("r2d2", signal.SIGTERM), ("impala", signal.SIGHUP)
            )
        ),
        ("ppo", signal.SIGINT),
    ],
)  # fmt: skip
def test_a_signal_saves_a_checkpoint_and_exits(tmp_path, algorithm, number):
    process = start(algorithm, *WORDS[algorithm], "--env-steps", 10**8,
                    "--run-dir", "run", "--unrolls-ahead", 1, "--actors", 2,
                    "--checkpoint-every", 1200, cwd=tmp_path)  # fmt: skip
    wait_for((tmp_path / "run/checkpoints/1").is_dir, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert signal.Signals(number).name in output and "make resume RUN=run" in output
    newest, _, meta = checkpoint(tmp_path / "run")
    # The signal may come before the first step after a checkpoint.
    assert newest >= 1 and meta["counters"]["env_steps"] >= 1200


@pytest.mark.slow
def test_a_synchronous_run_repeats_itself(tmp_path):
    """Also with several actors, and whatever their threads do."""
    results = []
    for name in ("a", "b"):
        config = cli.parse(
            ALGORITHM.presets.choose(None, "Catch-v0", on_cpu=False),
            [*SMALL[2:], "--env-steps", "1600", "--actors", "2", "--run-dir", str(tmp_path / name)],
            "",
        )
        r2d2.train(config)
        results.append(checkpoint(tmp_path / name))
    assert results[0][2] == results[1][2]
    jax.tree.map(np.testing.assert_array_equal, results[0][1], results[1][1])


@pytest.mark.parametrize("algorithm", ["ppo", "impala"])
@pytest.mark.slow
def test_actors_of_several_tasks_run_ahead(tmp_path, algorithm):
    """And what they have learned can be played and seen."""
    folder, tasks = tmp_path / "run", (*TASKS, "Catch-v0:permute=2")
    words = [algorithm, *OTHERS[algorithm], "--env", ",".join(tasks), "--actors", 3,
             "--num-envs", 12, "--unrolls-ahead", 1, "--env-steps", 960]  # fmt: skip
    words += ["--batch-size", 8] if algorithm == "impala" else ["--minibatches", 1]
    assert play(*words, "--run-dir", folder) == 0
    _, trees, meta = checkpoint(folder)
    steps = meta["counters"]["env_steps"]
    assert 960 <= steps <= 960 + 3 * 120  # what was begun is learned from
    assert trees["learner"]["popart"]["count"].sum() > 0.85 * steps  # but for steps of resets
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trees["learner"]["params"]))

    assert play("eval", folder, "--episodes", 70) == 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["env_steps"] == steps and len(found["others"]) == 1
    results = found["results"]
    assert set(results) == {f"{kind} {t}" for kind in ("greedy", "sampled") for t in tasks}
    assert all(r["episodes"] == 70 and r["length"] == 9 for r in results.values())
    for name in ("episode.gif", "episode-1.gif", "episode-2.gif"):
        assert (folder / name).read_bytes().startswith(b"GIF")


class Broken(Exception):
    pass


def break_after(num_steps, monkeypatch):
    """Environments raise Broken after so many steps, all together; a list that grows with each."""
    steps = []
    step = EnvPoolEnvs.step

    def breaking(self, action):
        steps.append(0)
        if len(steps) > num_steps:
            raise Broken
        return step(self, action)

    monkeypatch.setattr(EnvPoolEnvs, "step", breaking)
    return steps


@pytest.mark.parametrize(("algorithm", "ahead"), [("impala", 2), ("ppo", 0), ("ppo", 2)])
@pytest.mark.slow
def test_an_actors_exception_ends_the_others(tmp_path, monkeypatch, capfd, algorithm, ahead):
    steps = break_after(90, monkeypatch)
    words = [*OTHERS[algorithm], "--env-steps", 10**6, "--unrolls-ahead", ahead]
    assert play(algorithm, *words, "--run-dir", tmp_path / "run") == 1
    assert "Broken" in capfd.readouterr().err
    assert len(steps) < 180


def test_an_actors_exception_ends_the_run(tmp_path, monkeypatch):
    steps = break_after(150, monkeypatch)
    for ahead in (0, 2):
        steps.clear()
        config = cli.parse(
            ALGORITHM.presets.choose(None, "Catch-v0", on_cpu=False),
            [*SMALL[2:], "--env-steps", "100000", "--actors", "2", "--unrolls-ahead", str(ahead),
             "--run-dir", str(tmp_path / str(ahead))],
            "",
        )  # fmt: skip
        with pytest.raises(Broken):
            r2d2.train(config)
        assert len(steps) < 200


@pytest.mark.parametrize("algorithm", ["r2d2", SLOW_APEX])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, algorithm):
    words = [algorithm, *REPLAYS[algorithm], "--env-steps", 8000, "--learning-rate", "1e36"]
    code, output = run(*words, "--checkpoint-every", "400", "--run-dir", "run", cwd=tmp_path)
    assert code == 1
    assert "the loss is no finite number at learner step" in output
    assert "Traceback" not in output
    number, trees, _ = checkpoint(tmp_path / "run")
    assert f"checkpoint {number}" in output
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trees["learner"]["params"]))


@pytest.mark.slow
def test_a_gaussian_that_is_not_finite_stops_the_run_in_the_same_words(tmp_path, capfd):
    """Its actions are NaN before a line of the log tells of the loss."""
    words = (
        "ppo --env InvertedPendulum-v5 --policy gaussian --num-envs 4 --unroll-length 8 "
        "--refresh-steps 8 --minibatches 2 --env-steps 6400 --log-every 3200 --learning-rate 1e30"
    )
    assert play(*words.split(), "--run-dir", tmp_path / "run") == 1
    error = capfd.readouterr().err
    assert "is no finite number at learner step" in error and "action" not in error


def test_the_first_number_that_is_not_finite_is_named():
    bad, good = np.array([1.0, 2.0, np.nan, np.inf]), np.ones(4)
    metrics = {"a": bad, "b": np.array([1.0, np.inf, 1.0, 1.0]), "c": good}
    assert first_not_finite(metrics) == ("b", 2)
    assert first_not_finite({"c": good}) is None and first_not_finite({}) is None


@pytest.mark.slow
def test_a_run_ends_with_the_unrolls_that_a_checkpoint_takes_in(tmp_path):
    """Or one that is resumed from there would end before it."""
    words = "--num-envs 32 --batch-size 32 --unroll-length 20 --refresh-steps 20 --hidden-size 8"
    words = f"{words} --env-steps 1900 --checkpoint-every 1280".split()
    assert play("impala", *words, "--eval-episodes", 2, "--run-dir", tmp_path / "run") == 0
    number, _, meta = checkpoint(tmp_path / "run")
    assert number == 1 and meta["counters"]["env_steps"] == 1920
    assert metrics(tmp_path / "run")[-1]["env_steps"] == 1920


@pytest.mark.parametrize("algorithm", OTHERS)
@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_others(tmp_path, capfd, algorithm):
    """And is never saved: a first run's checkpoint is kept."""
    folder = tmp_path / "run"
    assert play(algorithm, *OTHERS[algorithm], "--env-steps", 480, "--run-dir", folder) == 0
    before, _, _ = checkpoint(folder)
    capfd.readouterr()
    words = ["--env-steps", 10**6, "--learning-rate", "1e36", "--checkpoint-every", 40]
    assert play("resume", folder, *words) == 1
    error = capfd.readouterr().err
    assert "is no finite number at learner step" in error and "Traceback" not in error
    number, trees, _ = checkpoint(folder)
    assert f"checkpoint {number} is kept in {folder}" in error and number == before
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trees["learner"]["params"]))


@pytest.mark.parametrize("algorithm", WORDS)
@pytest.mark.slow
def test_a_full_disk_does_not_stop_the_run(tmp_path, algorithm):
    """Files that may not grow: saving fails with the system's own error, learning goes on."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
    body = "import sys; from rlsys import cli, train; "
    body += "sys.exit(cli.exit_code(lambda: train.main(sys.argv[1:])))"
    words = [algorithm, *WORDS[algorithm], "--env-steps", "2400", "--run-dir", "run",
             "--hidden-size", "1024", "--checkpoint-every", "1200"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", limit + body, *words], cwd=tmp_path, env=env,
                          capture_output=True, text=True)  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "could not be saved" in output and "goes on" in output
    assert metrics(tmp_path / "run")[-1]["env_steps"] == 2400


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("r2d3", "there is no algorithm 'r2d3'; the nearest: r2d2"),
        ("r2d2 --env Breakot-v5", "'Breakout-v5'"),
        ("r2d2 --learning-rat 1", "--learning-rate"),
        ("r2d2 --preset atarri", "atari"),
        ("r2d2 --length 5 --stride 6", "stride 6 must lie between 1 and"),
        ("r2d2 --length 4 --stride 4", "n 5 must not be above length 4: returns end with the"),
        ("r2d2 --frame-stack 4", "frame_stack 4 is for images, and the observation has none"),
        ("r2d2 --actors 0", "actors must be 1 or more, not 0"),
        ("r2d2 --unrolls-ahead -1", "unrolls_ahead must be 0 or more, not -1"),
        ("r2d2 --replay-ratio 0", "replay_ratio must be positive, not 0"),
        ("r2d2 --learning-starts 0", "learning_starts 0 must be 1344 or more"),
        ("r2d2 --env-steps 4000", "below env_steps 4000"),
        ("r2d2 --replay-capacity 100", "a replay of 100 steps is smaller than a batch of 32 x 20"),
        ("r2d2 --batch-size 6", "a batch of 6 cannot be split evenly over 4 devices"),
        ("r2d2 --num-envs 10 --actors 4", "10 environments cannot be shared evenly by 4 actors"),
        ("r2d2 --observe 7", "observe"),
        ("r2d2 --sticky-actions 0.25", "sticky_actions is for Atari"),
        ("r2d2 --torso natur", "nature"),
        pytest.param(
            "r2d2 --preset atari --replay-capacity 4000000000",
            "--replay-capacity",
            marks=pytest.mark.slow,
        ),
        ("impala --batch-size 24", "batch_size 24 must divide the 64 environments of an actor"),
        ("impala --num-envs 2 --batch-size 2", "a batch of 2 cannot be split evenly over 4 devic"),
        ("impala --num-envs 16", "batch_size 64 is more than the 16 environments"),
        ("impala --optimizer sgd", "optimizer must be rmsprop or adam, not 'sgd'"),
        ("impala --env CartPole-v1,Catch-v0", "one agent cannot play both 'CartPole-v1' and 'Catc"),
        ("impala --env Catch-v0,Catch-v0", "task 'Catch-v0' is named twice"),
        ("impala --epochs 3", "no field '--epochs'"),
        ("ppo --env Catch-v0,Catch-v0:permute=1 --actors 3", "actors must be a multiple of the 2"),
        ("ppo --env Catch-v0:permut=1", "there is no option 'permut'; the nearest: permute"),
        ("ppo --sequence-length 5", "unroll_length 32 is no multiple of sequence_length 5"),
        ("ppo --num-envs 6", "a batch of 6 cannot be split evenly over 4 devices"),
        ("ppo --core-size 8", "set sequence_length, to 16 for instance"),
        ("ppo --minibatches 3", "cannot be split evenly into 3 minibatches"),
        ("ppo --horizon-seconds 0.1", "must not be shorter than step_seconds 0.1333"),
        ("ppo --env TicTacToe-v1,TicTacToe-v1:opponent=random --actors 2", "the policy plays both"),
        ("ppo --clip-entries --max-gradient-norm 0.1", "max_gradient_norm is not used with clip_e"),
        (
            "ppo --env Pong-v5 --pixel-offset 87 --normalize-observations",
            "pixel_offset is not us",
        ),
        ("apex --importance-exponent 4", "importance_exponent must be within [0, 1], not 4.0"),
        ("impala --baseline-cost -1", "baseline_cost must be 0 or more, not -1.0"),
        ("ppo --preset recurent", "there is no preset 'recurent'"),
        ("resume nowhere", "nowhere"),
        ("eval nowhere", "nowhere"),
        ("eval", "eval needs the folder of a run"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code = cli.exit_code(lambda: train.main(words.split()))
    output = capfd.readouterr()
    assert code == 2
    assert sentence in output.err
    assert output.err.startswith("rlsys: ") and output.err.count("\n") == 1
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_a_run_folder_is_not_written_over(tmp_path):
    words = [*SMALL, "--env-steps", "800", "--run-dir", str(tmp_path / "run")]
    assert cli.exit_code(lambda: train.main(["r2d2", *words])) == 0
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert cli.exit_code(lambda: train.main(["r2d2", *words])) == 2
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_damaged_and_foreign_checkpoints(tmp_path, capfd):
    folder = tmp_path / "run"
    words = [*SMALL, "--env-steps", "2400", "--run-dir", str(folder)]
    assert cli.exit_code(lambda: train.main(["r2d2", *words])) == 0
    resume = ["resume", str(folder), "--env-steps", "2800"]

    largest = max((folder / "checkpoints/2").rglob("*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-7])
    capfd.readouterr()
    assert cli.exit_code(lambda: train.main(resume)) == 0
    output = capfd.readouterr().out
    assert str(largest) in output and "checkpoint 1 is taken instead" in output

    assert cli.exit_code(lambda: train.main([*resume[:2], "--core-size", "8"])) == 2
    assert "core" in capfd.readouterr().err
    (folder / "checkpoints").rename(tmp_path / "elsewhere")
    assert cli.exit_code(lambda: train.main(resume)) == 2
    assert str(folder) in capfd.readouterr().err


@pytest.mark.slow
def test_evaluation_plays_whole_episodes_and_records_one(tmp_path, capfd):
    folder = tmp_path / "run"
    words = [*SMALL, "--env-steps", "800", "--run-dir", str(folder)]
    assert cli.exit_code(lambda: train.main(["r2d2", *words])) == 0
    (first,) = evaluations.read(folder)
    for episodes in ("11", "70"):
        words = ["eval", str(folder), "--episodes", episodes, "--seed", "3"]
        assert cli.exit_code(lambda words=words: train.main(words)) == 0
    assert capfd.readouterr().out.count("score: greedy return ") == 3
    found = evaluations.read(folder)
    counters = checkpoint(folder)[2]["counters"]
    assert [one["episodes"] for one in found] == [70, 11, 8]
    assert [one["seed"] for one in found] == [3, 3, first["seed"]] and found[2] == first
    for one in found:
        assert all(one[key] == counters[key] for key in ("env_steps", "learner_steps"))
        assert set(one["results"]) == {"greedy", "ladder"}
        for result in one["results"].values():
            assert result["episodes"] == one["episodes"] and result["length"] == 9
    assert (folder / "episode.gif").read_bytes().startswith(b"GIF")


def test_actors_take_new_parameters_every_refresh_steps(tmp_path):
    config = Config(num_envs=4, actors=2, unroll_length=5, refresh_steps=15)
    seen = []

    def policy(params, timestep, core_state, key):
        seen.append(int(params["learner_step"]))
        return np.zeros(2, np.int32), (), core_state, key

    envs = [make("CartPole-v1", 2, seed) for seed in (0, 1)]
    actors = Actors(envs, [policy] * 2, lambda n: (), config, Log(tmp_path, 1).time)
    for step in range(9):
        unroll = actors.get({"learner_step": jax.numpy.array(step)}, step)
        assert unroll.learner_step == step // 3 * 3
    assert sorted(set(seen)) == [0, 3, 6] and len(seen) == 9 * 5 * 2
    actors.close()
