"""Tests a run's log: its lines, its TensorBoard events, and what the terminal shows."""

import io
import json
import math
import os
import pty
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

import rlsys.running.log
from rlsys.running.display import Display
from rlsys.running.log import Log


class Episode(NamedTuple):
    episode_return: float
    length: int
    env: int = 0
    task: str = "one"


def lines(run_dir: Path) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (run_dir / "metrics.jsonl").read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events(run_dir: Path) -> list[Event]:
    """Reads TFRecords: length [8 bytes], its CRC [4], data, its CRC [4]."""
    found = []
    for path in sorted(run_dir.glob("*tfevents*")):
        stream = io.BytesIO(path.read_bytes())
        while header := stream.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            found.append(Event.FromString(stream.read(length)))
            assert len(stream.read(4)) == 4
    return found


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to: clock[0] += seconds."""
    now = [1000.0]
    monkeypatch.setattr(rlsys.running.log.time, "perf_counter", lambda: now[0])
    return now


def test_a_line(tmp_path, clock):
    with Log(tmp_path / "new" / "run", total_env_steps=1000) as log:
        clock[0] += 2.0
        log.episodes([Episode(1.0, 10), Episode(4.0, 20, env=3)])
        log.episodes([Episode(-2.0, 60)])
        scalars = {"loss": np.float32(0.5), "q/max": 3, "bad": math.nan, "worse": -math.inf}
        log.write(100, 10, scalars)
        (line,) = lines(tmp_path / "new" / "run")  # on disk before the log is closed
        assert line == {
            "env_steps": 100,
            "learner_steps": 10,
            "seconds": 2.0,
            "env_steps_per_second": 50.0,
            "learner_steps_per_second": 5.0,
            "episodes": 3,
            "episode_return": 1.0,
            "episode_return_min": -2.0,
            "episode_return_max": 4.0,
            "episode_length": 30.0,
            "loss": 0.5,
            "q/max": 3.0,
            "bad": None,
            "worse": None,
        }
        clock[0] += 4.0
        log.write(400, 10, {})
        line = lines(tmp_path / "new" / "run")[1]
        assert line["env_steps_per_second"] == 75.0  # since the last write
        assert line["learner_steps_per_second"] == 0.0
        assert line["episodes"] == 0 and line["episode_return"] is None


def test_returns_by_task(tmp_path, clock):
    def written(log, *episodes):
        clock[0] += 1.0
        log.episodes(Episode(value, 1, task=task) for value, task in episodes)
        log.write(round(clock[0]), 1, {})
        line = lines(tmp_path)[-1]
        return {k: v for k, v in line.items() if k.startswith("episode_return/")}

    with Log(tmp_path, 5000) as log:
        assert written(log, (1.0, "Catch-v0"), (2.0, "Catch-v0")) == {}  # so far it has one task
        both = written(log, (1.0, "Catch-v0"), (5.0, "Catch-v0"), (9.0, "b:permute=1"))
        assert both == {"episode_return/Catch-v0": 3.0, "episode_return/b:permute=1": 9.0}
        assert lines(tmp_path)[-1]["episode_return"] == 5.0
        nothing = written(log)
        assert nothing == dict.fromkeys(both)
    with Log(tmp_path, 5000, resume_at=round(clock[0])) as log:
        one = written(log, (4.0, "b:permute=1"))
        assert one == {"episode_return/Catch-v0": None, "episode_return/b:permute=1": 4.0}
    tags = {value.tag for event in events(tmp_path) for value in event.summary.value}
    assert {f"episode/{name}" for name in both} < tags


def test_shares_of_time_by_threads(tmp_path, clock):
    with Log(tmp_path, 1000) as log:

        def spend(activity):
            for _ in range(1000):
                with log.time(activity):
                    pass

        with log.time("learner"):
            clock[0] += 3.0
        with log.time("waiting"):
            clock[0] += 1.0
        log.write(1, 1, {})
        with pytest.raises(KeyError), log.time("learner"):
            clock[0] += 0.5
            raise KeyError
        clock[0] += 1.5
        log.write(2, 2, {})
        first, second = lines(tmp_path)
        assert first["time/learner"] == 0.75 and first["time/waiting"] == 0.25
        assert second["time/learner"] == 0.25 and second["time/waiting"] == 0.0

        # Every reading of the clock takes a second: each of 4 x 1000 spans is 1 s or longer.
        lock = threading.Lock()

        def tick():
            with lock:
                clock[0] += 1.0
                return clock[0]

        rlsys.running.log.time.perf_counter = tick  # undone by the fixture
        threads = [threading.Thread(target=spend, args=("environment",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            log.write(3, 3, {})  # while they add to it
            thread.join()
        log.write(4, 4, {})
        seconds = np.diff([line["seconds"] for line in lines(tmp_path)], prepend=0.0)
        shares = [line.get("time/environment", 0.0) for line in lines(tmp_path)]
        # Nothing is lost or counted twice; alone a thread would have spent exactly 1000 s.
        assert 4000 <= np.dot(shares, seconds) + 1e-3 < 4 * 4000 * 1.01


def test_events_can_be_read(tmp_path, clock):
    with Log(tmp_path, 1000) as log:
        clock[0] += 1.0
        log.write(50, 2, {"loss": 0.25, "bad": math.nan})
        version, event = events(tmp_path)  # on disk before the log is closed
    assert version.file_version == "brain.Event:2"
    values = {value.tag: value.simple_value for value in event.summary.value}
    assert event.step == 50 and values["train/loss"] == 0.25
    assert values["time/learner_steps"] == 2.0
    assert all(name.startswith(("train/", "time/", "episode/")) for name in values)
    assert "train/bad" not in values and "episode/episode_return" not in values


def test_resume_drops_what_will_be_made_again(tmp_path, clock):
    with Log(tmp_path, 1000) as log:
        for env_steps in (100, 200, 300):
            clock[0] += 10.0
            log.write(env_steps, env_steps // 10, {"loss": env_steps})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 400, "lo')  # killed while writing
    clock[0] += 1e6  # the machine was off
    with Log(tmp_path, 1000, resume_at=200) as log:
        assert [line["env_steps"] for line in lines(tmp_path)] == [100, 200]
        clock[0] += 5.0
        log.write(250, 25, {"loss": 250})
        log.write(300, 30, {"loss": 300})
    kept = lines(tmp_path)
    assert [line["env_steps"] for line in kept] == [100, 200, 250, 300]
    assert [line["loss"] for line in kept] == [100.0, 200.0, 250.0, 300.0]
    assert kept[2]["seconds"] == 25.0 and kept[2]["env_steps_per_second"] == 10.0
    assert kept[2]["learner_steps_per_second"] is None  # unknown, rather than since step 0
    starts = [e for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert [start.step for start in starts] == [201]
    assert len([*tmp_path.glob("*tfevents*")]) == 2


def test_a_new_run_is_not_mixed_into_another(tmp_path):
    Log(tmp_path, 1000).close()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is there already"):
        Log(tmp_path, 1000)
    Log(tmp_path, 1000, resume_at=0).close()


def test_plain_lines(tmp_path, clock, capsys):
    with Log(tmp_path, 1000) as log:
        log.say("memory: 3 GB [of 4]")
        for second in range(1, 25):  # at 10 steps/s
            clock[0] += 1.0
            log.episodes([Episode(2.0 * second, 7)])
            log.write(10 * second, second, {"loss": 0.125})
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [str(tmp_path), "memory: 3 GB [of 4]"]
    assert len(out[2:]) == 2 * 4  # at 1, 11, 21 and the last
    assert out[-2:] == [
        "24%  240 / 1,000 env steps, 10 steps/s, 1.0 updates/s, episode return 25,",
        "  loss 0.125, 0:24 elapsed, 1:16 left",
    ]


def test_time_left_after_resume_is_by_this_process(tmp_path, clock, capsys):
    with Log(tmp_path, 10_000) as log:
        clock[0] += 1.0
        log.write(5000, 1, {})  # very fast
    with Log(tmp_path, 10_000, resume_at=5000) as log:
        for i in range(1, 5):
            clock[0] += 10.0
            log.write(5000 + 100 * i, i, {})  # 10 steps/s
    assert "0:41 elapsed, 7:40 left" in capsys.readouterr().out.splitlines()[-1]


def test_a_full_disk_loses_no_line_and_stops_no_run(tmp_path):
    script = """
