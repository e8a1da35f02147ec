"""The words that a person types: numbers, flags, names, help, and what make does with them."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_install import ROOT, checkout, make  # noqa: F401

from rlsys import __main__ as command
from rlsys import algorithms, cli, train
from rlsys.results import report
from rlsys.sweep import __main__ as sweep
from rlsys.sweep.members import members
from rlsys.types import UserError

TINY = (
    "--num-envs 64 --unroll-length 8 --refresh-steps 8 --env-steps 1024 --eval-episodes 2 "
    "--hidden-size 16 --head-size 8 --log-every 512"
).split()


def config(words: str, algorithm: str = "ppo"):
    return algorithms.config_of(algorithm, words.split(), on_cpu=False)


def run(main, words: str) -> int:
    return cli.exit_code(lambda: main(words.split()))


@pytest.mark.parametrize("number", ["1e6", "1E6", "1_000_000", "1,000,000", "1000000", "10.0e5"])
def test_a_whole_number_may_be_written_in_any_way(number):
    steps = config(f"--env-steps {number}").env_steps
    assert steps == 1_000_000 and type(steps) is int


def test_numbers_are_read_exactly_and_wherever_they_stand():
    assert config(f"--seed {2**62 + 1}").seed == 2**62 + 1
    assert config("--max-episode-steps 1e3").env_options.max_episode_steps == 1000
    assert config("--observe 0 2").env_options.observe == (0, 2)
    assert config("--observe 0,2").env_options.observe == (0, 2)
    assert config("--learning-rate=1e-2").learning_rate == 0.01


@pytest.mark.parametrize("number", ["1.5", "1e-3", "many", "nan", "inf", "--1", "", "0,2", "1,00"])
def test_what_is_no_whole_number_is_refused_by_its_flag(number):
    with pytest.raises(UserError, match=r"^--env-steps: it must be a whole number"):
        algorithms.config_of("ppo", [f"--env-steps={number}"])


@pytest.mark.parametrize(
    ("words", "popart", "orthogonal"),
    [
        ("", True, False),
        ("--popart --orthogonal", True, True),
        ("--orthogonal --popart", True, True),
        ("--no-popart", False, False),
        ("--no_popart --orthogonal true", False, True),
        ("--popart false --orthogonal TRUE", False, True),
        ("--popart False", False, False),
        ("--popart=false --orthogonal=True", False, True),
        ("--popart --seed 3", True, False),
    ],
)
def test_flags_that_are_true_or_false(words, popart, orthogonal):
    found = config(words)
    assert (found.popart, found.orthogonal) == (popart, orthogonal)


def test_a_sweep_takes_the_same_flags():
    found = members("ppo", "--no-popart --orthogonal --env-steps 1e6 2e6 --seeds 2".split())
    assert len(found) == 4
    assert all(not m.config.popart and m.config.orthogonal for m in found)
    assert {m.config.env_steps for m in found} == {1_000_000, 2_000_000}
    found = members("ppo", "--popart true False".split())
    assert [m.config.popart for m in found] == [True, False]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--popart maybe", "--popart: it must be true or false, not 'maybe'"),
        ("--core-size 1.5", "--core-size: it must be a whole number, not '1.5'"),
        ("--learning-rate abc", "--learning-rate: it must be a number, not 'abc'"),
        ("--learning-rate", "--learning-rate needs a value"),
        ("--learning-rate 1 2", "no field takes 2"),
        ("--observe x", "--observe: "),
        ("--learning-rate -inf", "learning_rate must be finite, not -inf"),
        ("--learning-rate 1e400", "learning_rate must be finite, not inf"),
        ("--value-cost nan", "value_cost must be finite, not nan"),
        ("--horizon-seconds inf", "horizon_seconds must be finite, not inf"),
        ("--env-steps 1e400", "env_steps must lie within 2^53"),
        ("--num-envs 1e15", "this does not fit the memory"),
        ("--seed -1", "seed must be 0 or more, not -1"),
        ("--value-cost -5", "value_cost must be 0 or more, not -5.0"),
        ("--no-popart --popart-floor 5", "popart_floor is for popart, which is off"),
        ("--preset --num-envs 8", "--preset needs a value"),
    ],
)
@pytest.mark.parametrize("columns", ["40", "200"])
def test_a_wrong_value_is_refused_in_one_sentence(words, said, columns, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(train.main, f"ppo {words}") == 2
    error = capfd.readouterr().err
    assert error.startswith(f"rlsys: {said}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "value"),
    [(["--out", "x", "--out=y"], "y"), (["--out="], ""), (["a"], None), (["--out", ""], "")],
)
def test_a_flag_is_taken_with_its_value(words, value):
    assert cli.take(words, "--out") == (value, [w for w in words if w == "a"])


@pytest.mark.parametrize("words", [["--out"], ["--out", "--all-fields"]])
def test_a_flag_does_not_take_another_for_its_value(words):
    with pytest.raises(UserError, match="--out needs a value"):
        cli.take(words, "--out")


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("--lr 1", "--learning-rate"),
        ("-lr 1", "--learning-rate"),
        ("--gamma 1", "--discount"),
        ("--total_timesteps 1", "--env-steps"),
        ("--n-envs 1", "--num-envs"),
        ("--no-popar", "--popart"),
        ("--presets atari", "--preset"),
        ("--learning-rat 1", "--learning-rate"),
    ],
)
def test_the_nearest_field_is_named(words, nearest, capfd):
    assert run(train.main, f"ppo {words}") == 2
    error = capfd.readouterr().err
    assert f"the nearest: {nearest}" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("main", "words", "begins", "flags"),
    [
        (train.main, "ppo --help", "rlsys train ppo", "preset coordinator num-processes clip-eps"),
        (train.main, "r2d2 -h", "rlsys train r2d2", "preset process-id burn-in env"),
        (train.main, "eval --help", "rlsys eval RUN", "episodes seed gif"),
        (train.main, "resume --help", "rlsys resume RUN", "coordinator env-steps"),
        (train.main, "export --help --out x.zip", "rlsys export RUN", "out task"),
        (sweep.main, "ppo --help", "rlsys sweep ppo", "seeds print-commands preset env-steps"),
        (command.main, "plan ppo --help", "rlsys plan ppo", "machine preset env-steps"),
        (command.main, "eval --help", "rlsys eval RUN", "episodes"),
        (command.main, "match --help", "rlsys match RUN RUN", "episodes mode seed out"),
        (command.main, "ratings --help", "rlsys ratings RUN", "games selves mode seed"),
        (command.main, "play --help", "rlsys play RUN", "mode seed"),
        (command.main, "exploit --help", "rlsys exploit RUN", "env-steps run-dir"),
    ],
)
def test_help_says_what_the_command_does_and_lists_every_flag(main, words, begins, flags, capfd):
    with pytest.raises(SystemExit) as exit_info:
        main(words.split())
    assert exit_info.value.code == 0
    usage, _, about, *lines = capfd.readouterr().out.splitlines()
    assert usage.startswith(f"usage: {begins} ")
    assert about.split()[0] in (
        "Trains", "Plays", "Goes", "Writes", "Predicts", "Rates", "Has",
    )  # fmt: skip
    for flag in flags.split():
        assert any(line.startswith(f"│ --{flag} ") for line in lines), flag


def test_the_command_rlsys(capfd):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"rlsys": "rlsys.__main__:start"} and callable(command.start)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "rlsys"], env=env, capture_output=True, text=True, check=True
    )
    assert all(f"\nrlsys {name} " in done.stdout for name in command.MODULES)
    assert run(command.main, "tasks classic_control") == 0
    assert "CartPole-v1\n" in capfd.readouterr().out
    with pytest.raises(SystemExit):  # as make gives it
        command.main(["eval", "", "--help"])
    for words, said in (
        ("trian", "there is no command 'trian'; the nearest: train"),
        ("ppo --seed 3", "ppo is an algorithm: rlsys train ppo"),
        ("train r2d3", "there is no algorithm 'r2d3'; the nearest: r2d2"),
        ("eval", "eval needs the folder of a run"),
        ("tasks atary", "the nearest: atari"),
    ):
        assert run(command.main, words) == 2
        assert said in capfd.readouterr().err


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three folders, of which the one that was begun last is neither first nor last by name."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("ppo-b", "sweep", "ppo-a", "report")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        if name != "report":
            (folder / "config.json").write_text("{}")
            os.utime(folder / "config.json", (1000 + i, 1000 + i))
    (tmp_path / "runs/sweep/members").mkdir()
    os.utime(tmp_path / "runs/ppo-b/config.json", (2000, 2000))
    return tmp_path


def test_a_run_is_found_by_latest_and_by_pattern(runs, capfd):
    assert cli.run_folder("latest", sweep=False) == "runs/ppo-b"
    assert cli.run_folder("latest", sweep=True) == "runs/sweep"
    assert cli.run_folder("runs/ppo-*") == "runs/ppo-b"
    assert cli.run_folder("runs/*-a") == "runs/ppo-a"
    assert capfd.readouterr().out.splitlines()[0] == "latest is runs/ppo-b"
    assert cli.run_folder("runs/ppo-a") == "runs/ppo-a"
    assert cli.run_folder("nowhere") == "nowhere"
    for main, words in ((train.main, "eval runs/impala-*"), (sweep.main, "resume runs/ppo-*")):
        assert run(main, words) == 2
        error = capfd.readouterr().err
        assert "that fits 'runs/" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_run_tells_its_tasks_options_wherever_it_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(lambda: train.main(["ppo", *TINY, "--observe", "0", "2"])) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("ppo-CartPole-v1-observe-0-2-")
    assert run(train.main, "eval latest --episodes 2 --no-gif") == 0
    assert f"latest is {folder}" in capfd.readouterr().out
    assert run(report.main, "latest --out compared") == 0
    assert "| CartPole-v1:observe=0,2 | ppo |" in Path("compared/report.md").read_text()
    for words in ("--episodes -3", "--episodes 0"):
        assert run(train.main, f"eval runs/ppo-* {words}") == 2
        assert f"episodes must be 1 or more, not {words[11:]}" in capfd.readouterr().err


@pytest.mark.parametrize("name", algorithms.NAMES)
def test_a_config_without_words_is_what_the_command_line_trains(name):
    algorithm = algorithms.find(name)
    assert algorithm.Config() == algorithms.config_of(name, [])


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("impala", marks=pytest.mark.slow)])
def test_tasks_that_do_not_go_together_name_the_real_mismatch(algorithm, tmp_path, capfd):
    words = f"{algorithm} --env Pong-v5,CartPole-v1 --num-envs 32 --run-dir {tmp_path / 'run'}"
    assert run(train.main, words) == 2
    error = capfd.readouterr().err
    assert "observations are uint8 [84, 84, 1] against float32 [4]" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "algo=ppo"], "there is no word algo= for make train, only ALGO= ENV= ARGS="),
        (["train", "ALGO=ppo", "Env=Pong-v5"], "there is no word Env="),
        # A word of another target would be ignored.
        (["train", "RUN=runs/x"], "there is no word RUN= for make train, only ALGO= ENV= ARGS="),
        (["sweep", "RUN=runs/x"], "no word RUN= for make sweep, only ALGO= ENV= ARGS= RESUME="),
        (["sweep", "RESUME=runs/x", "ENV=Pong-v5"], "no word ENV= for make sweep, only ARGS="),
        (["resume", "RUN=runs/x", "ENV=Pong-v5"], "no word ENV= for make resume, only RUN= ARGS="),
        (["export", "OUTT=x.zip"], "for make export, only RUN= ARGS= OUT= PYTHON= EXTRA=; fields"),
        (["test", "ARGS=-x"], "there is no word ARGS= for make test, only PYTHON= EXTRA=."),
        (["ALGO=ppo"], "there is no word ALGO= for make help, only PYTHON= EXTRA=."),
        (["train", "ppo"], "there is no target ppo"),
        (["train", "ALGO=pppo"], "there is no algorithm ALGO=pppo, only apex impala ppo r2d2"),
        ([".venv", "EXTRA=cudda"], "there is no EXTRA=cudda, only dev, cuda, tpu and teams"),
        (["train", "EXTRA=dev,gpu"], "there is no EXTRA=gpu"),
        (["eval"], "which run? make eval RUN=runs/<name>, or RUN=latest"),
        (["resume", "ARGS=--seed 3"], "which run? make resume RUN="),
        (["play"], "which run? make play RUN="),
        (["exploit"], "which run? make exploit RUN="),
        (["ratings", "RUN=runs/none"], "there is no run runs/none"),
        (["match", "RUN=runs/none"], "which two runs? make match RUN="),
    ],
)
def test_make_refuses_before_it_installs(words, said, checkout):  # noqa: F811
    folder = checkout / "rlsys/algorithms"
    folder.mkdir(parents=True)
    for path in (ROOT / "rlsys/algorithms").glob("*.py"):
        (folder / path.name).touch()
    done = make(checkout, *words, "PYTHON=no-such-python")
    assert done.returncode == 2 and said in done.stderr
    assert done.stdout == "" and not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["train", "ALGO=ppo", "ARGS=--learning-rate=1e-3 --seed=1"],
            "rlsys.train ppo --learning-rate=1e-3 --seed=1",
        ),
        (["train", "ALGO=my.own"], "rlsys.train my.own"),
        (["eval", "RUN=runs/ppo-*"], 'rlsys.train eval "runs/ppo-*"'),
        (["eval", "ARGS=--help"], 'rlsys.train eval "" --help'),
        (["eval", "RUN=", "ARGS=--help"], 'rlsys.train eval "" --help'),
        (["match", "RUN=runs/* random"], 'rlsys.train match "runs/*" "random"'),
        (["match", "ARGS=--help"], "rlsys.train match --help"),
        (["play", "RUN=runs/ppo-1"], 'rlsys.train play "runs/ppo-1"'),
        (
            ["exploit", "RUN=runs/ppo-1", "ARGS=--env-steps 1e6"],
            'rlsys.train exploit "runs/ppo-1" --env-steps 1e6',
        ),
        (
            ["ratings", "RUN=runs/ppo-1", "ARGS=--games 4"],
            'rlsys.train ratings "runs/ppo-1" --games 4',
        ),
        (["sweep", "RESUME=runs/ppo-1"], 'rlsys.sweep resume "runs/ppo-1"'),
        (["export", "RUN=runs/ppo-1"], 'rlsys.train export "runs/ppo-1" --out "policy.zip"'),
        (["lint", "report", "RUNS=runs/ppo-1"], "rlsys.results.report runs/ppo-1"),
        (["tasks", "FAMILY=atari"], "rlsys tasks atari"),
        (["tasks"], "rlsys tasks"),
    ],
)
def test_make_takes_all_that_is_right(words, line, checkout):  # noqa: F811
    for path in ("rlsys/algorithms/ppo.py", "rlsys/algorithms/r2d2.py", "my/own.py"):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).touch()
    (checkout / "runs/ppo-1").mkdir(parents=True)
    done = make(checkout, "-n", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == f".venv/bin/python -m {line}".split()


def test_make_test_says_how_long_it_takes():
    assert "less than ten minutes" in make(ROOT, "-n", "test").stdout


def test_a_finished_config_is_json(tmp_path):
    """A whole number that was written as 1e3 is kept as a whole number."""
    words = ["ppo", *TINY, "--checkpoint-every", "1e3", "--run-dir", str(tmp_path / "run")]
    assert cli.exit_code(lambda: train.main(words)) == 0
    saved = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert saved["checkpoint_every"] == 1000 and type(saved["checkpoint_every"]) is int


def test_a_device_without_memory_is_a_sentence(capsys):
    """XLA says so from any thread and at any moment of a run."""

    def fill():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes.")

    assert cli.exit_code(fill) == 2
    said = capsys.readouterr().err
    assert said.startswith("rlsys: this does not fit the device's memory: RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("utf-8", marks=pytest.mark.slow)])
def test_a_wrong_value_is_a_sentence_in_any_encoding(encoding):
    command = [sys.executable, "-m", "experiments.atari", "--seeds=x"]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert result.returncode == 2
    assert result.stderr == "rlsys: --seeds: it must be a whole number, not 'x'.\n"
