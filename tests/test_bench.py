"""The bench: its statistics, its table, its processes, and a quick run of every section."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console

from experiments.bench import clock, envs, learner, machine, processes, report, training
from experiments.bench.figures import COLUMNS, Figure, read, write
from experiments.bench.stock import stock
from rlsys import algorithms, networks

ROOT = Path(report.__file__).parents[2]


def figure(*samples, unit="steps/s", ceiling=(), **more):
    setting = "CartPole-v1 x 256"
    return Figure("envs", "unroll", setting, unit, samples, ceiling_samples=ceiling, **more)


def test_fractions_are_of_pairs():
    """A machine that slows down during a measurement slows both."""
    drifting = figure(50, 10, 4, ceiling=[100.0, 20.0, 8.0])
    assert drifting.fraction == 0.5
    assert figure(50, 10, ceiling=[100.0]).fraction == 0.3
    taking = figure(4, 4, unit="us", ceiling=[2.0, 2.0])
    assert taking.fraction == 0.5  # twice the time
    assert figure(1).fraction is None


@pytest.mark.parametrize(
    ("new", "old", "unit", "word"),
    [
        ([110, 111, 112, 113, 114], [100, 101, 102, 103, 104], "steps/s", "faster"),
        ([100, 101, 102, 103, 104], [110, 111, 112, 113, 114], "steps/s", "slower"),
        ([110, 111, 112, 113, 114], [100, 101, 102, 103, 104], "ms", "slower"),
        ([100, 101, 102, 103, 104], [110, 111, 112, 113, 114], "MB", "less"),
        ([110, 111, 112, 113, 114], [100, 101, 102, 103, 111], "steps/s", "same"),  # they touch
        ([103, 103, 103, 103, 103], [100, 100, 100, 100, 100], "steps/s", "same"),  # 3 %
        ([110, 111, 112], [100, 101, 102, 103, 104], "steps/s", "same"),  # too few for 10 %
        ([120, 121, 122], [100, 101, 102], "steps/s", "faster"),
    ],
)
def test_changes_are_told_from_noise(new, old, unit, word):
    assert report.change(figure(*new, unit=unit), figure(*old, unit=unit)).word == word


def test_equal_programs_rarely_differ():
    """5 against 5 samples with noise of 10 %: the docstring's once in 126."""
    random = np.random.default_rng(0)
    words = [
        report.change(*(figure(*(100 + 10 * random.normal(size=5))) for _ in range(2))).word
        for _ in range(5000)
    ]
    assert 0 < sum(word != "same" for word in words) / 5000 < 2 / 126


def test_units_must_agree():
    with pytest.raises(ValueError, match="is in us, the earlier one in ms"):
        report.change(figure(1, unit="us"), figure(1, unit="ms"))


def test_a_result_is_whole_after_each_figure(tmp_path):
    path = tmp_path / "b/x.csv"
    (about,) = machine.about(["make", "it whole"])
    made = [figure(1, 2, ceiling=[4.0, 4.0], ceiling_is="EnvPool", where={"learner": 0.5}),
            figure(3, unit="MB")]  # fmt: skip
    for n in (1, 2):
        write(path, about, made[:n])
        assert read(path.with_suffix(".json")) == (about, made[:n])
        lines = path.read_text().splitlines()
        assert lines[0] == ",".join(COLUMNS) and len(lines) == n + 1
    committed = ROOT / "experiments/results/bench.csv"
    assert committed.read_text().splitlines()[0] == lines[0]
    assert {path.name for path in path.parent.iterdir()} == {"x.csv", "x.json"}


def test_a_result_says_what_it_was_measured_on():
    (about,) = machine.about(["make", "it whole"])
    assert about["machine"]["cores"] >= 1 and about["versions"]["jax"] == jax.__version__
    assert about["command"] == "make 'it whole'" and {"commit", "date"} <= set(about)
    assert report.differences(about, about) == ""
    other = {**about, "machine": about["machine"] | {"cpu": "Z80"}}
    assert "cpu Z80 -> " in report.differences(about, other)


@pytest.mark.parametrize("compared", [False, True])
def test_the_table_fits_and_tells_what_is_below_its_bar(compared):
    slow = figure(1.0, 1.2, ceiling=[1.0, 1.0], ceiling_is="stock flax", bar=3.5)
    long = Figure("envs", "ResNet, LSTM, operations", "MiniGrid-MemoryS7-v0 x 256", "samples/s",
                  [1234567.0, 7654321.0], [9e6, 9e6], "matrix product")  # fmt: skip
    base = {slow.key: figure(0.5, 0.6)} if compared else {}
    out = Console(file=io.StringIO(), width=report.WIDTH)
    report.show([slow, long], base, out)
    text = out.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "1.10 x stock flax" in text and "49% matrix product" in text
    assert "below its bar: unroll CartPole-v1 x 256: 1.10 of 3.5 x stock flax" in text
    assert ("2.00 faster" in text and "new" in text) == compared


