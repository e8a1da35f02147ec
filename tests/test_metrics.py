"""The glossary has every metric that a run writes and no other; TensorBoard has them in groups."""

import functools
import json

import pytest
from PIL import Image

from rlsys import __main__ as rlsys
from rlsys import algorithms, cli
from rlsys.running import events
from rlsys.running.metrics import GROUP_OF, GROUPS, glossary_name, tag
from tests.test_log import events as events_of
from tests.test_train import OTHERS, TASKS, WORDS, play

GAME = "--env KuhnPoker-v1 --num-envs 32 --minibatches 2 --env-steps 2048 --log-every 1024"
PHYSICS = (
    "--env InvertedPendulum-v5 --num-envs 32 --minibatches 2 --env-steps 2048 --log-every 1024 "
    "--randomise.physics mass=scale:0.5:1.5 --randomise.adapt True "
    "--randomise.adapt-threshold-high 8 --randomise.adapt-threshold-low 6"
)
TEAMS = (
    "--env teams/team_fakes:Duel --num-envs 64 --minibatches 2 --unroll-length 16 "
    "--refresh-steps 16 --env-steps 4096 --log-every 2048 --eval-every 2048"
)
GOALS = (
    "--env FetchReachDense-v4 --num-envs 8 --minibatches 2 --unroll-length 16 "
    "--refresh-steps 16 --env-steps 512 --log-every 256 --eval-every 256"
)
ALGORITHMS = ["r2d2", *(pytest.param(x, marks=pytest.mark.slow) for x in WORDS if x != "r2d2")]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Gives the folder of a short run: of an algorithm, of self-play in a game whose tree is known,
    of teams, of a task that tells of successes, or with drawn physics whose ranges widen. Each is
    trained when it is first asked for.
    """
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(name):
        own = {"game": GAME, "physics": PHYSICS, "teams": TEAMS, "goals": GOALS}
        words = ["ppo", *own.get(name, "").split(), "--eval-episodes", 4]
        if name not in own:
            words = [name, *WORDS[name], "--unrolls-ahead", 1, "--env-steps", 1600]
            words += ["--eval-every", 800]
        assert play(*words, "--run-dir", folder / name) == 0
        return folder / name

    return run


NAMES = (*algorithms.NAMES, "game", "physics", "teams", "goals")


def names_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {glossary_name(name) for line in lines for name in json.loads(line)}


@pytest.mark.slow
def test_the_glossary_has_what_a_replay_and_self_play_write(run_of):
    written = names_of(run_of("r2d2")) | names_of(run_of("game"))
    assert len(written) > 60 and written - GROUP_OF.keys() == set(), "metrics without an entry"


@pytest.mark.slow
def test_the_glossary_has_every_metric_and_no_other(run_of):
    written = set().union(*(names_of(run_of(name)) for name in NAMES))
    assert written - GROUP_OF.keys() == set(), "metrics without an entry"
    assert GROUP_OF.keys() - written == set(), "entries of metrics that no run writes"
    for metrics in GROUPS.values():
        for metric in metrics:
            assert metric.words.endswith(".") and metric.words.count(". ") == 0, metric


def test_in_poker_every_line_and_the_evaluation_have_the_exploitability(run_of):
    folder = run_of("game")
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line["eval/exploitability"] for line in lines]
    assert len(set(logged)) == len(logged) == 2 and min(logged) > 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["exact"] == {"eval/exploitability": pytest.approx(logged[-1])}


def test_the_glossary_is_printed_in_80_columns(capfd):
    assert cli.exit_code(lambda: rlsys.main(["metrics"])) == 0
    lines = capfd.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    heads = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert set(GROUP_OF) <= set(heads)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_tags_stand_in_groups(run_of, name):
    folder = run_of(name)
    written = events_of(folder)
    values = [(v, event.step) for event in written for v in event.summary.value]
    tags = {value.tag for value, _ in values}
    assert {one.partition("/")[0] for one in tags} - {"config", "replay"} == {
        "train", "episode", "time", "health", "eval"
    }  # fmt: skip
    assert {"train/learning_rate", "train/loss", "episode/episode_return"} < tags
    (config,) = [value for value, _ in values if value.tag.startswith("config")]
    assert config.metadata.plugin_data.plugin_name == "text"
    text = config.tensor.string_val[0].decode()
    assert "| num_envs | " in text and "| env_steps | 1600 |" in text
    found = json.loads((folder / "evaluation.json").read_text())
    played = {
        f"eval/{name.replace(' ', '_return/') if ' ' in name else f'{name}_return'}": result
        for name, result in found["results"].items()
    }
    last = {value.tag: (value.simple_value, step) for value, step in values}
    for name, result in played.items():  # after the evaluations during training
        assert last[name] == (pytest.approx(result["mean"]), found["env_steps"])
    several = folder.name in OTHERS
    assert (f"eval/greedy_return/{TASKS[1]}" in tags) == several
    assert (f"episode/episode_return/{TASKS[1]}" in tags) == several


def test_names_of_ones_own_are_in_train():
    assert tag("my_term") == "train/my_term" and tag("my/term") == "train/my/term"
    assert tag("episode_return/a/b") == "episode/episode_return/a/b"
    assert tag("replay_ratio") == "replay/replay_ratio" and tag("eval/x") == "eval/x"


def test_an_evaluation_goes_into_the_newest_file(tmp_path):
    """TensorBoard stops reading a file once there is a newer one."""
    running = events.Events(tmp_path)
    events.add(tmp_path, events.scalars({"eval/greedy_return": 1.0}), 5)
    running.add(events.scalars({"loss": 2.0}), 10)
    running.close()
    assert len(list(tmp_path.iterdir())) == 1
    steps = [(e.step, v.tag) for e in events_of(tmp_path) for v in e.summary.value]
    assert steps == [(5, "eval/greedy_return"), (10, "train/loss")]
    (tmp_path / "empty").mkdir()
    events.add(tmp_path / "empty", events.scalars({"loss": 2.0}), 10)
    assert events_of(tmp_path / "empty")[0].file_version == "brain.Event:2"


def test_a_gif_is_a_picture(tmp_path):
    frames = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "episode.gif", save_all=True, append_images=frames[1:])
    events.add(tmp_path, events.picture("episode", tmp_path / "episode.gif"), 7)
    (value,) = events_of(tmp_path)[-1].summary.value
    assert value.tag == "eval/episode" and (value.image.width, value.image.height) == (30, 20)
    assert value.image.encoded_image_string.startswith(b"GIF8")
