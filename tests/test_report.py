"""The report on runs and sweeps, made up so that every number in it is known."""

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from rlsys import algorithms, cli
from rlsys.config import RunConfig, not_of_learning
from rlsys.results import curves, evaluations, gather, report
from rlsys.running import changes
from rlsys.running.lock import Lock


def write_run(folder, config, returns, played=None, algorithm="impala", ended=8):
    """returns: of each log line, by name; played: mean return of each kind of play, the score
    first; ended: of 8 episodes."""
    folder.mkdir(parents=True)
    write_config(folder, {"algorithm": algorithm, "config": config})
    lines = [
        {"env_steps": 100 * (i + 1), "seconds": 2.0 * (i + 1), "episodes": 4}
        | dict(zip(returns, x, strict=True))
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
        "learning_rate": learning_rate, "env_steps": 300
    }  # fmt: skip


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
    text = (out / "report.md").read_text()
    assert str(folder / "members/3") in text
    assert "with five seeds or fewer they are too narrow." in text
    picture = np.asarray(Image.open(out / "curves.png"))
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def test_runs_of_several_algorithms_and_tasks(tmp_path):
    """Each task has a row and a panel; what only one algorithm has sets none of it apart."""
    both = {f"episode_return/{t}": [0.0, t / 2, float(t)] for t in (1, 2)}
    played = {"greedy 1": 5.0, "greedy 2": 6.0, "ladder 1": 1.0}
    write_run(tmp_path / "a", config(0, env="1,2"), both, played)
    write_run(tmp_path / "b", config(1, env="1,2", flicker=0.5), both, played, ended=6)
    own = {"episode_return": [1.0, 2.0]}  # of 300 steps 200 were played
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
        ("1", "ppo", "", "-", "1 stopped"),
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
    (tmp_path / "a/evaluation.json").write_text('{"others": [{}]}')
    assert make(tmp_path / "a", "--out", tmp_path / "out") == 2
    assert "is damaged: an evaluation has no score" in capfd.readouterr().err
    write_run(tmp_path / "b", config(0), {"episode_return": [1.0]})
    assert make(tmp_path / "b", "--out", "/dev/null") == 2
    assert "the folder /dev/null cannot be made: File exists" in capfd.readouterr().err


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


def test_finished_is_what_trained_to_its_last_step(tmp_path):
    """A run that was stopped and then evaluated is stopped; one that trains now says so."""
    for i, name in enumerate(("stopped", "whole", "training")):
        returns = {"episode_return": [0.0] * (3 if name == "whole" else 1)}
        write_run(tmp_path / name, config(i), returns, {"greedy": 1.0})
    lock = Lock(tmp_path / "training")
    assert make(*tmp_path.iterdir(), "--out", tmp_path / "out") == 0
    lock.release()
    text = (tmp_path / "out/report.md").read_text()
    (row,) = cells(tmp_path / "out/report.md")
    assert sorted(row["status"].split(", ")) == ["1 finished", "1 stopped", "1 training"]
    played = "evaluated at step 100 with 8 episodes from seed 0"
    assert f"- {tmp_path}/stopped: seed 0, stopped at 100 of 300 steps, {played}" in text
    assert f"- {tmp_path}/whole: seed 1, finished, evaluated at step 300" in text
    assert make(tmp_path / "training", "--out", tmp_path / "out") == 0
    assert cells(tmp_path / "out/report.md")[0]["status"] == "1 stopped"


def test_the_same_seed_twice_is_one_seed(tmp_path):
    """The run that went further counts. A seed with other fields is another agent's."""
    for name, steps, mean, rate in (("a", 2, 1.0, 1e-3), ("b", 3, 5.0, 1e-3), ("c", 3, 9.0, 1e-2)):
        write_run(tmp_path / name, config(0, rate), {"episode_return": [mean] * steps},
                  {"greedy": mean})  # fmt: skip
    write_run(tmp_path / "d", config(1), {"episode_return": [6.0] * 3}, {"greedy": 6.0})
    words = [tmp_path / name for name in "abcda"]  # a is named twice, too
    assert make(*words, "--out", tmp_path / "out") == 0
    first, second = cells(tmp_path / "out/report.md")
    assert (first["seeds"], first["learning_rate"]) == ("0", "0.01")
    assert (second["seeds"], second["greedy return"]) == ("0, 1", "5.5 (5 to 6)")
    text = (tmp_path / "out/report.md").read_text()
    said = f"- {tmp_path}/a: not counted, because it has the fields and the seed of {tmp_path}/b"
    assert text.count(said) == 2


