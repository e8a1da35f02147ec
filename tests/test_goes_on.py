"""Runs that go on: with other fields, beside another process, after signals."""

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rlsys.algorithms import ppo
from rlsys.envs import Options
from rlsys.running import changes, provenance, run
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.lock import Lock
from rlsys.types import UserError
from tests.test_train import REPLAYS, command, logged, metrics, play, start, wait_for

PPO = (
    "ppo --env Catch-v0 --num-envs 8 --actors 1 --unrolls-ahead 0 --hidden-size 8 --head-size 8 "
    "--core-size 0 --unroll-length 10 --refresh-steps 10 --eval-episodes 4 --log-every 80 "
    "--checkpoint-every 240 --env-steps 960 --learning-rate 1e-3"
).split()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def stop_at(monkeypatch, env_steps, number=signal.SIGTERM):
    """The next run is stopped by a signal after so many environment steps."""
    due = run.Run.due

    def stopping(self):
        if self.env_steps == env_steps:
            signal.raise_signal(number)
        return due(self)

    monkeypatch.setattr(run.Run, "due", stopping)


def stopped(folder, words, env_steps):
    """A run that a signal stopped."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, env_steps)
        assert play(*words, "--run-dir", folder) == 3
    return folder


@pytest.fixture
def half(tmp_path, capfd):
    """A run of PPO that was stopped in the middle."""
    folder = stopped(tmp_path / "half", PPO, 480)
    capfd.readouterr()
    return folder


@pytest.mark.slow
def test_fewer_epochs_go_on_learning(half, capfd):
    before = config_of(half)
    assert "changes" not in before
    assert play("resume", half, "--epochs", 2) == 0
    output = capfd.readouterr().out
    assert "from environment step 480 on: epochs 2 (was 4)" in output
    lines = [line for line in metrics(half) if line["env_steps"] > 480]
    assert len(lines) == 6 and all(line["kl"] > 0 for line in lines)
    assert all(0 < line["learning_rate"] < 0.501e-3 for line in lines)
    assert all(line["sample_reuse"] == 2 for line in lines)  # of what came since
    after = config_of(half)
    fields = {"epochs": {"before": 4, "after": 2}}
    assert after.pop("changes") == [{"env_steps": 480, "learner_steps": 96, "fields": fields}]
    assert after["config"] == before["config"] | {"epochs": 2}


@pytest.mark.slow
def test_a_longer_run_says_where_the_learning_rate_goes(half, capfd):
    assert play("resume", half, "--env-steps", 1920) == 0
    output = capfd.readouterr().out
    assert "env_steps 1920 (was 960); the learning rate goes from 0.0005 to 0.00075" in output
    rates = [line["learning_rate"] for line in metrics(half) if line["env_steps"] > 480]
    assert rates == sorted(rates, reverse=True) and rates[0] > 0.7e-3 and 0 < rates[-1] < 1e-4


@pytest.mark.slow
def test_changes_made_twice_and_after_a_kill_are_all_recorded(half):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "save", broken)  # before the next checkpoint
        assert play("resume", half, "--epochs", 2) == 1
    assert play("resume", half, "--epochs", 2, "--clip-eps", 0.1) == 0
    records = config_of(half)["changes"]
    assert [r["env_steps"] for r in records] == [480, 480]
    assert [list(r["fields"]) for r in records] == [["epochs"], ["clip_eps"]]
    assert all(line["kl"] > 0 for line in logged(half))


def broken(*args):
    raise RuntimeError("broken")


REFUSED = {
    "--seed 7": "cannot go on with seed 7 (was 0)",
    "--env CartPole-v1": "cannot go on with env CartPole-v1 (was Catch-v0)",
    "--permute 2": "cannot go on with task Catch-v0:permute=2 (was Catch-v0): a run with another",
    "--flicker 0.5": "cannot go on with task Catch-v0:flicker=0.5 (was Catch-v0)",
    "--hidden-size 16": "cannot go on with hidden_size 16 (was 8): ",
    "--num-envs 16": "cannot go on with num_envs 16 (was 8): ",
    "--popart-floor 0.2": "cannot go on with popart_floor 0.2 (was 0.1): a run with another",
    "--no-popart": "cannot go on with popart False (was True): a run with another",
    "--run-dir elsewhere": "a run goes on in its own folder, so resume takes no run_dir",
    "--env-steps 400": "has played 480 environment steps and 400 are asked for",
}


def test_what_cannot_change_is_refused_in_a_sentence(half, capfd):
    def content():
        return (half / "config.json").read_bytes(), (half / "metrics.jsonl").read_bytes()

    before = content()
    for words, sentence in REFUSED.items():
        assert play("resume", half, *words.split()) == 2
        error = capfd.readouterr().err
        assert sentence in error and error.startswith("rlsys: ") and error.count("\n") == 1
        assert before == content()
    assert play("resume", half) == 0  # and the folder is not locked


WRONG = {
    "num_envs": ("8", "num_envs must be of type int, not '8'"),
    "epochs": (2.5, "epochs must be of type int, not 2.5"),
    "learning_rate": (None, "learning_rate must be of type float, not None"),
    "popart": ("false", "popart must be of type bool, not 'false'"),
    "hidden_size": ([64], "hidden_size must be of type int, not (64,)"),
    "privileged": ([1], "privileged must be of type tuple[str, ...], not (1,)"),
    "torso": (3, "torso must be of type str | None, not 3"),
    "env_options": (None, "None stands where rlsys.envs.options has fields with names"),
    "env": (5, "config.json is damaged: env is 5"),
}


def test_a_field_of_another_type_is_refused_in_a_sentence(half, capfd):
    path = half / "config.json"
    content = json.loads(path.read_text())
    for name, (value, sentence) in WRONG.items():
        path.write_text(json.dumps(content | {"config": content["config"] | {name: value}}))
        assert play("eval", half) == 2
        error = capfd.readouterr().err
        assert sentence in error and error.startswith("rlsys: ") and error.count("\n") == 1
    for wrong in ({"config": [1]}, {"config": {}}, {"changes": "x"}, {"changes": [{}]}):
        path.write_text(json.dumps(content | wrong))
        assert play("resume", half) == 2
        error = capfd.readouterr().err
        assert "config.json is damaged" in error and error.count("\n") == 1
    path.write_text(json.dumps(content | {"config": content["config"] | {"learning_rate": 1}}))
    assert play("resume", half) == 0  # a whole number is a number too


def test_a_finished_run_says_so_and_stays_as_it_is(tmp_path, capfd):
    folder = tmp_path / "run"
    assert play(*PPO, "--run-dir", folder) == 0
    before = (folder / "config.json").read_bytes()
    assert play("resume", folder, "--learning-rate", "1e-4") == 2
    error = capfd.readouterr().err
    assert "nothing is left to train with learning_rate 0.0001 (was 0.001)" in error
    assert (folder / "config.json").read_bytes() == before
    assert play("resume", folder) == 0
    assert "all 960 environment steps are played: nothing is left" in capfd.readouterr().out
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "task"),
    [
        ("permute", 2, ("Catch-v0:permute=1", "Catch-v0:permute=2")),
        ("observe", (0, 2), ("Catch-v0:permute=1", "Catch-v0:observe=0,2:permute=1")),
        ("sticky_actions", 0.25, ("Catch-v0:permute=1", "Catch-v0:sticky_actions=0.25:permute=1")),
        ("reward_scale", 0.1, None),
        ("life_loss_ends", True, None),
    ],
)
def test_options_that_a_name_tells_make_another_task(option, value, task):
    """The others change the learner's rewards or episodes, and may change in a run."""
    config = ppo.Config(env="Catch-v0", env_options=Options(permute=1))
    before = json.loads(json.dumps(dataclasses.asdict(config)))
    options = dataclasses.replace(config.env_options, **{option: value})
    after = dataclasses.asdict(config) | {"env_options": dataclasses.asdict(options)}
    changed = changes.between(before, after)
    assert option in changed and changed.get("task") == task
    if not task:
        return changes.check("run", changed, 0, 100)
    with pytest.raises(UserError, match="a run with another task is a run of its own"):
        changes.check("run", changed, 0, 100)


