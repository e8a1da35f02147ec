"""Runs with drawn physics: what they keep, how they go on, what they refuse; make randomise."""

import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlsys import cli, train
from rlsys.algorithms import ppo
from rlsys.envs import Randomise
from rlsys.envs.randomise.groups import Draw
from rlsys.results.randomise import RandomiseConfig, show
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.physics_file import PhysicsFile
from rlsys.running.ranges_file import read
from tests.test_train import checkpoint, logged, play, start, wait_for

WORDS = (
    "ppo --env InvertedPendulum-v5 --num-envs 8 --unroll-length 10 --refresh-steps 10 --actors 2 "
    "--unrolls-ahead 1 --hidden-size 8 --core-size 0 --head-size 8 --minibatches 2 --epochs 2 "
    "--sequence-length 5 --env-steps 3200 --eval-episodes 4 --no-gif --log-every 400 "
    "--checkpoint-every 800 --randomise.variants 2 --randomise.redraw-steps 40 "
    "--randomise.physics mass=scale:0.5:1.5 gear@slide=logscale:0.4:2"
).split()


def draws(folder):
    return [json.loads(line) for line in (folder / "physics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_and_resumed_equals_never_killed(tmp_path):
    """To the bit: parameters, optimiser, keys, what is logged, and the draws."""
    assert play(*WORDS, "--run-dir", tmp_path / "whole") == 0
    killed = start(*WORDS, "--run-dir", "killed", cwd=tmp_path)
    wait_for((tmp_path / "killed/checkpoints/2").is_dir, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = Checkpoints(tmp_path / "killed/checkpoints").numbers()[-1]
    # As if the run had been killed after a line that the resumed run writes again.
    with (tmp_path / "killed/physics.jsonl").open("a") as file:
        file.write('{"env_steps": 3200, "values": {}}\n{"env_st')
    assert play("resume", tmp_path / "killed") == 0
    (number, trees, meta), again = (checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert before < number == again[0] == 4 and meta == again[2]
    jax.tree.map(np.testing.assert_array_equal, trees, again[1])
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")
    lines = draws(tmp_path / "whole")
    assert lines == draws(tmp_path / "killed")
    # Both groups of both actors: at first, at 3 or more checkpoints, and in between.
    assert len(lines) > 4 * (1 + 3)
    assert {(x["actor"], x["group"]) for x in lines} == {(a, g) for a in (0, 1) for g in (0, 1)}
    assert max(x["draw"] for x in lines) >= 1
    values = [tuple(x["values"].items()) for x in lines]
    assert len(set(values)) == len(values), "a draw came twice"
    for line in lines:
        assert 0.5 <= line["values"]["mass@pole"] <= 1.5 and not line["refused"]
        assert 0.4 <= line["values"]["gear@slide"] <= 2
    of_log = [x.get("randomise/draws", 0) for x in logged(tmp_path / "whole")]
    assert sum(of_log) == len(lines)
    assert all(x["randomise/refused"] == 0 for x in logged(tmp_path / "whole"))


@pytest.mark.slow
def test_one_device_and_four_are_the_same_run(tmp_path):
    """Draws follow from the seed alone."""
    words = [*WORDS, "--env-steps", 400, "--run-dir"]
    assert play(*words, tmp_path / "four") == 0
    one = start(*words, "one", cwd=tmp_path)
    output, _ = one.communicate(timeout=300)
    assert one.returncode == 0, output
    assert "physics: 3 numbers of InvertedPendulum-v5 are drawn, 2 draws at once" in output
    assert draws(tmp_path / "one") == draws(tmp_path / "four")


def test_evaluation_plays_draws_that_stay():
    words = ("mass=scale:0.5:1.5",)
    config = ppo.Config(env="InvertedPendulum-v5", randomise=Randomise(physics=words))
    assert [x.randomise.redraw_steps for x in config.tasks] == [5_000]
    assert [x.randomise.redraw_steps for x in config.eval_tasks] == [0]
    assert config.eval_tasks[0].randomise.physics == words


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["mass=scale:2:1"], "low 2 is above high 1"),
        (["mass=scale:-1:1"], "must stay positive"),
        (["gear=logscale:0:1"], "logarithm"),
        (["mas=scale:1:2"], "the nearest: mass"),
        (["gear@slid=scale:1:2"], "the nearest: slide"),
        (["gravity@y=normal:1"], "does nothing to 'InvertedPendulum-v5'"),
        (["mass=scale:1:2", "--env", "Pong-v5"], "cannot be changed"),
        (["mass=scale:1:2", "--randomise.variants", "3"], "shared evenly by 3 variants"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence(tmp_path, capfd, words, sentence):
    fixed = WORDS[: WORDS.index("--randomise.physics")]
    folder = tmp_path / "run"
    assert play(*fixed, "--run-dir", folder, "--randomise.physics", *words) == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rlsys: ") and sentence in said
    assert not folder.exists()


def test_physics_file(tmp_path):
    file = PhysicsFile(tmp_path)
    assert file.metrics() == {}
    file.add(10, [])
    assert not list(tmp_path.iterdir()) and file.metrics() == {}
    file.add(10, [(0, Draw(1, 0, {"mass": 1.5}, "")), (0, Draw(2, 0, {"mass": 2.0}, "MuJoCo: no"))])
    file.add(20, [(1, Draw(1, 1, {"mass": 1.0}, ""))])
    assert file.metrics() == {"randomise/draws": 2, "randomise/refused": 1}
    assert file.metrics() == {"randomise/draws": 0, "randomise/refused": 0}
    assert draws(tmp_path)[1] == {
        "env_steps": 10, "actor": 0, "group": 2, "draw": 0, "refused": "MuJoCo: no",
        "values": {"mass": 2.0},
    }  # fmt: skip
    file.drop_beyond(10)
    assert [x["env_steps"] for x in draws(tmp_path)] == [10, 10]


def test_a_full_disk_loses_no_draw_and_no_range(tmp_path):
    script = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from rlsys.envs.randomise.adapt import Decision
from rlsys.envs.randomise.groups import Draw
from rlsys.running.physics_file import PhysicsFile
from rlsys.running.ranges_file import read
from rlsys.running.ranges_file import RangesFile

folder = Path(sys.argv[1])
physics, ranges = PhysicsFile(folder), RangesFile(folder)
adaptation = SimpleNamespace(parameters=[SimpleNamespace(name="mass")], numbers=lambda i: (0, 1))

def add(step):
    physics.add(step, [(0, Draw(0, step, {"mass": 1.5}, ""))])
    ranges.add(step, adaptation, [Decision((0, "high"), 0.5, 8.0, 4)])
    return physics.error, ranges.error

assert add(1) == (None, None)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, -1))
errors = [add(step) for step in range(4, 20)]
assert all(errors[-1])
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
assert add(40) == (None, None)
"""
    command = [sys.executable, "-c", script, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    for found in (draws(tmp_path), read(tmp_path)):
        assert [line["env_steps"] for line in found] == [1, *range(4, 20), 40]


@pytest.mark.slow
def test_a_run_goes_on_that_cannot_write_its_draws(tmp_path, capfd):
    (tmp_path / "run/physics.jsonl").mkdir(parents=True)
    assert play(*WORDS, "--run-dir", tmp_path / "run") == 0
    said = capfd.readouterr().out
    assert said.count("Could not write the draws or ranges of physics, which are kept") == 1


def test_show_says_what_is_drawn_and_what_it_does():
    words = ("gear=scale:0.5:2", "friction@floor=scale:0.9:1.1", "gravity=normal:0.4")
    config = RandomiseConfig(Randomise(physics=words), draws=3, steps=60)
    lines = show("Hopper-v5", config)
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert lines[0] == "Hopper-v5: 7 numbers are drawn"
    assert rows["gear@actuator0"][1:4] == ["200", "x", "U[0.5,"]
    values = [float(x) for x in rows["gear@actuator0"][-3:]]
    assert all(100 <= x <= 400 for x in values) and len(set(values)) == 3
    assert rows["gravity@z"][1] == "-9.81"
    low, high = (
        next(x for x in lines if x.startswith(f"gear=scale:0.5:2 {y}")) for y in ("low", "high")
    )
    assert low.split()[2:4] != high.split()[2:4]
    assert [x for x in lines if x.startswith("friction@floor") and "nothing changes" in x]


def test_show_says_where_a_simulation_explodes():
    words = Randomise(physics=("gear=scale:1:40",))
    lines = show("HalfCheetah-v5", RandomiseConfig(randomise=words, draws=0))
    (high,) = [x for x in lines if x.startswith("gear=scale:1:40 high")]
    assert high.endswith("refused: a number is not finite, or above 1e8")


def test_show_from_the_command_line(capfd):
    assert cli.exit_code(lambda: train.main("randomise InvertedPendulum-v5 --draws 1".split())) == 0
    said = capfd.readouterr().out
    assert "mass@pole" in said and "x U[0.5, 1.5]" in said
    assert "the task has nothing for size@object,cube" in said
    assert cli.exit_code(lambda: train.main(["randomise"])) == 2
    assert cli.exit_code(lambda: train.main(["randomise", "Pong-v5"])) == 2
    assert "cannot be changed" in capfd.readouterr().err
