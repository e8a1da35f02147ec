"""A trace of a training run."""

import gzip
import json

import pytest

from experiments import profile
from rlsys.types import UserError
from tests.test_train import OTHERS, REPLAYS, WORDS


@pytest.mark.parametrize(
    ("algorithm", "spans"),
    [pytest.param("impala", {"inference", "environment", "learner"}, marks=pytest.mark.slow),
     *(pytest.param(name, {"inference", "environment", "learner", "replay"},
                    marks=pytest.mark.slow) for name in REPLAYS)],
)  # fmt: skip
def test_the_log_s_activities_are_spans_on_their_threads(tmp_path, capfd, algorithm, spans):
    words = [algorithm, *WORDS[algorithm], "--env-steps", "10000000"]
    words += ["--checkpoint-every", "1000000"]
    profile.main([*words, "--seconds", "2", "--run-dir", str(tmp_path)])
    (path,) = tmp_path.glob("trace/**/*.trace.json.gz")
    output, errors = capfd.readouterr()
    assert str(path) in output and "make resume" in output
    # No signal was sent, so none is spoken of.
    assert "the trace is complete: saving a checkpoint" in output
    assert "SIG" not in output + errors
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    found = [e for e in events if e.get("ph") == "X" and e["name"] in spans]
    assert {e["name"] for e in found} == spans
    assert all(e["dur"] > 0 for e in found) and len(found) > 30
    threads = {name: {e["tid"] for e in found if e["name"] == name} for name in spans}
    assert len(threads["inference"]) == (4 if algorithm == "impala" else 1)
    assert not threads["inference"] & threads["learner"]


@pytest.mark.slow
def test_a_run_that_is_too_short_says_so(tmp_path):
    words = ["impala", *OTHERS["impala"], "--env-steps", "400", "--log-every", "400"]
    words += ["--run-dir", str(tmp_path)]
    with pytest.raises(UserError, match="before it was warm"):
        profile.main(words)


@pytest.mark.slow
def test_a_run_that_ends_while_it_is_traced_ends_well(tmp_path, capfd):
    words = ["impala", *OTHERS["impala"], "--env-steps", "1600", "--seconds", "600"]
    profile.main([*words, "--run-dir", str(tmp_path)])
    (path,) = tmp_path.glob("trace/**/*.trace.json.gz")
    assert str(path) in capfd.readouterr().out
    assert (tmp_path / "evaluation.json").exists()