@pytest.mark.parametrize("algorithm", REPLAYS)
@pytest.mark.parametrize(
    "words", ["--replay-ratio 0.5", "--batch-size 16", "--batch-size 4 --replay-ratio 3"]
)
@pytest.mark.slow
def test_a_replay_goes_on_with_what_the_new_fields_ask_for(tmp_path, monkeypatch, algorithm, words):
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    if words != "--replay-ratio 0.5" and algorithm != "r2d2":
        pytest.skip("one algorithm is enough")
    folder = stopped(tmp_path / "run", [algorithm, *REPLAYS[algorithm], "--env-steps", 4800], 1200)
    saved = meta(folder)["ratio"]
    assert play("resume", folder, *words.split(), "--env-steps", 3600) == 0
    config, done = config_of(folder)["config"], meta(folder)["ratio"]
    learned = done["learned_steps"] - saved["learned_steps"]
    assert learned == pytest.approx(config["replay_ratio"] * 2400, rel=0.05, abs=160)
    assert done["before"] == [1200, saved["learned_steps"]]
    steps = [x["learner_steps"] for x in metrics(folder) if x["env_steps"] >= 1200]
    assert max(np.diff(steps)) <= 1.5 * config["replay_ratio"] * 560 / done["of_update"] + 3


def meta(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    return checkpoints.meta(checkpoints.numbers()[-1])["replay"]


def test_a_record_beyond_the_checkpoint_holds_from_there():
    records = [{"env_steps": 900, "learner_steps": 90, "fields": {}}]
    kept = changes.record(records, {}, 400, 40)
    assert kept == [{"env_steps": 400, "learner_steps": 40, "fields": {}}]


def test_two_processes_never_train_in_one_folder(tmp_path, capfd):
    first = start(*PPO, "--env-steps", 10**8, "--run-dir", "run", cwd=tmp_path)
    wait_for((tmp_path / "run/checkpoints/1").is_dir, first)
    before = (tmp_path / "run/config.json").read_bytes()
    for words in (["resume", tmp_path / "run"], [*PPO, "--run-dir", tmp_path / "run"]):
        assert play(*words) == 2
        error = capfd.readouterr().err
        assert f"is in use by process {first.pid} on " in error and error.count("\n") == 1
    assert first.poll() is None and (tmp_path / "run/config.json").read_bytes() == before
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 10**9)
        steps = meta_counters(tmp_path / "run")["env_steps"] + 80
        assert play("resume", tmp_path / "run", "--env-steps", steps) == 0  # a kill leaves no lock


