"""Sweeps: a member is the run alone, on any number of devices, whatever happens to the others."""

import contextlib
import csv
import functools
import io
import json
import math
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from rich.console import Console

from rlsys import algorithms, cli, train
from rlsys.acting.actors import make_envs, seeds
from rlsys.envs import Episode
from rlsys.learning import learner
from rlsys.replay import memory
from rlsys.results import evaluations, report
from rlsys.running import config_file
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.display import Display
from rlsys.running.health import Health
from rlsys.running.log import Log
from rlsys.running.run import Run
from rlsys.sweep import __main__ as command
from rlsys.sweep import ending, status, vmapped
from rlsys.sweep import sweep as sweeping
from rlsys.sweep.members import members
from rlsys.types import UserError

SMALL = (
    "--hidden-size 16 --head-size 16 --eval-episodes 4 --unroll-length 10 --refresh-steps 10 "
    "--unrolls-ahead 0"
)
WORDS = {  # two values by two seeds, 20 to 40 learner steps, a checkpoint half way
    "impala": (
        f"{SMALL} --env CartPole-v1,CartPole-v1:reward_scale=0.1 --actors 2 --num-envs 16 "
        "--batch-size 16 --core-size 0 --env-steps 3200 --checkpoint-every 1600 --log-every 320 "
        "--learning-rate 1e-3 3e-3 --seed 0 5"
    ),
    "ppo": (
        f"{SMALL} --env CartPole-v1 --num-envs 8 --epochs 2 --minibatches 2 --sequence-length 5 "
        "--core-size 0 --env-steps 800 --checkpoint-every 400 --log-every 80 "
        "--clip-eps 0.1 0.3 --seed 0 5"
    ),
    "r2d2": (
        f"{SMALL} --env CartPole-v1 --actors 2 --num-envs 8 --batch-size 8 --core-size 8 "
        "--length 8 --stride 4 --burn-in 0 --cross-episodes False --replay-capacity 4000 "
        "--learning-starts 400 --target-update 5 --env-steps 1600 --checkpoint-every 800 "
        "--log-every 160 --epsilon-base 0.4 0.8 --seed 0 5"
    ),
    "apex": (
        f"{SMALL} --env CartPole-v1 --actors 2 --num-envs 8 --batch-size 8 --replay-capacity 4000 "
        "--learning-starts 400 --replay-ratio 0.3 --target-update 5 --env-steps 1600 "
        "--checkpoint-every 800 --log-every 160 --learning-rate 1e-3 3e-3 --seed 0 5"
    ),
}
SCISSORS = "teams/experiments.rock_paper_scissors:RockPaperScissors"
NEEDS = {}  # bytes on the host and on the devices, as each sweep below was checked with


def sweep(*words):
    return cli.exit_code(lambda: command.main([str(word) for word in words]))


@contextlib.contextmanager
def one_device():
    make_mesh = learner.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "make_mesh", lambda *_, **__: make_mesh(jax.devices()[:1]))
        yield patch


def alone(folder, *words):
    """The run by itself, on one device as a member is."""
    with one_device():
        words = [*words, "--run-dir", str(folder)]
        assert cli.exit_code(lambda: train.main([str(word) for word in words])) == 0
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """(algorithm, words in place of some) -> the folder of a finished sweep on one device, made
    once."""

    @functools.cache
    def folder_of(algorithm, *words):
        folder = tmp_path_factory.mktemp(algorithm) / "sweep"
        with one_device() as patch:
            check = memory.check_sweep

            def noting(num_members, on_host, on_devices, devices):
                NEEDS[folder] = on_host, on_devices
                return check(num_members, on_host, on_devices, devices)

            patch.setattr(memory, "check_sweep", noting)
            assert sweep(algorithm, *WORDS[algorithm].split(), *words, "--run-dir", folder) == 0
        return folder

    return folder_of


@pytest.fixture
def on_one_device():
    with one_device():
        yield


def restored(folder, name):
    """A tree of a folder's newest checkpoint as arrays by path, and the checkpoint's meta."""
    _, trees, meta = Checkpoints(folder / "checkpoints").restore({name: None})
    arrays = {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for path, x in jax.tree_util.tree_leaves_with_path(trees[name])
    }
    assert len(arrays) > 3
    return arrays, meta


def assert_same(x, y, atol=0.0):
    assert x.keys() == y.keys()
    for name in x:
        np.testing.assert_allclose(x[name], y[name], atol=atol, rtol=atol, err_msg=name)


