"""Checkpoints: to the bit, whole or not there, and a sentence for whatever is wrong with one."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsys.learning.learner import make_mesh, place
from rlsys.running.checkpoint import CheckpointError, Checkpoints, arrays
from rlsys.types import CoreState, LearnerState


class Counts(NamedTuple):
    first: Any
    second: Any


def learner_state(key: int = 0, features: int = 5) -> LearnerState:
    params = {"dense": {"kernel": jnp.ones((3, features)), "bias": jnp.zeros(3, jnp.bfloat16)}}
    opt_state = (Counts(jnp.int32(4), params), (), [jnp.ones(2), None])
    return LearnerState(params, opt_state, jax.random.key(key), jnp.int32(7), jnp.float32(0.5))


def replay(size: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "obs": {"image": rng.integers(0, 256, (size, 7, 3), dtype=np.uint8)},
        "first": rng.random(size) < 0.5,
        "priority": rng.random(size),  # float64, as jax x64 is off
        "odd": np.array([np.nan, -0.0, np.inf, 5e-324, 1e-45]),
        "single": np.array([np.nan, -0.0, 1e-45], np.float32),
        "begin": np.array(2**62 + 1),
        "none yet": np.zeros((0, 4), np.int16),
        "half": rng.random((4, 2)).astype(jnp.bfloat16),
    }


def bits(leaf) -> tuple:
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    array = np.asarray(leaf)
    return array.dtype, array.shape, array.tobytes()


def assert_equal_to_the_bit(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert bits(one) == bits(other)


def everything(number: int) -> dict:
    core_state = CoreState(
        lstm=(np.ones((2, 4), np.float32), jnp.zeros((2, 4))),
        a_tm1=np.arange(2, dtype=np.int32),
        frames=np.zeros((2, 0, 8, 8, 1), np.uint8),  # S - 1 = 0 frames
        age=np.zeros(2, np.int32),
    )
    actors = {"core_state": core_state, "keys": jax.random.split(jax.random.key(number), 3)}
    state = place(make_mesh(), learner_state(number))
    return {"learner": state, "actors": actors, "replay": replay(10 + number, number), "none": ()}


def damage(path: Path, how: str):
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1 << 4
        path.write_bytes(data)


def saved(directory, *numbers, **options) -> Checkpoints:
    checkpoints = Checkpoints(directory, **options)
    for number in numbers:
        checkpoints.save(number, {"replay": replay(10 + number, number)}, {"number": number})
    return checkpoints


def test_comes_back_to_the_bit_from_four_devices(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    generator = np.random.default_rng(3).bit_generator.state  # integers of 128 bits
    for number in (0, 1):  # shapes of replay differ between the two
        checkpoints.save(number, everything(number), {"generator": generator, "number": number})
    assert len(everything(1)["learner"].step.sharding.device_set) == 4
    templates = everything(5) | {"replay": None}
    number, trees, meta = Checkpoints(tmp_path / "checkpoints").restore(templates)
    assert number == 1 and meta == {"generator": generator, "number": 1}
    assert_equal_to_the_bit(trees, everything(1))
    assert trees["replay"]["priority"].dtype == np.float64
    trees["replay"]["priority"][0] = 2.0  # replay goes on writing into it
    assert jax.random.normal(trees["learner"].key) == jax.random.normal(jax.random.key(1))


def test_templates_may_be_shapes_and_name_only_what_is_wanted(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, everything(3), {})
    shutil.rmtree(tmp_path / "3" / "trees" / "replay")  # not asked for, so not read
    template = jax.eval_shape(lambda: learner_state())
    _, trees, _ = checkpoints.restore({"learner": template})
    assert_equal_to_the_bit(trees, {"learner": learner_state(3)})


@pytest.mark.parametrize("size", [1, 12, 13, 31, 97])
def test_large_arrays_are_cut_into_pieces(tmp_path, monkeypatch, size):
    monkeypatch.setattr(arrays, "PIECE", 100)
    monkeypatch.setattr(arrays, "AT_A_TIME", 3)
    checkpoints = saved(tmp_path)
    checkpoints.save(0, {"replay": replay(size)}, {})
    pieces = [*(tmp_path / "0/trees/replay/obs/image").glob("[0-9]*")]
    assert len(pieces) == (1 if size * 21 <= 100 else -(-size // 4))  # 4 rows of 21 bytes
    assert_equal_to_the_bit(checkpoints.restore({"replay": None})[1]["replay"], replay(size))


def test_keeps_the_newest(tmp_path):
    checkpoints = saved(tmp_path, 2, 5, 9, 10, keep=2)
    assert checkpoints.numbers() == [9, 10]
    assert sorted(os.listdir(tmp_path)) == ["10", "9"]
    assert checkpoints.meta(checkpoints.newest([])) == {"number": 10} and checkpoints.meta(9) == {
        "number": 9
    }
    # A run that went back to 9 has another 10, and what was beyond is not its own.
    saved(tmp_path, 10, keep=2)
    checkpoints.save(9, {"replay": replay(3)}, {"number": "again"})
    assert checkpoints.numbers() == [9] and checkpoints.meta(checkpoints.newest([])) == {
        "number": "again"
    }


def test_every_damage_of_every_file_is_seen(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        good = path.read_bytes()
        for how in ("deleted", "truncated", "flipped"):
            damage(path, how)
            told: list[str] = []
            number, trees, _ = checkpoints.restore({"replay": None}, say=told.append)
            assert number == 1, (path, how)
            assert_equal_to_the_bit(trees["replay"], replay(11, 1))
            (sentence,) = told
            assert path.name in sentence and "checkpoint 1 is taken instead." in sentence
            assert "\n" not in sentence
            path.write_bytes(good)
    assert checkpoints.restore({"replay": None})[0] == 2


def test_damage_to_all_of_them(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for number in (1, 2):
        damage(tmp_path / str(number) / "meta.json", "flipped")
    told: list[str] = []
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole: .*/2/meta.json"):
        checkpoints.restore({"replay": None}, say=told.append)
    with pytest.raises(CheckpointError, match="is whole"):
        checkpoints.newest([])
    assert told == []


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(CheckpointError, match=f"no folder {tmp_path}/absent"):
        Checkpoints(tmp_path / "absent").restore({})
    with pytest.raises(CheckpointError, match="it is empty"):
        Checkpoints(tmp_path).restore({})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"only notes\.txt"):
        Checkpoints(tmp_path).newest([])
    assert Checkpoints(tmp_path).numbers() == [] and os.listdir(tmp_path) == ["notes.txt"]
    (tmp_path / "100").mkdir()  # of another program
    (tmp_path / "100" / "_METADATA").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"/100 is no whole checkpoint of rlsys: it has no man"
    ):
        Checkpoints(tmp_path).restore({})


def test_structures_that_do_not_fit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"learner": learner_state()}, {})

    def sentence(template, name="learner"):
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore({name: template})
        assert str(tmp_path / "1") in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    wider = sentence(learner_state(features=6))
    assert "learner/params/dense/kernel is float32[3, 5] in it, but float32[3, 6]" in wider
    more = sentence(learner_state()._replace(target_params={"w": jnp.ones(2)}))
    assert "learner/target_params/w is not there in it, but float32[2] in this run" in more
    fewer = sentence(learner_state()._replace(opt_state=()))
    assert "learner/opt_state/0/first is int32[] in it, but not there in this run" in fewer
    other_key = sentence(learner_state()._replace(key=jax.random.key(0, impl="rbg")))
    assert "learner/key is key<fry>[] in it, but key<rbg>[]" in other_key
    assert "holds learner, but no replay" in sentence(None, "replay")


def run(script: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )


KILLED = """
import os, signal, sys, time
import numpy as np
from rlsys.running.checkpoint import Checkpoints

