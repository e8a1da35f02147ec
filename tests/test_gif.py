"""Gifs: whole episodes at the task's own speed, with step and return; that none is made is no
failure."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from environments import make
from gymnasium import spaces
from PIL import Image
from test_train import play

from rlsys.acting import playing
from rlsys.envs import Episode, Options
from rlsys.envs.backend import Backend
from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.results import gif

SMALL = (
    "--num-envs 4 --minibatches 1 --unroll-length 8 --refresh-steps 8 --hidden-size 8 "
    "--head-size 8 --core-size 0 --eval-episodes 2 --env-steps 64"
).split()


def player(envs, action):
    return playing.EvalPolicy(envs, lambda params, t, state, key: (action, (), state, key), (), 0)


def images(path):
    """The pictures of a gif and for how long each is shown, in milliseconds."""
    with Image.open(path) as file:
        found = []
        for i in range(file.n_frames):
            file.seek(i)
            found.append((np.asarray(file.convert("RGB")), file.info["duration"]))
        assert file.info["loop"] == 0
    return found


class Drawn:
    """One environment with an episode of some steps, and a picture for each."""

    num_envs, explodes_at = 1, 0

    def __init__(self, length, rate, picture):
        self.length, self.steps_per_second, self.picture = length, rate, picture

    def reset(self):
        self.time = 0
        return SimpleNamespace()

    def step(self, action):
        self.time += 1
        return SimpleNamespace(truncated=np.array([self.time == self.explodes_at]))

    def render(self):
        return self.picture(self.time)

    def _episode(self, ended):
        return [Episode(0.5 * self.time, self.time, 0, "drawn", ended)]

    def pop_episodes(self):
        return self._episode(True) if self.time == self.length else []

    def running_episodes(self):
        return self._episode(False)

    def close(self):
        pass


def shade(time):
    return np.full((40, 60, 3), (9 * time) % 250, np.uint8)


@pytest.mark.parametrize(
    ("rate", "times"),
    [
        (15.0, [70, 60, 70, 70, 60, 70]),  # a gif counts in hundredths of a second
        (20.0, [50] * 6),
        (50.0, [40] * 3),  # every second step
        (125.0, [40, 10]),  # every fifth, and the last
        (None, [100] * 6),
    ],
)
def test_an_episode_lasts_as_long_as_it_does(rate, times, tmp_path):
    """And its last picture a little longer."""
    assert gif.record(tmp_path / "a.gif", player(Drawn(6, rate, shade), None), None) == ""
    assert [shown for _, shown in images(tmp_path / "a.gif")] == [*times, 2000]


def test_pictures_are_what_was_drawn_with_step_and_return_below(tmp_path):
    """Also where little changes, and where there are more colors than a gif has."""
    random = np.random.default_rng(0)
    noise = random.integers(256, size=(6, 240, 480, 3), dtype=np.uint8)

    def picture(time):
        drawn = np.zeros((240, 480, 3), np.uint8)
        drawn[20 * time : 20 * time + 20, 30:50] = (255, 10 * time, 7)
        return drawn

    for draw, most in ((picture, 0), (lambda t: np.sort(noise[t], axis=0), 40)):
        gif.record(tmp_path / "a.gif", player(Drawn(5, 10.0, draw), None), None)
        found = images(tmp_path / "a.gif")
        assert len(found) == 6
        for time, (image, _) in enumerate(found):
            episode = Episode(0.5 * time, time, 0, "drawn", time == 5)
            expected = gif.captioned(gif.Frame(draw(time), episode), "end" if time == 5 else "")
            assert image.shape == expected.shape == (180 + gif.CAPTION, 360, 3)
            assert np.abs(image.astype(int) - expected).max() <= most
    captions = [image[-gif.CAPTION :] for image, _ in found]
    assert all((captions[i] != captions[i + 1]).any() for i in range(5))
    assert all(caption.max() > 200 for caption in captions)


def test_small_pictures_are_enlarged():
    frame = gif.Frame(np.zeros((4, 7, 3), np.uint8), Episode(0.0, 0, 0, ""))
    assert gif.captioned(frame).shape == (26 * 4 + gif.CAPTION, 26 * 7, 3)


def test_a_gif_that_grows_too_large_is_cut(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    envs = Drawn(10_000, 10.0, lambda t: random.integers(256, size=(99, 200, 3), dtype=np.uint8))
    monkeypatch.setattr(gif, "MOST_MB", 0.3)
    note = gif.record(tmp_path / "a.gif", player(envs, None), None)
    assert note == f", of which {envs.time:,} steps are shown: it is cut at 0.3 MB"
    found = images(tmp_path / "a.gif")
    assert len(found) == envs.time + 1 < 30 and found[-1][1] == 2000
    assert 0.3e6 < (tmp_path / "a.gif").stat().st_size < 0.4e6
    monkeypatch.setattr(gif, "MOST_SECONDS", 0.0)
    note = gif.record(tmp_path / "a.gif", player(Drawn(10_000, 10.0, shade), None), None)
    assert note == ", of which 1 steps are shown: it is cut after 0 seconds of drawing"


def test_what_the_first_step_compiles_is_no_drawing(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(gif.time, "monotonic", lambda: now)

    def slow_at_first(t):
        nonlocal now
        now += 100.0 if t <= 1 else 1.0
        return shade(t)

    envs = Drawn(10, 10.0, slow_at_first)
    assert gif.record(tmp_path / "a.gif", player(envs, None), None) == ""
    assert len(images(tmp_path / "a.gif")) == 11


def test_an_episode_that_never_ends_is_cut_as_in_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(playing, "MAX_STEPS", 7)
    gif.record(tmp_path / "a.gif", player(Drawn(10_000, 10.0, shade), None), None)
    assert len(images(tmp_path / "a.gif")) == 8


def test_a_whole_game_is_shown_where_the_learner_sees_an_end_at_each_life():
    """Breakout has five lives. The last picture is the last one of the game, not a new game's."""
    options = Options(life_loss_ends=True, max_episode_steps=150)
    envs, ends = make("Breakout-v5", 1, 0, options, render=True), []
    own = player(envs, np.array([1]))
    step = envs.step

    def watched(action):
        timestep = step(action)
        ends.append(timestep.discount[0] == 0 or timestep.truncated[0])
        return timestep

    envs.step = watched
    frames = list(gif.frames(own, None, 1))
    assert sum(ends) > 1 and ends[-1]
    length = len(ends) - sum(ends[:-1])  # without the steps that are spent on resets
    assert [f.episode.length for f in frames] == [*range(length + 1)]
    assert [f.episode.ended for f in frames] == [False] * length + [True]
    envs.close()