def logged(folder):
    """Reads what a run logged, without the numbers that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "second" not in k and not k.startswith("time")}
        for line in lines
    ]


def assert_alone(algorithm, folder, i, tmp_path, *words):
    """Member i's learner is within 1e-5 of the run's by itself, and its games are the same."""
    member = members(algorithm, [*WORDS[algorithm].split(), *words])[i]
    by_itself = alone(tmp_path / str(i), algorithm, *member.words)
    mine, theirs = folder / "members" / str(i), by_itself
    x, y = restored(mine, "learner")[0], restored(theirs, "learner")[0]
    assert y["['step']"] >= 20
    assert_same(x, y, atol=1e-5)
    lines = list(zip(logged(mine), logged(theirs), strict=True))
    assert len(lines) > 8
    for of_member, of_run in lines:  # which has more in it, of its replay for example
        for name, value in of_member.items():
            if "episode" in name or "step" in name or value is None:
                assert value == of_run[name], name
            elif "clipped" not in name:  # a share of those just beyond 1
                assert value == pytest.approx(of_run[name], rel=1e-4, abs=1e-5), name
    return by_itself


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("r2d2", "apex", "impala")]


@pytest.mark.parametrize("i", [1, pytest.param(2, marks=pytest.mark.slow)])  # of 2 values, 2 seeds
@pytest.mark.parametrize("algorithm", ["ppo", *SLOW])
def test_a_member_is_the_run_alone(swept, tmp_path, algorithm, i):
    """Games to the bit. All that is learned within 1e-5, and not to the bit: XLA compiles a batch
    of matrix products and sums of all members otherwise than one's."""
    folder = swept(algorithm)
    by_itself = assert_alone(algorithm, folder, i, tmp_path)
    if algorithm not in ("r2d2", "apex"):
        return
    mine, counters = restored(folder, f"replay-{i}")
    theirs, alone_counters = restored(by_itself, "replay")
    assert counters[f"replay-{i}"] == alone_counters["replay"]  # also where it will draw next
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-5, err_msg=name)
    with (folder / "members.csv").open() as file:
        updates = {row["learner_steps"] for row in csv.DictReader(file)}
    assert len(updates) > 1 or algorithm == "apex", "members must make different numbers of updates"


@pytest.mark.slow
def test_members_may_differ_in_their_replay_ratio(swept, tmp_path):
    """Each makes as many updates as the run alone, in one program."""
    ratios = ("--replay-ratio", "1.2", "3", "--epsilon-base", "0.4", "--seed", "5")
    folder = swept("r2d2", *ratios)
    assert_alone("r2d2", folder, 1, tmp_path, *ratios)
    steps = [restored(folder / f"members/{i}", "learner")[0]["['step']"] for i in (0, 1)]
    assert 2 * steps[0] < steps[1]


@pytest.mark.slow
def test_a_member_is_the_run_alone_with_actors_ahead(swept, tmp_path):
    ahead = ("--unrolls-ahead", "1")
    folder = swept("impala", *ahead)
    assert_alone("impala", folder, 2, tmp_path, *ahead)
    x, y = (restored(f / "members/2", "learner")[0] for f in (folder, swept("impala")))
    assert any((x[name] != y[name]).any() for name in x)  # ahead is not in turn


@pytest.mark.slow
@pytest.mark.parametrize(  # in the first, both sides, of which one is to move
    "env", ["TicTacToe-v1", "TicTacToe-v1:opponent=random", "Snake-v1", SCISSORS]
)
@pytest.mark.usefixtures("on_one_device")
def test_games_and_tasks_with_illegal_actions_can_be_swept(env, tmp_path):
    words = "--num-envs 12 --unroll-length 8 --refresh-steps 8 --minibatches 2 --hidden-size 8 "
    words += "--head-size 8 --env-steps 192 --log-every 96 --eval-episodes 1"
    past = ["--past-share", "0"] if env in ("TicTacToe-v1", SCISSORS) else []
    command = ["ppo", "--env", env, "--preset", "small", *words.split(), *past, "--seeds", "2"]
    assert sweep(*command, "--run-dir", tmp_path / "sweep") == 0
    assert len(logged(tmp_path / "sweep")) == 2


