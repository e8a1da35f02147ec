"""Transfer: domains beyond a range and new to a policy, the table, the heat map, bad words."""

import dataclasses
import json
import math

import pytest
from test_train import play
from untrained import write_run

from rlsys import train
from rlsys.algorithms import ppo
from rlsys.envs import NOTHING, Options, Randomise, make
from rlsys.envs.randomise.effects import OFF, Effects
from rlsys.envs.randomise.words import read
from rlsys.results import domains, report, transfer
from rlsys.types import UserError


@pytest.mark.parametrize(
    "text, expected",
    [
        ("mass=scale:0.5:2", [(0.25, 0.5), (2, 4)]),  # a width of 4, half of it is 2
        ("gear@slide=logscale:0.1:10", [(0.01, 0.1), (10, 100)]),
        ("friction=scale:0:1:all", [(1, 1.5)]),  # no factor is negative
        ("range=add:-1:1", [(-2, -1), (1, 2)]),
        ("gravity=normal:0.4", [(-1.2, -0.8), (0.8, 1.2)]),
        ("length=uniform:1:3", [(0, 1), (3, 4)]),
        ("length=gaussian:5:1", [(2, 3), (7, 8)]),
    ],
)
def test_a_range_is_left_by_half_its_width(text, expected):
    word = read(text)
    found = [read(shift) for shift in domains.beyond(word)]
    assert [x.numbers for x in found] == [pytest.approx(pair) for pair in expected]
    assert {(x.what, x.names, x.together) for x in found} == {
        (word.what, word.names, word.together)
    }
    if word.how in ("scale", "logscale"):  # never inside the range of training
        low, high = word.numbers
        assert all(b <= low or a >= high for a, b in (x.numbers for x in found))


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("action_noise", 0.05, 0.1),
        ("action_delay", 0.6, 1.0),
        ("observation_noise", "0.01", "0.02"),
        ("observation_offset", "a.0-2+b.4-6=0.005,c=0.1rad", "a.0-2+b.4-6=0.01,c=0.2rad"),
        ("sensor_loss", "observation=1e-2", "observation=0.02"),
    ],
)
def test_an_effect_beyond_is_twice_as_large(field, value, expected):
    assert domains.twice(field, value) == expected
    Randomise(**{field: expected})  # is one


def test_domains_follow_from_what_training_drew():
    randomise = Randomise(physics=("mass=scale:0.5:2", "gear=scale:0.5:2"), action_delay=0.5)
    effects = OFF._replace(action_delay=0.5)
    found = domains.held_out(randomise, effects, counted=False)
    kinds = [x.kind for x in found]
    assert kinds[:2] == ["trained", "nominal"] and found[0].randomise == randomise
    assert kinds.count("beyond") == 5 and kinds.count("together") == 1
    (together,) = [x.randomise for x in found if x.kind == "together"]
    assert together == Randomise(physics=("mass=scale:2:4", "gear=scale:2:4"), action_delay=1.0)
    new = [x for x in found if x.kind == "new"]
    assert not any(x.randomise.action_delay for x in new)
    assert not any("mass" in word for x in new for word in x.randomise.physics_words)
    assert {"action_noise", "observation_drop"} <= {x.name.split()[0] for x in new}
    for domain in found:  # nothing but what its name says
        if domain.kind in ("beyond", "new"):
            changed = [f for f in (*Effects._fields, "physics") if getattr(domain.randomise, f)]
            assert len(changed) == 1


def test_a_lost_sensor_stays_lost_as_long_as_in_training():
    effects = OFF._replace(sensor_loss="0.2", sensor_loss_seconds=5.0)
    found = domains.held_out(Randomise(sensor_loss="0.2"), effects, counted=False)
    (beyond,) = [x.randomise for x in found if x.kind == "beyond"]
    assert (beyond.sensor_loss, beyond.sensor_loss_seconds) == ("0.4", 5.0)


def test_a_run_that_draws_nothing_has_no_domain_of_its_training():
    for given in (NOTHING, Randomise(show_value=True), Randomise(physics=("none",))):
        found = domains.held_out(given, OFF, counted=False)
        assert not given.draws and found[0].kind == "nominal"
    for given in (Randomise(preset="dactyl"), Randomise(action_delay=0.5)):
        assert given.draws


def test_an_effect_of_size_0_is_off():
    off = {"observation_noise": "0", "sensor_loss": "obs.0=0,obs.1=0.0", "action_delay": 0.0}
    assert not Randomise(**off).draws and Randomise(**off | {"observation_noise": "0.1"}).draws
    found = domains.held_out(Randomise(**off), OFF._replace(**off), counted=False)
    assert {x.kind for x in found} == {"nominal", "new"}
    assert any(x.name.startswith("action_delay") for x in found)


def test_a_motors_gain_is_not_new_where_its_gear_was_drawn():
    randomise = Randomise(physics=("gear=scale:0.5:2",))
    found = domains.held_out(randomise, OFF, counted=False)
    assert not any("gain=" in x.name for x in found)


def test_a_presets_words_without_a_place_in_the_task_make_no_domain():
    preset = Randomise(preset="dactyl")
    size = preset.physics_words[0]
    found = domains.held_out(preset, OFF, counted=False, left_out=[size])
    words = [word for x in found[1:] for word in x.randomise.physics_words]
    assert not any(word.startswith("size") for word in words)
    (together,) = [x.randomise for x in found if x.kind == "together"]
    assert len(together.physics_words) == len(preset.physics_words) - 1


def test_counted_actions_have_no_noise():
    found = domains.held_out(NOTHING, OFF, counted=True)
    assert found[0].kind == "nominal"
    assert not any(x.randomise.action_noise or x.randomise.action_gain for x in found)
    assert any(x.randomise.action_delay for x in found)


