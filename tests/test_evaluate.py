"""Evaluation: every episode counts, cut ones too and said to be, and intervals keep to the data."""

import functools
import itertools
import json
import math
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from environments import make

from rlsys import cli, train
from rlsys.acting import playing
from rlsys.envs import Episode, Options, read_tasks
from rlsys.results import evaluate, evaluations
from rlsys.types import Timestep


class Made:
    """Environments whose episodes have the lengths that each is given, in turn, and reward 1."""

    name, team_size = "made", 1

    def __init__(self, *lengths, cut_at=0):
        self.num_envs, self._cut_at = len(lengths), cut_at
        self._lengths = [iter(each) for each in lengths]
        self._episodes = []

    def _timestep(self, first):
        truncated = (self._played == self._cut_at) & (self._played > 0)
        return Timestep((), first, *np.ones((2, self.num_envs)), truncated)

    def reset(self):
        self._due = [next(each) for each in self._lengths]
        self._played = np.zeros(self.num_envs, int)
        return self._timestep(np.ones(self.num_envs, bool))

    def step(self, action):
        first = self._played == self._due
        self._due = [
            next(each) if begins else due
            for each, begins, due in zip(self._lengths, first, self._due, strict=True)
        ]
        self._played = np.where(first, 0, self._played + 1)
        for i in np.flatnonzero(self._played == self._due):
            self._episodes.append(Episode(float(self._due[i]), int(self._due[i]), int(i), "made"))
        return self._timestep(first)

    def pop_episodes(self):
        episodes, self._episodes = self._episodes, []
        return episodes

    def running_episodes(self):
        return [Episode(float(n), int(n), i, "made", False) for i, n in enumerate(self._played)]


def player(envs, action=None):
    return playing.EvalPolicy(envs, lambda params, t, state, key: (action, (), state, key), (), 0)


def forever(length):
    while True:
        yield length


def test_a_summary_counts_successes():
    episodes = [Episode(-1.0, 5, 0, "task", successes=x) for x in (0.0, 1.0, 1.0, 4.0)]
    result = evaluate.summary(episodes)
    assert (result["successes"], result["successes_median"]) == (1.5, 1.0)
    assert 0 <= result["successes_95_low"] < 1.5 < result["successes_95_high"] <= 4
    assert "; 1.5 successes an episode (95 % interval " in evaluate.describe("sampled", result)
    assert "successes" not in evaluate.summary([Episode(-1.0, 5, 0, "task")])


def test_an_episode_that_never_ends_counts_with_its_return_so_far(monkeypatch):
    """One of three environments never ends its episodes."""
    monkeypatch.setattr(playing, "MAX_STEPS", 20)
    envs = Made(forever(4), forever(6), forever(math.inf))
    episodes = playing.play(player(envs), None, 6)
    assert [e.env for e in episodes] == [0, 1, 2] * 2
    assert [e.length for e in episodes] == [4, 6, 20] * 2
    assert [e.ended for e in episodes] == [True, True, False] * 2
    result = evaluate.summary(episodes)
    assert (result["episodes"], result["ended"], result["mean"]) == (6, 4, 10.0)
    assert "4 of 6 ended, the others count with their return so far" in evaluate.describe(
        "greedy", result
    )
    ended = evaluate.summary([e for e in episodes if e.ended])
    assert "ended" not in evaluate.describe("greedy", ended)


def test_an_episode_whose_simulation_explodes_counts_with_its_return_so_far():
    """It is cut after 5 steps, before its end; what is played after that is another episode."""
    episodes = playing.play(player(Made(forever(4), forever(6), cut_at=5)), None, 4)
    assert [(e.env, e.length, e.ended) for e in episodes] == [(0, 4, True), (1, 5, False)] * 2


def test_if_none_ends_all_count(monkeypatch):
    monkeypatch.setattr(playing, "MAX_STEPS", 20)
    episodes = playing.play(player(Made(forever(math.inf), forever(math.inf))), None, 3)
    assert [(e.env, e.length, e.ended) for e in episodes] == [
        (0, 20, False), (1, 20, False), (0, 20, False)
    ]  # fmt: skip


def test_short_episodes_are_not_overcounted():
    """Both environments have as many episodes of 1 step as of 9, in another order."""
    envs = Made(iter([1, 9] * 20), iter([9, 1] * 20))
    episodes = playing.play(player(envs), None, 8)
    assert all([e.env for e in episodes].count(i) == 4 for i in (0, 1))


def test_the_longest_episodes_are_evaluated_too(monkeypatch):
    """All last as long as an episode may; each environment plays two."""
    monkeypatch.setattr(playing, "MAX_STEPS", 5)
    envs = make("Pendulum-v1", 2, 0, Options(max_episode_steps=5))
    episodes = playing.play(player(envs, np.zeros((2, 1), int)), None, 4)
    assert [(e.length, e.ended) for e in episodes] == [(5, True)] * 4


def test_a_cut_episode_has_what_was_earned_and_the_next_begins_afresh(monkeypatch):
    monkeypatch.setattr(playing, "MAX_STEPS", 7)
    action = np.zeros((2, 1), int)
    envs, same = (make("Pendulum-v1", 2, 0, Options(max_episode_steps=100)) for _ in range(2))
    episodes = playing.play(player(envs, action), None, 4)
    assert [(e.env, e.length, e.ended) for e in episodes] == [(0, 7, False), (1, 7, False)] * 2
    for cut in (episodes[:2], episodes[2:]):
        assert same.reset().first.all()
        earned = sum(same.step(action).reward.astype(float) for _ in range(7))
        np.testing.assert_allclose([e.episode_return for e in cut], earned)
    assert len({e.episode_return for e in episodes}) == 4