@pytest.mark.parametrize("flicker", [0.0, 0.5])
def test_environments_of_a_member_are_those_of_the_run_alone(flicker):
    words = "--env CartPole-v1 --num-envs 8 --batch-size 8 --actors 2 --seed 3 7"
    words += f" --flicker {flicker}"
    configs = [member.config for member in members("impala", words.split())]
    together = make_envs(*configs)
    apart = [make_envs(config) for config in configs]
    random = np.random.default_rng(0)

    def play(steps, of_all, of_each):
        for _ in range(steps):
            for i, envs in enumerate(of_all):
                action = random.integers(2, size=8)
                mine = envs.step(action)
                theirs = [
                    pools[i].step(a) for pools, a in zip(of_each, action.reshape(2, 4), strict=True)
                ]
                joined = jax.tree.map(lambda *x: np.concatenate(x), *theirs)
                jax.tree.map(np.testing.assert_array_equal, mine, joined)
        return mine, theirs

    last, lasts = play(60, together, apart)
    assert sum(len(envs.pop_episodes()) for envs in together) > 8
    assert (last.obs[:4] != last.obs[4:]).any()  # members' games differ
    drawn = seeds(configs, 1)  # at the first checkpoint
    for i in range(2):
        together[i].restart(drawn[i], last)
        for config, pools, timestep in zip(configs, apart, lasts, strict=True):
            pools[i].restart(seeds([config], 1)[i][0], timestep)
    play(60, together, apart)


@pytest.mark.slow
def test_devices_share_the_members_evenly(swept, tmp_path):
    sizes = {n: vmapped.make_mesh(n).size for n in (1, 2, 3, 4, 5, 6, 8)}
    assert sizes == {1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 3, 8: 4}
    folder = tmp_path / "four"
    assert sweep("impala", *WORDS["impala"].split(), "--run-dir", folder) == 0
    x, y = (restored(f, "learner")[0] for f in (folder, swept("impala")))
    assert_same(x, y, atol=1e-5)


DYING = ("--learning-rate", "1e-3", "1e30")


@pytest.mark.slow
def test_a_member_that_dies_hurts_none(swept, capfd):
    """Two of four do; the others' results are to the bit those beside harmless members."""
    folder = swept("impala", *DYING)
    assert restored(folder, "learner")[1]["died"].keys() == {"2", "3"}
    for i in (0, 1):
        x, y = (restored(f / "members" / str(i), "learner")[0] for f in (folder, swept("impala")))
        assert_same(x, y)
        assert logged(folder / "members" / str(i)) == logged(swept("impala") / "members" / str(i))
    for i in (2, 3):
        assert len(logged(folder / "members" / str(i))) < 10
        assert not (folder / "members" / str(i) / "checkpoints").exists()
    lines = logged(folder)  # means of those that live
    assert len(lines) == 10 and all(math.isfinite(line["loss"]) for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_a_gaussian_member_that_dies_leaves_the_others(tmp_path):
    words = (
        "--env InvertedPendulum-v5 --policy gaussian --num-envs 4 --unroll-length 8 "
        "--refresh-steps 8 --minibatches 2 --env-steps 1600 --log-every 800 --learning-rate 1e-3 "
        "1e30 --eval-episodes 2"
    )
    assert sweep("ppo", *words.split(), "--run-dir", tmp_path / "sweep") == 0
    assert restored(tmp_path / "sweep", "learner")[1]["died"].keys() == {"1"}


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_if_all_die_the_sweep_ends(tmp_path, capfd):
    words = [*WORDS["impala"].split(), "--learning-rate", "1e30", "1e31"]
    assert sweep("impala", *words, "--run-dir", tmp_path / "sweep") == 1
    error = capfd.readouterr().err
    assert error.startswith("rlsys: all members are set aside") and error.count("\n") == 1


class Broken(Exception):
    pass


@pytest.mark.usefixtures("on_one_device")
@pytest.mark.slow
def test_killed_beyond_a_checkpoint_and_resumed(swept, tmp_path, monkeypatch):
    """To the bit what it is uninterrupted; who was dead stays so, and no line is written twice."""
    folder, due = tmp_path / "sweep", Run.due

    def breaking(self):
        if self.env_steps == 2240:  # two lines of the log beyond the checkpoint
            raise Broken
        return due(self)

    words = [*WORDS["impala"].split(), *DYING, "--run-dir", folder]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "due", breaking)
        assert sweep("impala", *words) == 1
    assert [line["env_steps"] for line in logged(folder / "members/0")][-1] > 1600
    assert sweep("resume", folder) == 0
    whole = swept("impala", *DYING)
    (x, meta), (y, expected) = restored(folder, "learner"), restored(whole, "learner")
    assert_same(x, y)
    assert meta == expected and len(meta["died"]) == 2
    for path in (".", "members/0", "members/1", "members/2", "members/3"):
        assert logged(folder / path) == logged(whole / path)


