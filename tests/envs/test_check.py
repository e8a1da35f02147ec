"""The checker: every back-end passes; what the command prints, and its exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax_fakes import ECHOES as JAX_ACTIONS

from rlsys import cli
from rlsys.envs import Options, check, read_tasks, rules
from rlsys.envs import make as make_task

ROOT = Path(__file__).parents[2]
STEPS = 60
TASKS = [
    "CartPole-v1:max_episode_steps=20",
    "Maze-v0",
    "Pendulum-v1",
    "Pong-v5",
    "Taxi-v3",
    "Catch-v0:flicker=0.5",
    "gymnasium/CartPole-v1:observe=0,2",
    "gymnasium/Pendulum-v1:max_episode_steps=9",
    "gymnasium/FrozenLake-v1",
    "gymnasium/gymnasium_fakes:Masked-v0",
    "gymnasium/gymnasium_fakes:MaskedUnequal-v0",
    "gymnasium/gymnasium_fakes:ClockEndsAtLimit-v0",
    "gymnasium/gymnasium_fakes:SeeNested-v0:only_first=true",
    "gymnasium/experiments.own_gymnasium_env:Corridor-v0",
    "jax/jax_fakes:masked",
    "jax/jax_fakes:own:flicker=0.5",
    *(f"jax/jax_fakes:echo_{name}" for name in JAX_ACTIONS),
    *(f"jax/jax_library_fakes:{name}" for name in ("brax", "gymnax", "gymnax_pair", "jaxmarl")),
    "jax/experiments.own_jax_env:Reach:permute=3",
]


NUMBERS = [t for t in TASKS if any(w in t for w in ("Pendulum", "See", "box", "brax", "Reach"))]


@pytest.mark.parametrize(
    "words, continuous",
    [
        *(pytest.param(t, False, marks=pytest.mark.slow if t == "Pong-v5" else ()) for t in TASKS),
        *((t, True) for t in NUMBERS),
    ],
)
def test_every_back_end_keeps_the_rules(words, continuous):
    (task,) = read_tasks(words, Options())
    task = task._replace(continuous=continuous)
    found = check.check(lambda seed: make_task(task, 3, seed), STEPS)
    assert [x.rule for x in found] == list(rules.RULES)
    assert [x for x in found if x.kept is False] == []
    assert not continuous or "action Box" in found[0].found
    assert sum(x.kept is True for x in found) >= 6


def command(*words):
    result = subprocess.run(
        [sys.executable, "-m", "rlsys.envs.check", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/envs")])},
    )
    return result.returncode, result.stdout, result.stderr


def test_the_command_prints_a_line_for_each_check():
    code, output, errors = command(
        "gymnasium/gymnasium_fakes:ClockLimit-v0:clip_rewards=true", "--num-envs", "2", "--steps=30"
    )
    lines = output.splitlines()
    assert (code, errors) == (0, "")
    assert lines[0].endswith("clip_rewards=true, 2 environments, 30 steps each")
    assert [line.split(":")[0].split()[0] for line in lines[1:]].count("ok") == len(rules.RULES) - 1
    assert "  unseen  an action is always legal: every action is legal" in lines
    assert "14 time-outs" in output


def test_exit_codes(capsys, monkeypatch):
    def run(env, **more):
        words = [env, *(f"--{name}={value}" for name, value in ({"steps": 40} | more).items())]
        monkeypatch.setattr(sys, "argv", ["", *filter(None, words)])
        with pytest.raises(SystemExit) as end:
            cli.run(check.main, check.Config(), check.__doc__)
        return end.value.code or 0, capsys.readouterr()

    assert run("CartPole-v1,jax/jax_fakes:own")[0] == 0
    code, printed = run("gymnasium/gymnasium_fakes:Unseeded-v0")
    assert code == 1 and "  FAILED  the same seed plays the same: " in printed.out
    code, printed = run("gymnasium/gymnasium_fakes:Unseeded-v0,CartPole-v1")
    assert code == 1
    for words, message in (
        ("CartPol-v1", "unknown task 'CartPol-v1'"),
        ("CartPole-v1:permut=1", "there is no option 'permut'"),
        ("gymnasium/gymnasium_fakes:Failing_init-v0", "OSError: no such simulator"),
        ("gymnasium/gymnasium_fakes:Failing_step-v0", "failed in step: ZeroDivisionError"),
        ("CartPole-v1:observe=7", "has 4 entries"),
        ("", "which task?"),
    ):
        code, printed = run(words)
        assert code == 2 and printed.err.startswith("rlsys: ") and message in printed.err
        assert printed.err.count("\n") == 1
    assert run("CartPole-v1", steps=0)[0] == 2
    assert run("CartPole-v1", num_envs=0)[0] == 2
    for words, message in (({"step": 3}, "nearest: --steps"), ({"steps": "x"}, "whole number")):
        code, printed = run("CartPole-v1", **words)
        assert code == 2 and message in printed.err and printed.err.count("\n") == 1


def test_options_that_part_the_learners_rewards_from_the_raw_ones_are_left_out():
    """Else episodes' returns could not be compared with the rewards that are seen."""
    (task,) = read_tasks("Pong-v5:life_loss_ends=true:clip_rewards=true:noop_max=3", Options())
    assert check.raw(task) == task._replace(options=Options(noop_max=3))
