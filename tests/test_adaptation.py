"""Runs whose ranges widen: what is kept, how they go on, where they are tested, what is refused."""

import dataclasses
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from rlsys import cli, train
from rlsys.algorithms import ppo
from rlsys.envs import NOTHING, Randomise
from rlsys.envs.randomise.effects import OFF
from rlsys.results import ranges, report
from rlsys.results.domains import held_out
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.ranges_file import read
from rlsys.sweep.members import check_together
from rlsys.types import UserError
from tests.test_hosts import finish, train_two
from tests.test_randomise import WORDS as DRAWN
from tests.test_randomise import draws
from tests.test_train import checkpoint, logged, play, start, wait_for

ADAPT = (
    "--randomise.adapt True --randomise.adapt-threshold-high 8 --randomise.adapt-threshold-low 6 "
    "--randomise.adapt-episodes 4 --randomise.adapt-step 0.1"
).split()
WORDS = [*DRAWN, *ADAPT]
METRICS = {f"randomise/{x}" for x in ("entropy", "width", "boundary_episodes", "boundary_return")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of four checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert play(*WORDS, "--run-dir", folder) == 0
    return folder


def test_ranges_are_kept_and_logged(run):
    lines, log = read(run), logged(run)
    first, rest = lines[:3], lines[3:]
    assert [x["parameter"] for x in first] == ["mass@cart", "mass@pole", "gear@slide"]
    assert all(x["low"] == x["high"] == pytest.approx(1) for x in first)
    assert first[2]["whole"] == pytest.approx([0.4, 2.0]) and first[2]["how"] == "logscale"
    assert len(rest) > 3 and {x["side"] for x in rest} <= {"low", "high"}
    for x in rest:
        assert x["episodes"] >= 4 and x["low"] <= 1.0000001 and x["high"] >= 0.9999999
    _, _, meta = checkpoint(run)
    shares, last = meta["ranges"]["shares"], ranges.by_parameter(lines)
    for (low, high), name in zip(shares[:2], ("mass@cart", "mass@pole"), strict=True):
        assert last[name][-1]["low"] == pytest.approx(0.5 + low)
        assert last[name][-1]["high"] == pytest.approx(0.5 + high)
    assert set(log[-1]) >= METRICS and log[-1]["randomise/width"] > 0
    assert log[-1]["randomise/width"] == pytest.approx(np.mean([b - a for a, b in shares]))
    assert sum(x["randomise/boundary_episodes"] for x in log) >= sum(x["episodes"] for x in rest)
    for x in draws(run):  # what is drawn lies within what was reached in the end, or before
        assert 0.5 <= x["values"]["mass@pole"] <= 1.5 and 0.4 <= x["values"]["gear@slide"] <= 2
    at_start = [x["values"] for x in draws(run)[:4]]
    assert all(value == pytest.approx(1) for x in at_start for value in x.values())


def test_the_picture_and_its_link(run, tmp_path):
    assert Image.open(run / ranges.NAME).size > (400, 200)
    path = report.write([str(run)], tmp_path / "report")
    assert ranges.NAME in path.read_text()


def test_transfer_plays_what_was_reached_and_the_whole(run):
    words = ranges.reached(run)
    assert [x.partition("=")[0] for x in words] == ["mass@cart", "mass@pole", "gear@slide"]
    given = Randomise(
        physics=("gear=logscale:0.4:2",), adapt=True, adapt_threshold_high=1, adapt_threshold_low=0
    )
    found = {x.kind: x.randomise for x in held_out(given, OFF, counted=False, reached=words)}
    assert found["trained"].physics == words and not found["trained"].adapt
    assert found["whole"] == dataclasses.replace(given, adapt=False)
    assert found["nominal"] == NOTHING
    plain = dataclasses.replace(given, adapt=False)
    kinds = [x.kind for x in held_out(plain, OFF, counted=False)]
    assert "whole" not in kinds and kinds[0] == "trained"


@pytest.mark.slow
def test_transfer_from_the_command_line(run, capfd):
    assert cli.exit_code(lambda: train.main(["transfer", str(run), "--episodes", "4"])) == 0
    said = capfd.readouterr().out
    assert "as at the end of training" in said and "the whole ranges" in said


def test_evaluation_plays_the_whole_ranges():
    given = Randomise(
        physics=("mass=scale:0.5:1.5",),
        adapt=True,
        adapt_threshold_high=1.0,
        adapt_threshold_low=0.0,
    )
    config = ppo.Config(env="InvertedPendulum-v5", randomise=given)
    assert config.tasks[0].randomise.adapt and not config.eval_tasks[0].randomise.adapt
    assert config.eval_tasks[0].randomise.physics == given.physics
    with pytest.raises(UserError, match="for a run alone"):
        check_together([config, dataclasses.replace(config, seed=1)])
    with pytest.raises(UserError, match="of one task, and 2 tasks"):
        dataclasses.replace(config, env="InvertedPendulum-v5,Hopper-v5", actors=2)


@pytest.mark.slow
def test_off_nothing_is_kept(tmp_path):
    assert play(*DRAWN, "--env-steps", 400, "--run-dir", tmp_path / "run") == 0
    assert not list((tmp_path / "run").glob("ranges*"))
    assert not METRICS & set(logged(tmp_path / "run")[-1])
    assert "ranges" not in checkpoint(tmp_path / "run")[2]


@pytest.mark.slow
def test_killed_and_resumed_equals_never_killed(run, tmp_path):
    """To the bit: parameters, optimiser, keys, what is logged, the draws and the ranges."""
    killed = start(*WORDS, "--run-dir", "killed", cwd=tmp_path)
    wait_for((tmp_path / "killed/checkpoints/2").is_dir, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    # As if the run had been killed after a line that the resumed run writes again.
    with (tmp_path / "killed/ranges.jsonl").open("a") as file:
        file.write('{"env_steps": 3200, "parameter": "mass@pole"}\n{"env_st')
    assert play("resume", tmp_path / "killed") == 0
    whole, again = checkpoint(run), checkpoint(tmp_path / "killed")
    assert whole[0] == again[0] == 4 and whole[2] == again[2]
    jax.tree.map(np.testing.assert_array_equal, whole[1], again[1])
    assert logged(run) == logged(tmp_path / "killed")
    assert draws(run) == draws(tmp_path / "killed")
    assert read(run) == read(tmp_path / "killed")
    resumed_from = max(x["env_steps"] for x in read(run) if x["env_steps"] <= 1600)
    assert any(x["env_steps"] > resumed_from for x in read(run)), "ranges moved after the kill"


@pytest.mark.slow
def test_one_device_and_four_have_the_same_ranges(run, tmp_path):
    """Ranges follow from returns, which differ by no more than rounding of the parameters."""
    words = [*WORDS, "--env-steps", 400, "--run-dir"]
    assert play(*words, tmp_path / "four") == 0
    one = start(*words, "one", cwd=tmp_path)
    output, _ = one.communicate(timeout=300)
    assert one.returncode == 0, output
    assert "ranges begin as points" in output
    assert draws(tmp_path / "one") == draws(tmp_path / "four")
    assert read(tmp_path / "one") == read(tmp_path / "four")


@pytest.mark.slow
def test_a_signal_leaves_ranges_as_the_checkpoint_has_them(tmp_path):
    """What is dropped, as the run stops, decides nothing."""
    stopped = start(*WORDS, "--env-steps", 10**7, "--run-dir", "run", cwd=tmp_path)
    wait_for((tmp_path / "run/checkpoints/3").is_dir, stopped)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate(timeout=100)
    shares = checkpoint(tmp_path / "run")[2]["ranges"]["shares"]
    last = [x[-1] for x in ranges.by_parameter(read(tmp_path / "run")).values()]
    assert [x["low"] for x in last[:2]] == pytest.approx([0.5 + low for low, _ in shares[:2]])
    assert [x["high"] for x in last[:2]] == pytest.approx([0.5 + high for _, high in shares[:2]])


@pytest.mark.slow
def test_a_run_may_begin_to_adapt_when_it_goes_on_and_samples_may_be_learned_from(tmp_path):
    words = "--env-steps 400 --learning-starts 100 --replay-capacity 800 --unrolls-ahead 0".split()
    ppo_only = ("--minibatches", "--epochs", "--sequence-length")
    drawn = [x for i, x in enumerate(DRAWN) if x not in ppo_only and DRAWN[i - 1] not in ppo_only]
    assert play("apex", *drawn[1:], *words, "--run-dir", tmp_path / "run") == 0
    assert read(tmp_path / "run") == []
    easy = "--randomise.adapt-threshold-high 3 --randomise.adapt-threshold-low 2".split()
    assert play("resume", tmp_path / "run", "--env-steps", 2400, *ADAPT, *easy) == 0
    lines, meta = read(tmp_path / "run"), checkpoint(tmp_path / "run")[2]
    assert [x["env_steps"] for x in lines[:3]] == [400] * 3 and len(lines) > 3
    assert any(low < high for low, high in meta["ranges"]["shares"])


@pytest.mark.slow
def test_two_processes_widen_ranges_as_one_does(run, tmp_path):
    words = ["--env-steps", 1600, "--run-dir", "two", "--actors", 1]
    said, codes = finish(train_two(*WORDS, *words, cwd=tmp_path))
    assert codes == [0, 0], said
    until = [x for x in read(run) if x["env_steps"] <= 1600]
    assert read(tmp_path / "two") == until and len(until) > 4
    metas = [
        Checkpoints(tmp_path / "two/checkpoints" / part).meta(2)["ranges"]
        for part in ("", "process-1")
    ]
    assert metas[0] == metas[1]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--randomise.adapt-threshold-low", "9"], "must not be above adapt_threshold_high 8"),
        (["--randomise.physics", "none"], "none are drawn"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(tmp_path, capfd, words, sentence):
    assert play(*WORDS, "--run-dir", tmp_path / "run", *words) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rlsys: ") and sentence in said
    assert not (tmp_path / "run").exists()


def test_resumed_with_other_words_ends_with_2(run, tmp_path, capfd):
    shutil.copytree(run, tmp_path / "run")
    words = ["--env-steps", 6400, "--randomise.physics", "mass=scale:0.5:2"]
    assert play("resume", tmp_path / "run", *words) == 2
    assert "ranges were adapted for mass@cart" in capfd.readouterr().err