def tree(number):
    return {f"array{i}": np.full(20_000, number + i) for i in range(5)}

def go_on(directory):
    checkpoints = Checkpoints(directory, keep=2)
    numbers = checkpoints.numbers()
    print(numbers, sorted(os.listdir(directory)), flush=True)
    for number in numbers:
        assert checkpoints.meta(number) == {"number": number}
    if numbers:
        number, trees, meta = checkpoints.restore({"tree": None}, say=sys.exit)
        assert number == numbers[-1] and len(numbers) >= min(2, number + 1)
        for name, array in tree(number).items():
            assert (trees["tree"][name] == array).all()
    for number in range(numbers[-1] + 1 if numbers else 0, 10**6):
        checkpoints.save(number, {"tree": tree(number)}, {"number": number})

rng = np.random.default_rng(0)
for _ in range(8):
    child = os.fork()  # this process has started no threads, and need not import all again
    if child == 0:
        try:
            go_on(sys.argv[1])
        finally:
            os._exit(1)
    time.sleep(rng.uniform(0.5, 1.4))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it failed by itself"
"""


def test_killed_while_saving(tmp_path):
    result = run(KILLED, tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    assert max(Checkpoints(tmp_path).numbers()) >= 3, result.stdout  # it did save
    assert "saving-" in result.stdout, result.stdout  # and was killed while at it


LIMITED = """
import os, resource, sys, threading
import numpy as np
from rlsys.running.checkpoint import CheckpointError, Checkpoints

