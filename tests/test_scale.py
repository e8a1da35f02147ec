"""Scale on paper: formulas against literal exchanges, the simulation against the formulas."""

import csv
import dataclasses
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from experiments import scale, scaling
from experiments.stragglers import expected_maximum, neighbours, simulate
from rlsys import algorithms


def ring_all_reduce(arrays):
    """The mean of one array a member, literally; and the bytes that each sent, and the steps."""
    number, parts = len(arrays), [np.split(a.copy(), len(arrays)) for a in arrays]
    sent, steps = np.zeros(number), 0
    for gather in (False, True):
        for step in range(number - 1):
            chunks = [(i - step + gather) % number for i in range(number)]
            moved = [parts[i][chunks[i]].copy() for i in range(number)]
            for i in range(number):
                to, part = (i + 1) % number, chunks[i]
                parts[to][part] = moved[i] if gather else parts[to][part] + moved[i]
                sent[i] += moved[i].nbytes
            steps += 1
    return [np.concatenate(p) / number for p in parts], sent, steps


def test_a_ring_sends_the_bytes_and_takes_the_steps_of_the_formula():
    hosts, arrays = 4, [np.random.default_rng(i).normal(size=64) for i in range(4)]
    means, sent, steps = ring_all_reduce(arrays)
    np.testing.assert_allclose(means, np.tile(np.mean(arrays, axis=0), (hosts, 1)))
    rate, gradient_bytes = 1e9, arrays[0].nbytes
    expected = sent[0] / rate + steps * scale.LATENCY
    assert (sent == sent[0]).all()
    assert scale.exchange(gradient_bytes, hosts, rate).ring == pytest.approx(expected)


def test_small_gradients_wait_for_the_rings_latency_and_large_ones_for_the_rate():
    small, large = scale.exchange(1e3, 512, 1e10), scale.exchange(1e12, 512, 1e10)
    assert small.kind == "tree" and small.ring == pytest.approx(2 * 511 * scale.LATENCY, rel=1e-3)
    assert large.kind == "ring" and large.ring == pytest.approx(2 * 511 / 512 * 100, rel=1e-3)
    assert small.tree == pytest.approx(18 * scale.LATENCY, rel=1e-2)
    assert large.tree == pytest.approx(200, rel=1e-3)
    alone = scale.exchange(1e9, 1, 1e10)
    assert alone.ring == alone.tree == 0 and alone.seconds == alone.in_host > 0


@pytest.mark.parametrize("kind", ["ring", "tree"])
def test_without_jitter_the_simulation_is_the_formula(kind):
    found = simulate(16, 8, 0.02, 0.0, 0.003, kind, 0.03, updates=7)
    assert found == pytest.approx(0.053, rel=1e-12)


@pytest.mark.parametrize(
    "hosts, kind, updates", [(1, "ring", 2000), (8, "ring", 500), (64, "tree", 200)]
)
def test_with_jitter_it_waits_for_the_slowest_device(hosts, kind, updates):
    expected = 0.02 * expected_maximum(8 * hosts, 0.2) + 0.01
    found = simulate(hosts, 8, 0.02, 0.2, 0.002, kind, 0.008, updates)
    if hosts == 1:
        expected = 0.02 * expected_maximum(8, 0.2) + 0.002  # no one to exchange with
    assert found == pytest.approx(expected, rel=0.02)
    assert expected > 1.2 * 0.02 + 0.002  # the jitter is felt


def test_the_expected_maximum_of_one_and_of_two_is_known():
    assert expected_maximum(1, 0.3) == pytest.approx(1, rel=1e-5)
    assert expected_maximum(2, 0.3) == pytest.approx(
        2 * NormalDist().cdf(0.3 / math.sqrt(2)), rel=1e-5
    )
    assert expected_maximum(100, 0.0) == 1


@pytest.mark.parametrize("kind, half", [("ring", 15), ("tree", 4)])
def test_every_host_waits_for_every_other_after_half_the_steps_and_not_before(kind, half):
    partners = neighbours(16, kind)
    assert len(partners) == 2 * half
    known = np.eye(16, dtype=bool)
    for number, partner in enumerate(partners[:half], start=1):
        known |= known[partner]
        assert known.all() == (number == half)
    with pytest.raises(ValueError, match="power of two"):
        neighbours(12, "tree")