@pytest.mark.usefixtures("on_one_device")
@pytest.mark.slow
def test_stopped_by_a_signal_and_resumed(swept, tmp_path, monkeypatch, capfd):
    """With replays: to the bit what it is uninterrupted, as the signal comes at a checkpoint."""
    folder, due = tmp_path / "sweep", Run.due

    def stopping(self):
        if self.env_steps == 800:
            signal.raise_signal(signal.SIGTERM)
        return due(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "due", stopping)
        assert sweep("r2d2", *WORDS["r2d2"].split(), "--run-dir", folder) == 3
    output = capfd.readouterr().out
    assert f"make sweep RESUME={folder}" in output
    assert not (folder / "members.csv").exists()
    assert sweep("resume", folder) == 0
    for name in ("learner", "actors", "replay-0", "replay-3"):
        (x, meta), (y, expected) = restored(folder, name), restored(swept("r2d2"), name)
        assert_same(x, y)
        assert meta == expected


@pytest.mark.usefixtures("on_one_device")
@pytest.mark.slow
def test_a_sweep_that_has_ended_goes_on_with_more_steps(swept, tmp_path, capfd, monkeypatch):
    """And a field that sets members apart stays as it is."""
    folder = tmp_path / "sweep"
    shutil.copytree(swept("ppo"), folder)
    assert sweep("resume", folder, "--clip-eps", "0.2") == 2
    assert "--clip-eps is what sets the members apart" in capfd.readouterr().err
    healths = []

    def noting(config, changes):  # which judge old lines by the fields of then
        healths.append((config.env_steps, changes[0]["fields"]["env_steps"]["after"]))
        return Health(config, changes)

    monkeypatch.setattr(sweeping, "Health", noting)
    assert sweep("resume", folder, "--env-steps", 960) == 0
    assert healths == [(960, 960)] * 4
    _, _, said = capfd.readouterr().out.partition("the best first; score: the sampled return")
    assert "greedy return" in said
    scores = [float(x) for x in re.findall(r"seed \d+ +([\d.]+)", said)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 4
    played = [evaluations.read(folder / f"members/{i}")[0]["results"] for i in range(4)]
    means = [np.mean([r["mean"] for n, r in x.items() if "sampled" in n]) for x in played]
    np.testing.assert_allclose(scores, sorted(means, reverse=True), rtol=1e-3)
    assert f"make report RUNS={folder}\n" in said
    assert f"make eval RUN={folder}/members/{np.argmax(means)}\n" in said
    assert report.main([str(folder), "--out", str(tmp_path / "out")]) is None
    for i in range(4):
        saved, meta = restored(folder / "members" / str(i), "learner")
        assert meta["counters"]["env_steps"] == 960 and saved["['step']"] == 48
        content = config_file.load(folder / "members" / str(i))
        assert content["config"]["env_steps"] == 960
        (record,) = content["changes"]
        assert record["fields"]["env_steps"]["after"] == 960
        assert record["env_steps"] == record["fields"]["env_steps"]["before"] < 960
        assert config_file.load(folder)["changes"] == [record]


def test_what_a_sweep_leaves(swept, capfd):
    folder = swept("impala", *DYING)
    with (folder / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["learning-rate"], r["seed"]) for r in rows] == [
        ("1e-3", "0"), ("1e-3", "5"), ("1e30", "0"), ("1e30", "5")
    ]  # fmt: skip
    for i, row in enumerate(rows):
        assert row["member"] == str(i) and row["env_steps"] == "3200"
        assert (row["set_aside_at"] == "") == (i < 2)
        results = folder / "members" / str(i) / "evaluation.json"
        assert results.exists() == (i < 2)
        if i >= 2:
            continue
        played = json.loads(results.read_text())["results"]
        assert len(played) == 4
        for kind, result in played.items():
            assert float(row[f"{kind} return"]) == result["mean"]
            assert 8 <= result["mean"] <= 500
        scores = [result["mean"] for kind, result in played.items() if "sampled" in kind]
        assert row["score"] == "sampled" and float(row["score_return"]) == np.mean(scores)
    words = ["eval", folder / "members/0", "--episodes", 3]
    assert cli.exit_code(lambda: train.main(list(map(str, words)))) == 0
    kinds = evaluations.read(folder / "members/0")[-1]["results"]
    assert len(kinds) == 4 and all(kind["episodes"] == 3 for kind in kinds.values())