checkpoints = Checkpoints(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 256, (100, 10_000), dtype=np.uint8)
tree = {"small": np.arange(10), "noise": noise, **{f"w{i}": noise[i] for i in range(30)}}
checkpoints.save(0, {"tree": tree}, {})
for number, limit in enumerate((1, 500, 5_000, 50_000), 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        checkpoints.save(number, {"tree": tree}, {})
    except CheckpointError as error:
        sentence = f"{sys.argv[1]}/{number} could not be saved: File too large."
        assert str(error) == sentence, error
    else:
        raise AssertionError(f"saved more than {limit} bytes in a file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    assert "saving" not in str(os.listdir(sys.argv[1]))
    assert checkpoints.numbers()[-1] == checkpoints.restore({"tree": tree})[0] == number - 1
    checkpoints.save(number, {"tree": tree}, {})
    assert (checkpoints.restore({"tree": tree})[1]["tree"]["noise"] == noise).all()
assert checkpoints.numbers() == [2, 3, 4]
"""


def test_a_file_that_may_not_grow(tmp_path):
    result = run(LIMITED, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == result.stderr == ""  # no word of Orbax's or TensorStore's either


def test_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        return  # only root may; test_a_file_that_may_not_grow runs everywhere
    try:
        noise = np.random.default_rng(0).integers(0, 256, (180, 10_000), dtype=np.uint8)
        checkpoints = Checkpoints(disk / "checkpoints")
        checkpoints.save(1, {"replay": {"noise": noise}}, {"number": 1})
        filler = disk / "filler"
        filler.write_bytes(b"x" * 2**20)
        free = shutil.disk_usage(disk).free
        for number in (2, 3):
            with pytest.raises(CheckpointError, match=f"{number} could not be saved: No space"):
                checkpoints.save(number, {"replay": {"noise": noise}}, {})
            time.sleep(0.2)
            assert shutil.disk_usage(disk).free == free
            assert os.listdir(disk / "checkpoints") == ["1"]
        number, trees, meta = checkpoints.restore({"replay": None})
        assert (number, meta) == (1, {"number": 1}) and (trees["replay"]["noise"] == noise).all()
        filler.unlink()
        checkpoints.save(4, {"replay": {"noise": noise}}, {"number": 4})
        assert checkpoints.restore({"replay": None})[0] == 4
        assert checkpoints.numbers() == [1, 4]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_refuses_what_it_could_not_restore(tmp_path):
    with pytest.raises(ValueError, match="Two leaves of the tree 'a' are called 'a/b/c'"):
        Checkpoints(tmp_path).save(0, {"a": {"b/c": np.ones(1), "b": {"c": np.ones(1)}}}, {})
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    assert os.listdir(tmp_path) == []