def meta_counters(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    return checkpoints.meta(checkpoints.numbers()[-1])["counters"]


def test_a_lock_is_let_go_and_needs_no_support(tmp_path, monkeypatch):
    lock = Lock(tmp_path / "run")
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
        Lock(tmp_path / "run")
    lock.release()
    Lock(tmp_path / "run").release()

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    Lock(tmp_path / "run").release()


@pytest.mark.slow
def test_several_hangups_save_one_checkpoint(tmp_path):
    process = start(*PPO, "--env-steps", 10**8, "--run-dir", "run", cwd=tmp_path)
    wait_for((tmp_path / "run/checkpoints/1").is_dir, process)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert output.count(": the run stops after ") == 1  # to whichever arrived first
    assert "make resume RUN=run" in output


@pytest.mark.parametrize("delay", [0.05, 0.5, 1.5, 2.5])
@pytest.mark.slow
def test_ctrl_c_ends_a_program_that_is_starting(tmp_path, delay):
    """At any moment of the first seconds, by the signal or as a run that is saved."""
    process = start(*PPO, "--env-steps", 10**8, "--run-dir", "run", cwd=tmp_path)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 1, 3), output
    assert delay < 0.1 or "Traceback" not in output


@pytest.mark.slow
def test_output_that_nobody_reads_does_not_end_a_run(tmp_path):
    words = [sys.executable, "-m", "rlsys.train", *PPO, "--run-dir", "run"]
    env = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[2])}
    process = subprocess.Popen(
        words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(timeout=120) == 0 and error == ""
    assert (tmp_path / "run/evaluation.json").exists()
    assert Checkpoints(tmp_path / "run/checkpoints").numbers()[-1] == 4


@pytest.mark.slow
def test_a_terminal_that_closes_does_not_end_a_run(tmp_path):
    """Its output fails with EIO; the hang-up itself is a signal."""
    master, slave = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[2]), "TERM": "xterm"}
    process = subprocess.Popen(
        command(*PPO, "--run-dir", "run"), cwd=tmp_path, env=env, stdout=slave,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(slave)
    assert os.read(master, 1)
    os.close(master)
    error = process.stderr.read()
    assert process.wait(timeout=120) == 0 and error == ""
    assert (tmp_path / "run/evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_output_on_a_full_disk_does_not_end_a_run(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[2])}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(*PPO, "--run-dir", "run"), cwd=tmp_path, env=env, stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/evaluation.json").exists()


def test_a_full_disk_at_the_end_still_prints_the_results(tmp_path, monkeypatch, capfd):
    write = Path.write_text

    def full(self, text, *args, **options):
        if "evaluation.json" in self.name:
            write(self, text[:10])
            raise OSError(28, "No space left on device")
        return write(self, text, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert play(*PPO, "--run-dir", tmp_path / "run") == 0
    output = capfd.readouterr().out
    assert "score: sampled return" in output
    assert "evaluation.json could not be written: No space left on device" in output
    assert not [path.name for path in (tmp_path / "run").glob("evaluation*")]


@pytest.mark.slow
def test_config_json_tells_who_trained_from_which_step(half):
    """A finished run that is resumed trains nothing, so nobody is added."""
    (first,) = config_of(half)["trained_by"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python", "-m", "rlsys.train", "a word"])
        assert play("resume", half) == 0
    for entry in (config_of(half), config_of(half)):
        before, own = entry["trained_by"]
        assert before == first and (own["env_steps"], own["learner_steps"]) == (480, 96)
        assert play("resume", half) == 0
    assert (first["env_steps"], first["learner_steps"]) == (0, 0)
    assert own["command"] == "python -m rlsys.train 'a word'"
    assert first["versions"]["jax"] == jax.__version__
    assert first["versions"]["python"] == sys.version.split()[0] and "envpool" in first["versions"]
    device = {"platform": "cpu", "kind": jax.devices()[0].device_kind}
    assert first["device"] == device | {"number": jax.device_count()}
    assert first["commit"] == provenance.commit()


def test_a_resume_that_left_nothing_is_not_told_of():
    records = [{"env_steps": 0}, {"env_steps": 400}, {"env_steps": 800}]
    kept = provenance.record(records, 400, 40)
    assert [entry["env_steps"] for entry in kept] == [0, 400] and "command" in kept[-1]


def test_the_commit_is_marked_if_files_have_changed(tmp_path):
    def git(*words):
        own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(own, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    (tmp_path / "inside").mkdir()
    assert provenance.commit(tmp_path) is None
    git("init")
    (tmp_path / "inside/file").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1")
    head = git("rev-parse", "HEAD").strip()
    assert provenance.commit(tmp_path) == head
    assert provenance.commit(tmp_path / "inside") is None  # in another's checkout
    (tmp_path / "inside/file").write_text("2")
    assert provenance.commit(tmp_path) == f"{head}-dirty"