def test_a_sweep_is_no_run_and_a_run_no_sweep(swept, tmp_path, monkeypatch, capfd):
    folder = swept("impala")
    for words in (["eval", folder], ["resume", folder]):
        assert cli.exit_code(lambda words=words: train.main(list(map(str, words)))) == 2
        assert f"make sweep RESUME={folder}" in capfd.readouterr().err
    member = f"{folder}/members/0 is a member of a sweep and cannot go on alone: make sweep RESUME"
    assert cli.exit_code(lambda: train.main(["resume", f"{folder}/members/0"])) == 2
    assert member in capfd.readouterr().err
    assert sweep("resume", folder, "--run-dir", tmp_path) == 2
    assert "resume takes no run_dir" in capfd.readouterr().err
    assert sweep("resume", folder / "members/0") == 2
    assert f"{folder}/members/0 is a single run, not a sweep" in capfd.readouterr().err
    assert sweep("resume", tmp_path) == 2
    assert "is missing" in capfd.readouterr().err
    assert sweep("resume") == 2
    assert "resume needs the folder of a sweep" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_memory_is_known_before_the_start(swept, tmp_path, monkeypatch, capfd):
    for algorithm in WORDS:
        on_host, on_devices = NEEDS[swept(algorithm)]
        states, _ = restored(swept(algorithm), "learner")
        assert on_devices >= sum(x.nbytes for x in states.values())
        if algorithm == "r2d2":  # 4000 steps of 4 observations
            assert on_host >= 4 * 4000 * 4 * 4
    monkeypatch.setattr(memory, "free_bytes", lambda: sum(NEEDS[swept("impala")]) // 2)
    folder = tmp_path / "sweep"
    assert sweep("impala", *WORDS["impala"].split(), "--run-dir", folder) == 2
    error = capfd.readouterr().err
    assert "4 members take" in error and "1 would fit" in error and error.count("\n") == 1
    assert not folder.exists()


def test_devices_with_memory_of_their_own():
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 3e9, "bytes_in_use": 1e9}

    text = memory.check_sweep(4, 1_000_000, 3_000_000_000, [Device(), Device()])
    assert "0.00 GB, of" in text and "3.00 GB on the devices, of 4.0 GB free" in text
    with pytest.raises(UserError, match=r"3\.00 GB on the devices, of 2\.0 GB free: 2 would fit"):
        memory.check_sweep(4, 1_000_000, 3_000_000_000, [Device()])


def named(words):
    return [member.name for member in members("ppo", words.split())]