def test_effects_are_those_of_training_whatever_options_the_run_has():
    """They are on the task's whole observation, before observe, and on actions before bins."""
    options = Options(observe=(0,), action_bins=5)
    given = Randomise(preset="dactyl", physics=("none",))
    config = ppo.Config(env="InvertedPendulum-v5", env_options=options, randomise=given)
    found = transfer.domains_of(transfer.Run(ppo.ALGORITHM, config, None, "sampled"))
    lost = [x.randomise for x in found if x.name.startswith("sensor_loss")]
    assert [x.sensor_loss for x in lost] == [",".join(f"obs.{i}=0.4" for i in range(4))]
    assert any(x.name.startswith("action_noise") for x in found)
    for domain in found:
        if not domain.randomise.physics_words:
            make(config.tasks[0]._replace(randomise=domain.randomise), 8, 0).close()


@pytest.mark.parametrize("asked", [1, 4, 10, 20, 75, 100, 200])
def test_each_draw_plays_equally_many_episodes(asked):
    num_envs, episodes = transfer.shared(asked)
    each = num_envs // transfer.VARIANTS
    assert 0 <= episodes - asked < transfer.VARIANTS and 1 <= each <= transfer.MOST
    assert num_envs % transfer.VARIANTS == 0 and episodes % num_envs == 0


def test_a_table_says_how_many_episodes_ended():
    row = {"domain": "a", "kind": "new", "mean": 2.0, "interval_95_low": 1, "interval_95_high": 3}
    seeds = [[{**row, "episodes": 10, "ended": x}] for x in (10, 7)]
    lines = transfer.table({"x": seeds, "y": seeds[1:], "z": seeds[:1]})
    assert (
        lines[2]
        == "| a | new | 2 (2 to 2), 17 of 20 ended | 2 (1 to 3), 7 of 10 ended * | 2 (1 to 3) * |"
    )


RUN = (
    "ppo --env InvertedPendulum-v5 --preset small --num-envs 8 --unroll-length 8 "
    "--refresh-steps 8 --minibatches 2"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    more = {
        "plain": "",
        "drawn": "--seed 1 --randomise.physics mass=scale:0.5:2 --randomise.variants 2",
    }
    for name, words in more.items():
        write_run(folder / name, f"{RUN} {words}")
    return folder


@pytest.mark.slow
def test_runs_are_tested_in_the_same_domains(runs, capsys):
    both = [runs / "plain", runs / "drawn"]
    words = "--episodes 4 --physics gear=scale:3:3 --grid mass=scale:0.5:2 gear=scale:0.5:2"
    assert play("transfer", *both, *words.split(), "--cells", "2") == 0
    printed = capsys.readouterr().out
    assert "left out: friction=scale:0.4:0.7" in printed
    first, second = (json.loads((x / "transfer.json").read_text()) for x in both)
    assert [x["domain"] for x in first["rows"]] == [x["domain"] for x in second["rows"]]
    assert first["rows"][0]["kind"] == "trained" and first["rows"][-1]["domain"] == "gear=scale:3:3"
    assert all(x["episodes"] == 10 and math.isfinite(x["mean"]) for x in first["rows"])
    assert [len(x) for x in second["grid"]["score"]] == [2, 2]
    assert (runs / "drawn/transfer.png").stat().st_size > 1000
    assert play("transfer", *both, *words.split(), "--cells", "2") == 0  # repeats itself
    assert json.loads((runs / "plain/transfer.json").read_text()) == first
    path = report.write([str(x) for x in both], runs / "report")
    text = path.read_text()
    assert "| gear=scale:3:3 | beyond |" in text and "transfer.png" in text


def test_a_policy_meets_the_physics_that_a_domain_names(runs):
    """With a gear of 0 nothing moves the cart, so all policies do alike; as it is they do not."""
    opened = [
        transfer.open_run(*train.load(str(runs / name)), "sampled") for name in ("plain", "drawn")
    ]
    still, moved = Randomise(physics=("gear=scale:0:0",)), NOTHING
    still_results, moved_results = (
        [run.play(randomise, 4, 7) for run in opened] for randomise in (still, moved)
    )
    assert still_results[0] == still_results[1] and moved_results[0] != moved_results[1]
    fewer = opened[0]._replace(config=dataclasses.replace(opened[0].config, num_envs=4))
    assert fewer.play(moved, 4, 7) == moved_results[0]  # whatever the run's number


@pytest.mark.parametrize(
    "words, message",
    [
        ("--episodes 0", "episodes must be 1 or more"),
        ("--physics mass=scale:2:1", "low 2 is above high 1"),
        ("--grid mass=scale:1:2", "grid takes two words"),
        ("--grid mass=normal:1 gear=scale:1:2", "a low and a high"),
        ("--grid mass=gaussian:1:2 gear=scale:1:2", "a low and a high"),
        ("--mode fast", "mode must be"),
        ("--grid mass=scale:1:2 friction=scale:0.5:2", "does nothing"),
        ("--grid mass@torso=scale:1:2 gear=scale:0.5:2", "no mass of that name"),
    ],
)
def test_bad_words_are_sentences(runs, words, message, capsys):
    assert play("transfer", runs / "plain", *words.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_runs_of_two_tasks_are_refused(runs):
    _, config = train.load(str(runs / "plain"))
    other = dataclasses.replace(config, env="InvertedDoublePendulum-v5")
    assert transfer.task_of([config, config]) == "InvertedPendulum-v5"
    with pytest.raises(UserError, match="and not one task"):
        transfer.task_of([config, other])