def test_ppos_batches_are_those_of_the_paper_and_its_arithmetic_is_of_their_order():
    ppo, fixed = scale.works()[:2]
    batches = [ppo.spread(ppo, 8 * hosts).samples for hosts in (8, 64)]
    assert batches == [122_880, scale.RERUN_BATCH]
    assert fixed.spread(fixed, 4096).samples == fixed.spread(fixed, 64).samples == 2_949_120
    work = 6 * scale.FIVE_PARAMETERS * scale.FIVE_HEROES * scale.RERUN_BATCH * 32 * 54_000
    assert 0.5 < work / 86_400 / 150e15 < 1  # 150 PFLOP/s-days were counted, all operations
    assert scale.RERUN_UPDATE == pytest.approx(2, rel=0.1)  # "2 million frames every 2 seconds"


def test_r2d2s_network_and_step_are_those_of_the_paper():
    convolutions = (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64
    lstm = (7 * 7 * 64 + 18 + 1 + 512 + 1) * 4 * 512  # no dense layer between
    heads = 2 * 513 * 512 + 513 * 18 + 513
    assert scale.atari_parameters() == convolutions + lstm + heads
    measured = 7183  # bytes of a step, by experiments/bench/replay.py
    assert scale.works()[2].step_bytes == pytest.approx(measured, rel=1e-2)


@pytest.mark.slow
def test_a_fixed_batch_of_sequences_stops_at_as_many_devices():
    fixed = scale.works()[3]
    one, few, many = (fixed.spread(fixed, devices) for devices in (1, 64, 4096))
    assert few == many and few.devices == 64
    assert few.samples == one.samples == 64 * 80 and one.one_device == one.seconds
    assert one.seconds / 64 < few.seconds < one.seconds  # kernels take their time however small


def test_a_prediction_names_what_it_exceeds_and_nothing_else():
    easy = dataclasses.replace(
        scale.works()[0], per_core=1e12, step_bytes=0.0, largest=math.inf, replay_ratio=2.0
    )
    fast = scale.predict(easy, 8, 1e6)
    assert fast["limits"] == ""
    assert fast["update_with_overlap_ms"] == pytest.approx(fast["compute_ms"])
    assert fast["efficiency_with_overlap"] == pytest.approx(1) and fast["efficiency"] < 0.9
    assert fast["env_steps_per_s"] == pytest.approx(fast["samples_per_s"] / 2)

    slow = scale.predict(easy, 8, 100)
    assert slow["limits"] == "network"
    backward = 2 / 3 * (slow["compute_ms"] - 1e3 * scale.optimizer_seconds(easy.parameters))
    assert slow["update_with_overlap_ms"] == pytest.approx(slow["update_ms"] - backward)
    assert slow["efficiency"] == pytest.approx(slow["compute_ms"] / slow["update_ms"])

    for change, reason in [
        ({"per_core": 2e3}, "environments"),
        ({"step_bytes": 1e12}, "unrolls"),
        ({"largest": 1.0}, "batch"),
    ]:
        assert scale.predict(dataclasses.replace(easy, **change), 8, 1e6)["limits"] == reason
    still = scale.predict(scale.works()[3], 64, 1e6)
    assert "idle devices" in still["limits"] and still["devices_with_work"] == 64


def test_the_published_table_is_what_is_computed():
    path = Path(__file__).parents[1] / "experiments/results/scale.csv"
    with path.open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 * len(scale.HOSTS) * len(scale.GIGABITS)
    for work in scale.works():
        (published,) = (
            row
            for row in table
            if (row["algorithm"], row["batch"]) == (work.name, work.batch)
            and (row["hosts"], row["gigabits_per_host"]) == ("8", "400")
        )
        row = scale.predict(work, 8, 400)
        assert published["limits"] == row["limits"]
        for name in row.keys() - {"algorithm", "batch", "between_hosts", "limits"}:
            assert float(published[name]) == pytest.approx(row[name], rel=1e-3)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "r2d2", "apex")]


@pytest.mark.parametrize("algorithm", ["impala", *SLOW])
def test_two_devices_do_half_the_work_each_and_average_their_gradients(algorithm):
    one, two = scaling.rows(algorithm, algorithms.config_of(algorithm, []), (1, 2))
    assert two["operations"] == one["operations"] / 2
    assert one["all_reduces"] == 0 < two["all_reduces"]
    params = one["params_bytes"]
    assert params < two["largest_all_reduce_bytes"] < 1.01 * params