def test_environments_play_equally_often_and_kinds_meet_the_same(monkeypatch):
    seen = []

    def make_player(algorithm, config, network, task, num_envs, seed, kind):
        seen.append((num_envs, seed, kind))
        envs = Made(*(forever(1) for _ in range(num_envs)))
        envs.close = lambda: None
        return player(envs)

    monkeypatch.setattr(playing, "eval_policy", make_player)

    names = ("Catch-v0", "Catch-v0:permute=1")
    tasks = read_tasks(",".join(names), Options())
    config = SimpleNamespace(eval_tasks=tasks, num_envs=64)
    kinds = ("greedy", "sampled")
    played = playing.play_tasks(SimpleNamespace(eval_modes=kinds), config, None, None, 100)
    assert set(played) == {f"{kind} {name}" for kind in kinds for name in names}
    for episodes in played.values():
        assert np.all(np.bincount([e.env for e in episodes]) == 2) and len(episodes) == 100
    assert [num for num, _, _ in seen] == [50] * 4
    (first, second), (third, fourth) = [
        [seed for _, seed, kind in seen if kind == k] for k in kinds
    ]
    assert first == third != second == fourth


@pytest.mark.parametrize("returns", [[500.0] * 63 + [0.0], [0.1] * 10, [-1.0, 1.0], [3.0]])
def test_the_interval_keeps_to_the_datas_bounds(returns):
    """In the first case, 1.96 standard errors above the mean would pass 500."""
    result = evaluate.summary([Episode(r, 1, 0, "") for r in returns])
    low, high = result["interval_95_low"], result["interval_95_high"]
    assert min(returns) <= low <= result["mean"] <= high <= max(returns)
    assert (low < high) == (len(set(returns)) > 1)


@pytest.mark.slow
def test_the_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        mean, low, high = evaluate.mean_interval(random.normal(3.0, 2.0, size=20))
        assert low < mean < high
        hits += low < 3.0 < high
    assert 175 <= hits <= 199


def test_the_score_is_named_and_stands_first(tmp_path, capfd):
    episodes = {
        f"{kind} {task}": [Episode(mean, 3, 0, task)]
        for kind, mean in (("greedy", 1.0), ("sampled", 2.0)) for task in ("a", "b")
    }  # fmt: skip
    own = evaluate.evaluation("sampled", episodes, env_steps=10, learner_steps=2)
    found = json.loads(evaluate.report(tmp_path, own).read_text())
    assert found["score"] == "sampled" and (found["env_steps"], found["learner_steps"]) == (10, 2)
    assert list(found["results"]) == ["sampled a", "sampled b", "greedy a", "greedy b"]
    assert found["results"]["sampled a"]["mean"] == 2.0
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "score: sampled return in a 2", "score: sampled return in b 2",
        "also: greedy return in a 1", "also: greedy return in b 1",
    ]  # fmt: skip


def test_evaluations_stand_side_by_side(tmp_path):
    """Also those that several processes add at once, and one that is repeated stands once."""
    assert evaluations.read(tmp_path) == []
    played = {"greedy": [Episode(1.0, 3, 0, "")]}
    made = [
        evaluate.evaluation("greedy", played, env_steps=steps, learner_steps=1, seed=seed)
        | {"episodes": episodes}
        for steps, episodes, seed in itertools.product((100, 200), (3, 8), (0, 1))
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(functools.partial(evaluations.add, tmp_path), made + made, chunksize=1)
    first, *others = evaluations.read(tmp_path)
    assert (first["env_steps"], first["episodes"]) == (200, 8)  # the newest, with most episodes
    assert len(others) == 7 and all(one in [first, *others] for one in made)
    evaluations.add(tmp_path, first | {"seed": 7})
    assert evaluations.read(tmp_path)[0] == first  # of equals the first stays


@pytest.mark.parametrize(
    ("algorithm", "score", "other"),
    [
        ("r2d2", "greedy", "ladder"),
        ("apex", "greedy", "ladder"),
        ("impala", "sampled", "greedy"),
        ("ppo", "sampled", "greedy"),
    ],
)
@pytest.mark.slow
def test_a_run_whose_episodes_never_end_ends_well(
    algorithm, score, other, tmp_path, monkeypatch, capfd
):
    """With both kinds of play, and how many were cut."""
    monkeypatch.setattr(playing, "MAX_STEPS", 15)
    words = "--preset small --env Pendulum-v1 --num-envs 4 --hidden-size 8 --head-size 8".split()
    words += "--core-size 0 --unroll-length 10 --refresh-steps 10".split()
    words += "--env-steps 800 --eval-episodes 3".split()
    words += {
        "r2d2": "--learning-starts 200 --burn-in 0 --replay-capacity 2000".split(),
        "apex": "--learning-starts 200 --replay-capacity 2000".split(),
        "impala": ["--batch-size", "4"],
        "ppo": ["--minibatches", "2"],
    }[algorithm]
    run_dir = tmp_path / "run"
    assert cli.exit_code(lambda: train.main([algorithm, *words, f"--run-dir={run_dir}"])) == 0
    output = capfd.readouterr().out
    assert f"score: {score} return -" in output and f"also: {other} return -" in output
    assert output.count("0 of 3 ended") == 2
    found = json.loads((run_dir / "evaluation.json").read_text())
    assert found["score"] == score and list(found["results"]) == [score, other]
    for result in found["results"].values():
        assert (result["episodes"], result["ended"], result["length"]) == (3, 0, 15)
