"""Memory: what a cgroup leaves, and what a replay takes when it is restored."""

import tracemalloc

import numpy as np
import pytest

from rlsys.replay import memory
from rlsys.running.checkpoint import Checkpoints, arrays
from tests.test_replay import History, make

SYSTEMD = "12:devices:/x\n4:memory:/job/step\n1:name=systemd:/job\n0::/job/step\n"


def group(folder, files, limit, used, cached=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.limit).write_text(f"{limit}\n")
    (folder / files.used).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{files.cache} {cached}\n")


def left(own, root):
    return min(map(memory._left_in, memory._cgroups(own, root)), default=None)


@pytest.mark.parametrize(("files", "mount"), [(memory.V1, "memory"), (memory.V2, "")])
def test_the_tightest_of_nested_cgroups_bounds(tmp_path, files, mount):
    root = tmp_path / mount
    group(root / "job", files, 1000, 300)
    group(root / "job/step", files, 900, 250, cached=50)
    group(root / "other", files, 10, 5)
    assert left(SYSTEMD, tmp_path) == 700
    group(root / "job/step", files, 900, 250)
    assert left(SYSTEMD, tmp_path) == 650
    group(root, files, 400, 390)
    assert left(SYSTEMD, tmp_path) == 10


def test_a_container_that_does_not_see_its_own_path(tmp_path):
    group(tmp_path, memory.V2, 500, 100)
    assert left("0::/../../system.slice/job", tmp_path) == 400


def test_no_limit_and_what_cannot_be_read(tmp_path):
    assert left(SYSTEMD, tmp_path) is None
    group(tmp_path / "job", memory.V2, "max", 300)
    assert left(SYSTEMD, tmp_path) == float("inf")
    (tmp_path / "job" / memory.V2.limit).write_text("7\n")
    (tmp_path / "job/memory.stat").unlink()
    assert left(SYSTEMD, tmp_path) == float("inf")


def test_free_memory_is_bounded_by_this_process_s_cgroup(monkeypatch):
    free = memory.free_bytes()
    assert free > 0
    monkeypatch.setattr(memory, "_left_in", lambda group: 1234)
    monkeypatch.setattr(memory, "_cgroups", lambda own, root: [(root, memory.V2)])
    assert memory.free_bytes() == 1234


def test_a_replay_is_restored_without_a_second_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE", 2**14)
    history = History(0, 3000, 20)
    replay = make(history, capacity=4 * 2500)
    while history.t < 2900:
        numbers, _, _ = replay.add(history.trajectory(20))
        replay.set_priorities(numbers, 1.0 + np.arange(len(numbers)) % 7)
    tree, counters = replay.state()
    assert max(x.nbytes for x in tree.values()) > 4 * 2**14
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"replay": tree}, {})
    saved = checkpoints.saved_tree("replay", 1)
    assert set(saved) == set(tree) and len(saved) == len(tree)
    for name in tree:
        np.testing.assert_array_equal(saved[name], tree[name])

    copy, old = (make(history, capacity=4 * 2500) for _ in range(2))
    tracemalloc.start()
    copy.restore(saved, counters)
    lazy = tracemalloc.get_traced_memory()[1]
    tracemalloc.clear_traces()
    tracemalloc.reset_peak()
    old.restore(checkpoints.restore({"replay": None}, 1)[1]["replay"], counters)
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    again, same = copy.state()
    assert same == counters
    for name in tree:
        np.testing.assert_array_equal(again[name], tree[name])
    assert [x.tolist() for x in copy.sample(8)[:1]] == [x.tolist() for x in replay.sample(8)[:1]]
    assert lazy < whole / 2