import resource, sys
from rlsys.running.log import Log
with Log(sys.argv[1], 1000) as log:
    log.write(1, 1, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, -1))
    for step in range(2, 40):
        log.write(step, step, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    log.write(40, 40, {"loss": 1.0})
"""
    command = [sys.executable, "-c", script, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert result.stdout.count("File too large") == 1
    assert [line["env_steps"] for line in lines(tmp_path)] == [*range(1, 41)]
    assert [event.step for event in events(tmp_path)] == [*range(41)]


def test_display_in_a_terminal(tmp_path):
    script = """
import collections, sys, time
from rlsys.running.log import Log
Episode = collections.namedtuple("Episode", "episode_return length env task")
with Log(sys.argv[1], 1000) as log:
    log.say("before [it]")
    with log.time("learner"):
        time.sleep(0.05)
    log.episodes([Episode(12.5, 3, 0, "one")])
    log.write(250, 5, {"loss": 0.125})
    log.say("after it")
    time.sleep(0.4)
    raise RuntimeError("stopped")
"""
    main, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    environment["PYTHON_COLORS"] = "0"  # Python 3.13 colours tracebacks
    command = [sys.executable, "-c", script, tmp_path]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other end was closed
        pass
    os.close(main)
    assert process.wait() == 1
    text = shown.decode()
    for part in ("before [it]", "after it", "25%  250 / 1,000 env steps", "episode return 12.5"):
        assert part in text, text
    assert "loss 0.125" in text and "learner thread: learner " in text and " elapsed" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert text.rstrip().endswith("RuntimeError: stopped")


def test_closing_twice(tmp_path):
    log = Log(tmp_path, 10)
    log.close()
    log.close()
    assert lines(tmp_path) == []


def test_a_line_waits_for_a_group_of_episodes(tmp_path):
    """If environments start together, short episodes end first, so a mean waits for the others."""
    with Log(tmp_path, 1000, group=4, display=Display(shown=False)) as log:
        log.episodes([Episode(12.0, 7)])
        log.write(10, 0, {}, all_episodes=False)
        log.episodes([Episode(500.0, 7)] * 3)
        log.write(20, 0, {}, all_episodes=False)
        log.episodes([Episode(100.0, 7)])
        log.write(30, 0, {}, all_episodes=False)
        log.write(40, 0, {}, all_episodes=True)  # as at a checkpoint, which does not hold them
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["episodes"] for x in lines] == [0, 4, 0, 1]
    assert [x["episode_return"] for x in lines] == [None, 378.0, None, 100.0]
    assert lines[1]["episode_return_min"] == 12.0
