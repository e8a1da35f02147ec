"""The report on runs and sweeps, made up so that every number in it is known."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from rlsys import cli
from rlsys.results import evaluations, report


def write_run(folder, config, returns, played=None, algorithm="impala", ended=8):
    """returns: of each log line, by name; played: mean return of each kind of play, the score
    first; ended: of 8 episodes."""
    folder.mkdir(parents=True)
    write_config(folder, {"algorithm": algorithm, "config": config})
    lines = [
        {"env_steps": 100 * (i + 1), "seconds": 2.0 * (i + 1)} | dict(zip(returns, x, strict=True))
        for i, x in enumerate(zip(*returns.values(), strict=True))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if played:
        results = {
            name: {"mean": mean, "interval_95_low": mean - 1.5, "interval_95_high": mean + 0.5}
            | {"episodes": 8, "ended": ended}
            for name, mean in played.items()
        }
        counters = {"env_steps": lines[-1]["env_steps"], "learner_steps": 0}
        found = {"score": next(iter(played)).partition(" ")[0], "results": results}
        evaluations.add(folder, {**found, **counters, "episodes": 8, "seed": 0})


def write_config(folder, content):
    (folder / "config.json").write_text(json.dumps(content))


def config(seed, learning_rate=1e-3, env="Catch-v0", flicker=0.0):
    task = {"flicker": flicker, "observe": []}
    return {"env": env, "seed": seed, "run_dir": f"x{seed}", "task": task} | {
        "learning_rate": learning_rate
    }


def write_sweep(folder):
    """Two learning rates by two seeds; one dies."""
    folder.mkdir()
    configs = [config(seed, rate) for rate in (1e-3, 1e-2) for seed in (0, 1)]
    members = [{"name": "", "values": {}, "words": [], "config": c} for c in configs]
    write_config(folder, {"algorithm": "impala", "members": members})
    for i in range(4):
        played = None if i == 3 else {"sampled": 10.0 + i, "greedy": 20.0 - 3 * i}
        returns = [float(i), None, 8.0 + i]
        write_run(folder / "members" / str(i), configs[i], {"episode_return": returns}, played)
        if i == 3:
            (folder / "members/3/config.json").unlink()
    rows = [{"member": i, "set_aside_at": "7" if i == 3 else ""} for i in range(4)]
    with (folder / "members.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def make(*words):
    return cli.exit_code(lambda: report.main([str(word) for word in words]))


def cells(path):
    """The table's rows, by what stands above."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_seeds_of_a_sweep_are_one_row(tmp_path):
    folder, out = write_sweep(tmp_path / "sweep"), tmp_path / "out"
    assert make(folder, "--out", out) == 0
    first, second = cells(out / "report.md")
    assert (first["learning_rate"], first["seeds"]) == ("0.01", "0, 1")  # the best stands first
    assert first["score"] == second["score"] == "sampled"  # greedily it would be the other
    assert first["sampled return"] == "12 (10.5 to 12.5) *"  # of one seed, over its episodes
    assert first["greedy return"] == "14 (12.5 to 14.5) *"
    assert first["status"] == "1 finished, 1 set aside at learner step 7"
    assert second["sampled return"] == "10.5 (10 to 11)"  # 10 and 11
    assert second["greedy return"] == "18.5 (17 to 20)"
    assert (second["steps"], second["time"], second["status"]) == ("300", "6 s", "2 finished")
    assert "flicker" not in second and "run_dir" not in second and second["task"] == "Catch-v0"
    assert str(folder / "members/3") in (out / "report.md").read_text()
    picture = np.asarray(Image.open(out / "curves.png"))
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def test_runs_of_several_algorithms_and_tasks(tmp_path):
    """Each task has a row and a panel; what only one algorithm has sets none of it apart."""
    both = {f"episode_return/{t}": [0.0, t / 2, float(t)] for t in (1, 2)}
    played = {"greedy 1": 5.0, "greedy 2": 6.0, "ladder 1": 1.0}
    write_run(tmp_path / "a", config(0, env="1,2"), both, played)
    write_run(tmp_path / "b", config(1, env="1,2", flicker=0.5), both, played, ended=6)
    own = {"episode_return": [1.0, 2.0]}
    write_run(tmp_path / "c", config(0, env="1") | {"clip_eps": 0.2}, own, algorithm="ppo")
    with (tmp_path / "c/metrics.jsonl").open("a") as file:
        file.write('{"env_st')  # it was killed
    assert make(tmp_path / "a", tmp_path / "b", tmp_path / "c", "--out", tmp_path / "out") == 0
    rows = cells(tmp_path / "out/report.md")
    found = [
        (r["task"], r["algorithm"], r["flicker"], r["greedy return"], r["status"]) for r in rows
    ]
    assert found == [
        ("1", "impala", "0.0", "5 (3.5 to 5.5) *", "1 finished"),
        ("1", "impala", "0.5", "5 (3.5 to 5.5) *; 6 of 8 ended", "1 finished"),
        ("1", "ppo", "", "-", "1 not finished"),
        ("2", "impala", "0.0", "6 (4.5 to 6.5) *", "1 finished"),
        ("2", "impala", "0.5", "6 (4.5 to 6.5) *; 6 of 8 ended", "1 finished"),
    ]
    assert [r["ladder return"] for r in rows] == [
        "1 (-0.5 to 1.5) *", "1 (-0.5 to 1.5) *; 6 of 8 ended", "-", "-", "-"
    ]  # fmt: skip
    assert [r["score"] for r in rows] == ["greedy", "greedy", "-", "greedy", "greedy"]
    assert "clip_eps" not in rows[0]