def train(folder, env, *more):
    return play("ppo", "--preset", "small", "--env", env, *SMALL, "--run-dir", folder, *more)


@pytest.mark.slow
def test_a_run_ends_with_a_picture_of_the_final_policy(tmp_path, capfd):
    folder = tmp_path / "run"
    assert train(folder, "Catch-v0") == 0
    output = capfd.readouterr().out
    assert f"saved {folder}/episode.gif\n" in output and "evaluation.json, episode.gif" in output
    assert len(images(folder / "episode.gif")) == 10
    assert train(tmp_path / "without", "Catch-v0", "--no-gif") == 0
    assert "gif" not in capfd.readouterr().out.replace(str(tmp_path), "")
    assert not list((tmp_path / "without").glob("*.gif"))


class Slide:
    """A place that moves by 1 / mass at each step, for as long as a time limit allows."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, mass: float = 1.0):
        self.mass = mass

    def reset(self, key):
        return jnp.zeros(1), jnp.zeros(1)

    def step(self, key, state, action):
        state = state + 1 / self.mass
        return state, state, 1.0, False, {}

    def render(self, state):
        return np.full((20, 20, 3), 10, np.uint8)


@pytest.mark.slow
def test_drawn_physics_stay_for_a_whole_episode_as_in_evaluation(tmp_path, capfd):
    """Training draws them anew, and cuts the episodes that run, after 5 steps."""
    words = "--randomise.physics mass=uniform:0.5:2 --randomise.variants 2"
    words = f"{words} --randomise.redraw-steps 5".split()
    env = "jax/tests.test_gif:Slide:max_episode_steps=12"
    assert train(tmp_path / "run", env, *words) == 0
    assert "no gif" not in capfd.readouterr().out
    assert len(images(tmp_path / "run/episode.gif")) == 13


def test_an_episode_whose_simulation_explodes_is_cut_there(tmp_path):
    envs = Drawn(10, 10.0, shade)
    envs.explodes_at = 4
    gif.record(tmp_path / "a.gif", player(envs, None), None)
    assert [shown for _, shown in images(tmp_path / "a.gif")] == [100] * 3 + [2000]


@pytest.mark.parametrize(("where", "name"), [(Backend, "render"), (EnvPoolEnvs, "_make")])
def test_a_renderer_that_fails_is_no_failure(where, name, tmp_path, capfd, monkeypatch):
    """Whatever it raises, when it draws or when it is made."""
    right = getattr(where, name)

    def fail(self, *args):
        if self._can_render:
            raise RuntimeError("no\n  display.")
        return right(self, *args)

    monkeypatch.setattr(where, name, fail)
    assert train(tmp_path / "run", "Catch-v0") == 0
    assert "no gif: no display.\n" in capfd.readouterr().out
    assert (tmp_path / "run/evaluation.json").exists()


def test_a_full_disk_is_no_failure(tmp_path, capfd, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gif, "_append", fail)
    assert train(tmp_path / "run", "Catch-v0") == 0
    assert "episode.gif could not be written: No space left on device." in capfd.readouterr().out
    assert not list((tmp_path / "run").glob("*.gif*"))