def test_a_run_whose_fields_were_changed_is_an_agent_of_its_own(tmp_path):
    """It ends with the fields of the other, but was not trained with them all the time."""
    returns, played = {"episode_return": [1.0] * 3}, {"greedy": 1.0}
    for name, seed in (("a", 0), ("b", 0)):
        write_run(tmp_path / name, config(seed), returns, played)
    changed = {"learning_rate": (1e-2, 1e-3), "log_every": (1, 2)}
    records = changes.record([], changed, 200, 20)
    content = {"algorithm": "impala", "config": config(0), "changes": records}
    write_config(tmp_path / "b", content)
    assert make(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out") == 0
    rows = cells(tmp_path / "out/report.md")
    assert [row["changed"] for row in rows] == ["", "learning_rate 0.01 to step 200"]


def test_fields_that_change_nothing_of_learning_are_shown_on_request(tmp_path):
    quiet = {"log_every": 7, "eval_episodes": 9, "keep_checkpoints": 3, "actor_devices": 2}
    write_run(tmp_path / "a", config(0) | dict.fromkeys(quiet, 1), {"episode_return": [1.0] * 3})
    write_run(tmp_path / "b", config(1) | quiet, {"episode_return": [1.0] * 3})
    words = [tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out"]
    assert make(*words) == 0
    (row,) = cells(tmp_path / "out/report.md")
    assert row["seeds"] == "0, 1" and not set(quiet) & set(row)
    assert make(*words, "--all-fields") == 0
    rows = cells(tmp_path / "out/report.md")
    assert len(rows) == 2 and set(quiet) < set(rows[0])
    for algorithm in algorithms.NAMES:
        fields = {field.name for field in dataclasses.fields(algorithms.find(algorithm).Config)}
        assert set(not_of_learning(algorithms.find(algorithm).Config)) < fields
        hidden = not_of_learning(algorithms.find(algorithm).Config)
        assert set(quiet) <= set(hidden) == set(not_of_learning(RunConfig))


def made_up(agents, tasks=1, letters=20):
    """ends and curves of many agents, with names of some length."""
    ends, lines = [], []
    for i, task in itertools.product(range(agents), range(tasks)):
        name = " ".join(["ppo"] + [f"field_{j} {i}" for j in range(letters // 10)])
        own = {"agent": name, "task": f"Task-{task}" if tasks > 1 else "", "seed": 0}
        result = {"greedy": {"mean": float(i)}}
        ends.append({**own, "score": "greedy", "evaluated_at": 900, "results": result})
        for steps in range(0, 1000, 100):
            point = {"env_steps": steps, "episodes": 5, "episode_return": i * steps / 900}
            lines.append({**own, **point})
    return ends, lines


@pytest.mark.parametrize(
    "letters",
    [pytest.param(10, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.slow), 300],
)
@pytest.mark.parametrize("agents", [1, pytest.param(5, marks=pytest.mark.slow), 12, 30])
@pytest.mark.parametrize("tasks", [1, 3])
def test_a_legend_is_never_cropped_and_leaves_room(agents, letters, tasks):
    figure = curves.draw(*made_up(agents, tasks, letters), "curves")
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == min(agents, curves.LINES)
    whole, box = figure.bbox, legend.get_window_extent()
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    for axes in figure.axes:
        panel = axes.get_tightbbox()
        assert panel.y0 >= box.y1 and panel.y1 <= whole.y1
        assert axes.get_window_extent().height > 2.0 * figure.dpi


def test_few_short_episodes_at_a_checkpoint_are_no_fall():
    """A line of 2 short episodes among lines of 32, and then one of the 32 that ended first."""
    rows = [{"env_steps": 100 * i, "episodes": 32, "episode_return": 100.0} for i in range(60)]
    rows[30] |= {"episodes": 2, "episode_return": 20.0}
    _, low, mean, _ = curves._band([rows])
    np.testing.assert_array_equal(low, mean)
    assert mean.min() > 98
    rows[31]["episode_return"] = 50.0
    assert curves._band([rows])[2].min() > 85
    assert np.isclose(mean[[0, -1]], 100).all()


def test_a_curve_of_few_lines_keeps_its_shape():
    steps = np.arange(0, 1100, 100)
    rows = [{"env_steps": s, "episodes": 3, "episode_return": 1.0 * (s >= 500)} for s in steps]
    x, _, mean, _ = curves._band([rows])
    assert (mean[x < 200] < 0.02).all() and (mean[x > 800] > 0.98).all()
    assert (np.diff(mean) >= 0).all()
    _, _, alone, _ = curves._band([rows[:1]])
    assert (alone == 0).all()


def test_a_band_runs_from_the_least_seed_to_the_largest():
    rows = [
        [
            {"env_steps": s, "episode_return": scale * s, "episodes": 3}
            for s in range(0, end + 1, 50)
        ]
        for scale, end in ((1.0, 400), (3.0, 500))
    ]
    x, low, mean, high = curves._band(rows)
    assert x[0] == 0 and x[-1] == 400
    ended = [{"env_steps": s, "episode_return": 0.0, "episodes": 3} for s in (10, 20)]
    late = [row for row in rows[0] if row["env_steps"] >= 50]
    x_late, low_late, _, high_late = curves._band([late, ended])
    assert (x_late[0], x_late[-1]) == (50, 400) and (low_late == high_late).all()
    middle = (x > 150) & (x < 250)  # away from the ends' smoothing
    np.testing.assert_allclose(low[middle], x[middle], rtol=0.02)
    np.testing.assert_allclose(mean[middle], 2 * low[middle], rtol=0.02)
    np.testing.assert_allclose(high[middle], 3 * low[middle], rtol=0.02)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "Runs that differ in nothing but the seed are one agent"),
        ("--out x", "no run is named: make report RUNS="),
        ("nowhere", "nowhere/config.json is missing"),
        ("a --seeds 3", "there is no field '--seeds'"),
        ("a --out --all-fields", "--out needs a value"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert make(*words.split()) == (2 if words else 0)
    output = capfd.readouterr()
    assert sentence in output.out + output.err
    assert not any(tmp_path.iterdir())


def test_a_runs_gifs_are_linked(tmp_path):
    """From the report's own folder."""
    write_run(tmp_path / "runs/a", config(0), {"episode_return": [1.0]}, {"greedy": 2.0})
    write_run(tmp_path / "runs/b", config(1), {"episode_return": [1.0]}, {"greedy": 3.0})
    for name in ("episode.gif", "best.gif"):
        (tmp_path / "runs/a" / name).write_bytes(b"GIF89a")
    folders = [str(tmp_path / "runs" / name) for name in "ab"]
    text = report.write(folders, tmp_path / "runs/report").read_text()
    (line,) = [line for line in text.splitlines() if ".gif" in line]
    assert line.startswith(f"- {folders[0]}: ")
    assert line.endswith(", [best.gif](../a/best.gif), [episode.gif](../a/episode.gif)")


def test_a_game_has_the_curves_of_its_evaluations(tmp_path):
    game = config(0, env="TicTacToe-v1")
    task = "TicTacToe-v1:opponent=random"
    metrics = {
        "episode_return": [0.1, 0.0, 0.2],
        f"eval/sampled_return/{task}": [None, 0.5, 0.75],
    }
    write_run(tmp_path / "run", game, metrics, {f"sampled {task}": 0.8, f"greedy {task}": 0.9})
    ends, curves = gather.collect(*gather.results(tmp_path / "run"))
    assert [row["task"] for row in ends] == [task]
    assert [row["episode_return"] for row in curves] == [0.5, 0.75]


TEAMS = "rock_paper_scissors:RockPaperScissors"


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize(
    ("env", "key", "task", "expected"),
    [
        # A single player has no name in evaluations. Training's returns are against past selves.
        ("Go9x9-v1", "eval/sampled_return", "", [0.5, 0.75]),
        (f"teams/experiments.{TEAMS}", "eval/sampled_return", "", [0.5, 0.75]),
        ("Go9x9-v1:opponent=random", "eval/sampled_return", "", [0.1, 0.0, 0.2]),
        ("Catch-v0", "eval/sampled_return", "", [0.1, 0.0, 0.2]),
        ("TicTacToe-v1", "eval/sampled_return/a", "a", [0.5, 0.75]),
    ],
)
def test_a_curve_of_self_play_is_against_others(env, key, task, expected, evaluated, tmp_path):
    metrics = {"episode_return": [0.1, 0.0, 0.2], key: [None, 0.5, 0.75]}
    played = {f"sampled {task}".strip(): 0.8} if evaluated else None
    write_run(tmp_path / "run", config(0, env=env), metrics, played)
    ends, curves = gather.collect(*gather.results(tmp_path / "run"))
    assert [row["task"] for row in ends] == [task]
    assert [row["episode_return"] for row in curves] == expected