def test_words_of_a_sweep():
    assert named("--seeds 3") == ["seed 0", "seed 1", "seed 2"]
    assert named("--seeds 1") == named("") == ["alone"]
    assert named("--seed 3 7 --clip_eps 0.1 0.2") == [
        "clip-eps 0.1 seed 3", "clip-eps 0.1 seed 7", "clip-eps 0.2 seed 3", "clip-eps 0.2 seed 7"
    ]  # fmt: skip
    assert named("--gae-lambda 0.9 1 --discount 0.9 0.99")[:2] == [
        "gae-lambda 0.9 discount 0.9", "gae-lambda 0.9 discount 0.99"
    ]  # fmt: skip
    both = members("ppo", "--seed=3 7 --observe 0 2 --horizon-seconds=60".split())
    assert [(m.config.seed, m.config.env_options.observe) for m in both] == [
        (3, (0, 2)),
        (7, (0, 2)),
    ]
    assert all(m.config.horizon_seconds == 60 for m in both)
    assert [m.config.env for m in members("ppo", ["--env", "Catch-v0", "CartPole-v1"])] == [
        "Catch-v0", "CartPole-v1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("impala --batch-size 16 32", "batch_size cannot vary within one compiled program, only"),
        ("impala --env Catch-v0 CartPole-v1", "env cannot vary within one compiled program"),
        ("impala --flicker 0 0.5", "flicker cannot vary within one compiled program"),
        ("impala --learning-rate", "--learning-rate needs a value"),
        ("impala --learning-rate --seeds 2", "--learning-rate needs a value"),
        ("impala --seeds 0", "--seeds takes one number, 1 or more"),
        ("impala --seeds 2 3", "--seeds takes one number, 1 or more"),
        ("impala --seeds 2 --seed 7", "--seeds takes one number, 1 or more; --seed, in its place"),
        ("impala --learning-rat 1 2", "the nearest: --learning-rate"),
        ("impala 3 --seeds 2", "'3' stands before any --field"),
        ("impala --learning-rate 1 0", "learning_rate must be positive, not 0"),
        ("ppo --seed 1 1", "two members are the same: 'seed 1' and 'seed 1'"),
        ("ppo --learning-rate 1e-3 0.001", "two members are the same: 'learning-rate 1e-3' and"),
        ("ppo --run-dir --seeds 2", "--run-dir needs a value"),
        ("ppo --minibatches 3", "cannot be split evenly into 3 minibatches"),
        ("ipala --seeds 2", "there is no algorithm 'ipala'; the nearest: impala"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert sweep(*words.split()) == 2
    error = capfd.readouterr().err
    assert sentence in error
    assert error.startswith("rlsys: ") and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_printed_commands_are_the_members(tmp_path, monkeypatch, capfd):
    """Also of members that cannot be one program; none share a folder."""
    sweep_words = "--env Catch-v0 --batch-size 16 32 --learning-rate 1e-4 1e-3 --seeds 2".split()
    assert sweep("impala", *sweep_words, "--print-commands") == 0
    lines = capfd.readouterr().out.splitlines()
    expected = members("impala", sweep_words)
    assert len(lines) == len(expected) == 8
    folders = set()
    for line, member in zip(lines, expected, strict=True):
        words = line.split()
        assert words[1:4] == ["-m", "rlsys.train", "impala"]
        folder, rest = cli.take(words[4:], "--run-dir")
        folders.add(folder)
        assert algorithms.config_of("impala", rest) == member.config
    assert len(folders) == 8
    assert sweep("impala", "--seeds", 2, "--run_dir", "my runs", "--print-commands") == 0
    assert capfd.readouterr().out.splitlines()[1].endswith("--run-dir 'my runs/1'")


def test_the_table_shows_the_best_members(tmp_path):
    found = members("ppo", ["--seeds", "25"])
    logs = [Log(tmp_path / str(i), 100, display=Display(shown=False)) for i in range(25)]
    healths = [Health(member.config) for member in found]
    shown = status.Status(found, logs, healths)
    episodes = [Episode(float(10 * i), 5, 2 * i + 1, "CartPole-v1") for i in range(24)]
    assert [e.task for e in shown.episodes(episodes, 2)] == [f"seed {i}" for i in range(24)]
    shown.died[23] = 7
    text = io.StringIO()
    Console(file=text, width=100).print(shown.table())
    lines = text.getvalue().splitlines()
    assert lines[1].split() == ["seed", "23", "230", "set", "aside", "at", "learner", "step", "7"]
    assert lines[2].split() == ["seed", "22", "220"]
    assert lines[-2].split() == ["seed", "4", "40"]
    assert lines[-1].split() == ["and", "5", "more"] and len(lines) == 1 + status.SHOWN + 1
    for log in logs:
        log.close()


def test_the_table_at_the_end_fits_a_terminal():
    names = [f"learning-rate {rate} seed {i}" for i, rate in enumerate((1e-4, 1e-3, 1e30))]
    rows = [
        {"member": i, "health": "no warnings", "score_return": score}
        | {f"{mode} return": score for mode in ("sampled", "greedy")}
        | {f"{mode} interval_95_{end}": score for mode in ("sampled", "greedy")
           for end in ("low", "high")}
        | {"sampled episodes": 3, "sampled ended": 3 - i}
        for i, score in enumerate((421.25, 487.5))
    ]  # fmt: skip
    rows.append({"member": 2, "health": "policy frozen from 10 steps on", "set_aside_at": 7})
    out = Console(file=io.StringIO(), width=80)
    out.print(ending.table(rows, names, ["sampled", "greedy"]))
    text = out.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    places = [text.index(word) for word in ("487.5 (487.5 to 487.5)", "421.2", "1e+30")]
    assert places == sorted(places) and "…" not in text
    assert len(text.splitlines()) == 5 and ending.best(rows) == 1
    notes = [ending._note(row) for row in rows]
    assert notes[:2] == ["", "sampled: 2 of 3 ended"]
    assert notes[2] == "policy frozen from 10 steps on; set aside at learner step 7"
