"""The bench: its statistics, its table, its peers, and a quick run."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.bench import clock, compare, functions, learner, report
from experiments.bench.figures import Figure, Files, read
from experiments.bench.stock import stock
from rlsys import networks, train

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rlax.softmax's
ROOT = Path(train.__file__).parents[1]


def figure(*samples, unit="steps/s", **more):
    return Figure("envs", "unroll", "CartPole-v1 x 256", unit, list(map(float, samples)), **more)


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
    assert compare.change(figure(*new, unit=unit), figure(*old, unit=unit)).word == word


def test_equal_programs_rarely_differ():
    """5 against 5 samples with noise of 10 %: the docstring's once in 126."""
    random = np.random.default_rng(0)
    words = [
        compare.change(*(figure(*(100 + 10 * random.normal(size=5))) for _ in range(2))).word
        for _ in range(5000)
    ]
    assert 0 < sum(word != "same" for word in words) / 5000 < 2 / 126


def test_units_must_agree():
    with pytest.raises(ValueError, match="is in us, the earlier one in ms"):
        compare.change(figure(1, unit="us"), figure(1, unit="ms"))


def test_a_result_is_whole_after_each_figure(tmp_path):
    files = Files(tmp_path / "b/x.csv", tmp_path / "b/x.json")
    made = [figure(1, 2, ceiling=[4.0, 4.0], ceiling_is="EnvPool", where={"learner": 0.5}),
            figure(3, unit="MB")]  # fmt: skip
    for n, x in enumerate(made, 1):
        files.add(x)
        about, figures = read(files.json_path)
        assert figures == made[:n]
        assert len(files.csv_path.read_text().splitlines()) == n + 1
    assert about["machine"]["cores"] >= 1 and about["versions"]["jax"] == jax.__version__
    assert {"commit", "date", "command"} <= set(about)
    assert compare.differences(about, about) == ""
    other = {**about, "machine": about["machine"] | {"cpu": "Z80"}}
    assert "cpu Z80 -> " in compare.differences(about, other)


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


def functions_with_peers():
    pairs = functions.pairs(functions.data(20, 8))
    return {name: pair for name, pair in pairs.items() if pair.theirs}


@pytest.mark.parametrize("name", functions_with_peers())
def test_peers_compute_the_same(name):
    """Else their times say nothing. rlax's h is the coarser one (losses/value_rescaling.py)."""
    ours, theirs, arguments = functions_with_peers()[name]
    results = [jax.tree.leaves(jax.jit(f)(*arguments)) for f in (ours, theirs)]
    if name.startswith("n_step"):  # they bootstrap otherwise past the end
        results = [[x[: -functions.N] for x in r] for r in results]
    if name == "vtrace":  # theirs gives errors, ours targets
        results[1] = [results[1][0] + arguments[0], results[1][1]]
    for mine, other in zip(*results, strict=False):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", learner.cases(quick=True))
def test_stock_flax_has_as_many_parameters(name):
    case = learner.cases(quick=False)[name]
    network = learner.make_network(case, 84)
    sizes = [
        sum(
            x.size
            for x in jax.tree.leaves(
                jax.eval_shape(lambda n=n: networks.init(n, jax.random.key(0)))
            )
        )
        for n in (network, stock(network))
    ]
    assert sizes[0] == sizes[1] > 1e5


def bench(*words, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.bench", "--quick", "True", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_quick_run_and_one_compared_with_it(tmp_path):
    bench("--only", "machine", "functions", "--json", "a.json", cwd=tmp_path)
    about, figures = read(tmp_path / "a.json")
    assert {f.section for f in figures} == {"machine", "functions"}
    assert all(f.median > 0 and len(f.samples) in (1, 2) for f in figures)
    assert {"vtrace", "gae"} <= {f.name for f in figures} and about["command"].endswith("a.json")
    assert len(list((tmp_path / "runs").glob("bench-*.csv"))) == 1
    content = json.loads((tmp_path / "a.json").read_text())
    content["machine"]["cpu"] = "Z80"
    (tmp_path / "a.json").write_text(json.dumps(content))
    output = bench("--only", "machine", "--base", "a.json", cwd=tmp_path)
    assert "earlier" in output and "Not the same machine or versions: cpu Z80" in output


@pytest.mark.slow
def test_every_section_runs(tmp_path):
    """On learning, replay and playing at least; those with whole runs are slow."""
    bench("--only", "envs", "learner", "replay", "--json", "a.json", cwd=tmp_path)
    _, figures = read(tmp_path / "a.json")
    memory = {f.section: f.median for f in figures if f.name == "peak memory"}
    assert set(memory) == {"envs", "learner", "replay"} and min(memory.values()) > 100
    assert sum(f.ceiling_is == "stock flax" for f in figures) == 3


@pytest.mark.slow
def test_sections_of_whole_runs(tmp_path):
    bench("--only", "training", "start", "--json", "a.json", cwd=tmp_path)
    _, figures = read(tmp_path / "a.json")
    (rate,) = (f for f in figures if f.name == "impala")
    assert 0.0 < rate.fraction < 1.0 and 0.3 < sum(rate.where.values()) < 3.0
    assert {"import", "first start", "second start"} <= {f.name for f in figures}
