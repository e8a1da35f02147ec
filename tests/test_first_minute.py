"""Tests what a user sees of a run at first: lines, phases, time left, the first checkpoint."""

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rlsys.running.display
import rlsys.running.log
from rlsys.algorithms import impala, ppo, r2d2
from rlsys.running import first_lines, output
from rlsys.running.checkpoint import Checkpoints
from rlsys.running.display import Display
from rlsys.running.log import Log
from rlsys.running.run import Run
from tests.test_train import play, start, wait_for

PPO = "--num-envs 32 --unroll-length 16 --refresh-steps 16 --unrolls-ahead 0 --eval-episodes 2"


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to: clock[0] += seconds."""
    now = [1000.0]
    monkeypatch.setattr(rlsys.running.log.time, "perf_counter", lambda: now[0])
    return now


def in_a_terminal(*command: str | Path, columns: int = 80) -> tuple[int, str]:
    """Runs a command in a terminal of so many columns -> exit code, and all that it wrote."""
    main, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other end was closed
        pass
    os.close(main)
    return process.wait(), shown.decode()


def rows(shown: str, columns: int = 80) -> list[str]:
    """Returns the rows that a terminal shows in the end, after `shown` was written to it."""
    screen, row, column = [""], 0, 0
    shown = re.sub(r"\x1b\]8;[^\x1b]*\x1b\\", "", shown)  # links
    for mark, number, command, char in re.findall(
        r"(\x1b\[\??([\d;]*)([A-Za-z]))|(.)", shown, re.S
    ):
        if mark:
            row = max(row - int(number or 1), 0) if command == "A" else row
            if command == "K":
                screen[row] = ""
        elif char == "\n":
            row += 1
        elif char == "\r":
            column = 0
        else:
            if column == columns:
                row, column = row + 1, 0
            screen += [""] * (row + 1 - len(screen))
            screen[row] = screen[row][:column].ljust(column) + char + screen[row][column + 1 :]
            column += 1
        screen += [""] * (row + 1 - len(screen))
    return [line.rstrip() for line in screen]


def test_a_run_in_a_terminal(tmp_path):
    words = [*PPO.split(), "--env-steps", "20000", "--log-every", "2000"]
    folder = tmp_path / "of-a-name-so-long-that-a-line-does-not-hold-it-with-more-beside"
    code, shown = in_a_terminal(
        sys.executable, "-m", "rlsys.train", "ppo", *words, "--run-dir", str(folder)
    )
    assert code == 0, shown
    found = rows(shown)
    path = str(folder)
    assert len(path) > 80  # so it takes two rows, of the terminal's own
    assert found[0] + found[1] == path and f"file://{path}" in shown
    assert re.match(
        r"task: CartPole-v1; observation float32 \[4\]; action 1 of 2\n"
        r"network: [\d,]+ parameters, computed in float32\n"
        r"preset: cartpole, but env_steps 20,000, num_envs 32, unrolls_ahead 0,\n"
        r"unroll_length 16, refresh_steps 16, 2 more\n"
        r"device: \d x cpu, 32 environments in 1 actor thread\n"
        r"╭─{78}╮\n"
        r"│ ━+ 100%  20,000 / 20,000 env steps │\n"
        r"│ [\d,]+ steps/s, [\d.]+ updates/s, episode return [\d.]+, loss \S+ +│\n"
        r"│ 0:\d\d elapsed +│\n"
        r"│ learner thread: waiting \d+%, learner \d+%, [^│]*│\n(│   [^│]*│\n)?"
        r"│ actor thread: environment \d+%, inference \d+%, idle \d+% +│\n",
        "\n".join(found[2:]),
    ), found
    for phase in ("making environments", "compiling the update"):
        assert re.search(rf"[⠋-⠿] {phase} 0:\d\d", shown), phase
    assert "101%" not in shown
    # Words that begin a row are whole: the row before had no room for them.
    text = " ".join(found)
    for words in ("over 2 episodes of", "events for TensorBoard", "more episodes:"):
        assert words in text, text
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_text_is_broken_between_words_and_commands_stay_whole():
    path = "runs/" + "x" * 90
    text = f"two words and {path} between\nmake resume RUN={path} and more\n" + "word " * 30
    lines = output.wrapped(text, 80).split("\n")
    assert lines[:4] == [
        "two words and", path, "between", f"make resume RUN={path} and more",
    ]  # fmt: skip
    assert len(lines[4]) <= 80 and set(" ".join(lines[4:]).split()) == {"word"}


def test_a_phase_is_named_where_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(rlsys.running.display, "PHASE_SECONDS", 0.1)
    display = Display()
    with display.phase("short"):
        pass
    with display.phase("long"):
        time.sleep(0.3)
    with Display(shown=False).phase("hidden"):
        time.sleep(0.3)
    assert capsys.readouterr().out == "long ...\n"


def test_the_time_left_is_not_told_by_what_was_compiled(tmp_path, clock, capsys):
    with Log(tmp_path, 100_000) as log:
        seconds = [5, 95, 100, 10, 10, 10, 10]  # without updates, then compiled, then 100 steps/s
        for i, passed in enumerate(seconds, start=1):
            clock[0] += passed
            log.write(1000 * i, max(i - 2, 0), {})
    out = capsys.readouterr().out.replace("\n  ", " ")
    left = [re.search(r", ([\d:]+) left", line) for line in out.splitlines()[1:]]
    assert [bool(found) for found in left] == [False] * 5 + [True] * 2
    assert left[-1][1] == "15:30"  # 93,000 steps at 100 a second


def test_no_more_steps_are_shown_than_the_run_has(tmp_path, clock, capsys):
    with Log(tmp_path, 1000) as log:
        clock[0] += 1.0
        log.write(1100, 5, {})
    out = capsys.readouterr().out
    assert "100%  1,000 / 1,000 env steps" in out and "left" not in out


def test_shares_of_a_threads_time_add_up_to_100_percent(tmp_path, clock, capsys):
    def play() -> None:
        with log.time("environment"):
            began.set()
            ends.wait()

    began, ends = threading.Event(), threading.Event()
    with Log(tmp_path, 10_000) as log:
        thread = threading.Thread(target=play)
        thread.start()
        began.wait()
        with log.time("learner"):
            clock[0] += 20.0
        with log.time("log"):  # which goes on while the line is written
            clock[0] += 10.0
            log.write(1000, 1, {})
            clock[0] += 4.0
        with log.time("learner"):
            clock[0] += 16.0
        ends.set()
        thread.join()
        clock[0] += 10.0
        log.write(2000, 2, {})
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if " thread: " in line]
    assert lines == [
        "learner thread: learner 67%, log 33%, other 0%",
        "actor thread: environment 100%, idle 0%",
        "learner thread: learner 53%, log 13%, other 34%",
        "actor thread: environment 67%, idle 33%",
    ]
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [round(line["time/environment"], 3) for line in found] == [1.0, 0.667]


def test_the_preset_and_what_differs():
    presets = ppo.ALGORITHM.presets
    for name, config in presets.configs.items():
        assert first_lines.preset(presets, config).partition(",")[0] == name
    config = dataclasses.replace(presets.configs["cartpole"], seed=4, env_steps=12_345)
    assert first_lines.preset(presets, config) == "cartpole, but env_steps 12,345"
    config = impala.ALGORITHM.presets.choose("atari", "Breakout-v5", on_cpu=True)
    assert first_lines.preset(impala.ALGORITHM.presets, config) == "atari"


def test_an_accelerator_that_is_not_used_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(first_lines.importlib.util, "find_spec", lambda name: None)
    assert first_lines.unused_accelerator("cpu", tmp_path) is None
    (tmp_path / "nvidiactl").touch()
    assert first_lines.unused_accelerator("cpu", tmp_path) is None
    (tmp_path / "accel0").touch()
    assert "make train EXTRA=tpu" in first_lines.unused_accelerator("cpu", tmp_path)
    (tmp_path / "nvidia0").touch()
    said = first_lines.unused_accelerator("cpu", tmp_path)
    assert "NVIDIA GPU" in said and said.splitlines()[1] == "make train EXTRA=cuda"
    assert first_lines.unused_accelerator("gpu", tmp_path) is None
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_PLATFORMS=cpu hides it" in first_lines.unused_accelerator("cpu", tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(first_lines.importlib.util, "find_spec", lambda name: "installed")
    assert "nvidia-smi" in first_lines.unused_accelerator("cpu", tmp_path)


@pytest.mark.parametrize(
    ("unroll", "every", "saved"),
    [
        (100, 1_000_000, [10_000, 40_000, 160_000, 640_000, 1_640_000, 2_640_000]),
        (30_000, 100_000, [30_000, 120_000, 240_000]),
        (100, 3_000, [3_000, 6_000, 9_000, 10_000 - 100 + 2_100]),
    ],
)
def test_the_first_checkpoints_come_early(tmp_path, unroll, every, saved):
    config = r2d2.Config(env_steps=10**9, checkpoint_every=every, run_dir=str(tmp_path / "run"))
    found = []
    with Run("r2d2", config, ["learner"]) as run:
        while len(found) < len(saved):
            run.env_steps += unroll
            if run.due()[1]:
                found.append(run.env_steps)
                run.save({"learner": np.zeros(1)})
    assert found == saved


@pytest.mark.slow
def test_a_run_killed_early_goes_on_and_equals_one_that_was_not(tmp_path):
    words = ["ppo", *PPO.split(), "--env-steps", 20_000, "--run-dir"]
    assert play(*words, tmp_path / "whole") == 0
    killed = start(*words, "killed", cwd=tmp_path)
    wait_for((tmp_path / "killed/checkpoints/1").is_dir, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert Checkpoints(tmp_path / "killed/checkpoints").meta(1)["counters"]["env_steps"] == 10_240
    assert play("resume", tmp_path / "killed") == 0
    manifests = [
        (tmp_path / name / "checkpoints/2/meta.json").read_text() for name in ("whole", "killed")
    ]
    assert manifests[0] == manifests[1]
    results = [
        json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("whole", "killed")
    ]
    assert results[0] == results[1]