def test_an_evaluation_of_an_earlier_version_is_refused(tmp_path, capfd):
    write_run(tmp_path / "a", config(0), {"episode_return": [1.0]})
    (tmp_path / "a/evaluation.json").write_text('{"greedy": {"mean": 1.0, "interval_95": 0.5}}')
    assert make(tmp_path / "a", "--out", tmp_path / "out") == 2
    assert f"then make eval RUN={tmp_path}/a writes it" in capfd.readouterr().err
    (tmp_path / "a/evaluation.json").write_text("")
    assert make(tmp_path / "a", "--out", tmp_path / "out") == 2
    assert "a/evaluation.json is damaged" in capfd.readouterr().err


def test_the_newest_parameters_with_most_episodes_count(tmp_path, capfd):
    """One of 3 episodes, or of an earlier checkpoint, changes nothing in the table."""
    write_run(tmp_path / "a", config(0), {"episode_return": [1.0, 2.0]}, {"sampled": 5.0})
    assert make(tmp_path / "a", "--out", tmp_path / "before") == 0
    (first,) = evaluations.read(tmp_path / "a")
    results = {"sampled": first["results"]["sampled"] | {"mean": 9.0}}
    evaluations.add(tmp_path / "a", first | {"episodes": 3, "seed": 1, "results": results})
    early = first | {"episodes": 100, "env_steps": 100, "results": results}
    evaluations.add(tmp_path / "a", early)
    assert make(tmp_path / "a", "--out", tmp_path / "after") == 0
    assert cells(tmp_path / "before/report.md") == cells(tmp_path / "after/report.md")
    evaluations.add(tmp_path / "a", first | {"episodes": 9, "results": results})
    assert make(tmp_path / "a", "--out", tmp_path / "after") == 0
    (row,) = cells(tmp_path / "after/report.md")
    assert row["sampled return"].startswith("9 (")


def test_a_band_runs_from_the_least_seed_to_the_largest():
    rows = [
        [{"env_steps": s, "episode_return": scale * s} for s in range(0, end + 1, 50)]
        for scale, end in ((1.0, 400), (3.0, 500))
    ]
    x, low, mean, high = report._band(rows)
    assert x[0] == 0 and x[-1] == 400
    np.testing.assert_allclose((low, mean, high), (x, 2 * x, 3 * x))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "Runs that differ in nothing but the seed are one agent"),
        ("--out x", "no run is named: make report RUNS="),
        ("nowhere", "nowhere/config.json is missing"),
        ("a --seeds 3", "there is no field '--seeds'"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert make(*words.split()) == (2 if words else 0)
    output = capfd.readouterr()
    assert sentence in output.out + output.err
    assert not any(tmp_path.iterdir())