def test_a_bar_is_missed_by_more_than_noise():
    def misses(value):
        return report.below_bar(figure(value, ceiling=[100.0], bar=0.5))

    assert [misses(x) for x in (40, 47, 48, 60)] == [True, True, False, False]
    assert not report.below_bar(figure(1.0))


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = clock.alternate(calls, 4, 0.0)
    assert {name: len(x) for name, x in times.items()} == {"a": 4, "b": 4}
    assert "".join(order[-8:]) in ("abbaabba", "baabbaab")


def counted(num, fails):
    """Yield numbers and this process's id, then fail if asked to."""
    for i in range(num):
        yield i, os.getpid()
    if fails:
        raise ValueError("as asked for")


@pytest.mark.slow
def test_a_process_of_its_own_hands_over_what_it_yields():
    numbers = list(processes.stream(counted, 3, False))
    assert [n for n, _ in numbers] == [0, 1, 2]
    assert len({pid for _, pid in numbers} - {os.getpid()}) == 1
    failing = processes.stream(counted, 1, True)
    assert next(failing)[0] == 0
    with pytest.raises(RuntimeError, match=r"counted\(1, True\) failed with exit code 1"):
        next(failing)


def test_the_most_memory_is_counted():
    array = np.ones(3 * 2**25)  # 768 MB
    peak = processes.peak_memory()
    assert peak > array.nbytes / 2**20
    del array
    assert processes.peak_memory() > 0.99 * peak  # the kernel does not count to the page


def test_a_new_algorithm_is_measured_without_an_edit(monkeypatch):
    find = algorithms.find
    monkeypatch.setattr(algorithms, "NAMES", (*algorithms.NAMES, "new"))
    monkeypatch.setattr(algorithms, "find", lambda name: find("r2d2" if name == "new" else name))
    runs = training.runs()
    assert {(task, "new") for task in training.SIZES} <= set(runs)
    assert all(runs[task, "new"] == runs[task, "r2d2"] for task in training.SIZES)
    assert {(task, name) for task in training.SIZES for name in algorithms.NAMES} <= set(runs)


def test_the_words_of_every_run_make_a_config():
    for (task, name), words in training.runs().items():
        words = ["--env", task.partition(",")[0], *words.split(), *training.SHORT.split()]
        config = algorithms.config_of(name, words, on_cpu=False)
        assert config.env_steps / config.log_every >= 5  # lines, of which two are left out
        assert f"{config.num_envs} environments" in task or "," not in task
    for name, words in envs.CASES:
        algorithms.config_of(name, words.split(), on_cpu=False)


@pytest.mark.parametrize("case", learner.CASES, ids=lambda case: case[0])
def test_stock_flax_has_as_many_parameters(case):
    _, name, words, *_ = case
    config = algorithms.config_of(name, ["--env", "Pong-v5", *words.split()])
    space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    network = algorithms.find(name).make_network(config, space, spaces.Discrete(6))
    key = jax.random.key(0)
    shapes = [jax.eval_shape(lambda n=n: networks.init(n, key)) for n in (network, stock(network))]
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in shapes]
    assert sizes[0] == sizes[1] > 1e5


def bench(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.bench", "--quick", "True", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_quick_run_and_one_compared_with_it(tmp_path):
    bench("--only", "machine", "envs", "--csv", "a.csv", cwd=tmp_path)
    about, figures = read(tmp_path / "a.json")
    assert {f.section for f in figures} == {"machine", "envs"}
    assert all(f.median > 0 and len(f.samples) in (1, 2) for f in figures)
    assert {"memory copy", "impala act"} <= {f.name for f in figures}
    assert about["command"].endswith("--csv a.csv")
    content = json.loads((tmp_path / "a.json").read_text())
    content["machine"]["cpu"] = "Z80"
    (tmp_path / "a.json").write_text(json.dumps(content))
    output = bench("--only", "machine", "--base", "a.json", cwd=tmp_path)
    assert len(list((tmp_path / "runs").glob("bench-*.csv"))) == 1
    assert "earlier" in output and "Not the same machine or versions: cpu Z80" in output


@pytest.mark.slow
def test_sections_of_parts(tmp_path):
    bench("--only", "envs", "learner", "replay", "--csv", "a.csv", cwd=tmp_path)
    _, figures = read(tmp_path / "a.json")
    memory = {f.section: f.median for f in figures if f.name == "peak memory"}
    assert set(memory) == {"envs", "learner", "replay"} and min(memory.values()) > 100
    assert sum(f.ceiling_is == "stock flax" for f in figures) == 1


@pytest.mark.slow
def test_sections_of_whole_runs(tmp_path):
    bench("--only", "training", "start", "--csv", "a.csv", cwd=tmp_path)
    _, figures = read(tmp_path / "a.json")
    (rate,) = (f for f in figures if f.name == "impala")
    assert 0.0 < rate.fraction < 1.0 and 0.3 < sum(rate.where.values()) < 3.0
    assert {"import", "first start", "second start"} <= {f.name for f in figures}
