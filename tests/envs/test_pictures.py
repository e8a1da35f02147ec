"""How fast an episode is shown, of every kind of task, and which tasks cannot be drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
from environments import make

from rlsys.envs import Options, read_tasks
from rlsys.envs.backend import render_fps
from rlsys.envs.jax_interfaces import read
from rlsys.results import gif


@pytest.mark.parametrize(
    ("env_id", "rate"),
    [
        ("Pong-v5", 15.0),  # 60 screens a second, of which an action lasts 4
        ("CartPole-v1", 50.0),
        ("HalfCheetah-v4", 20.0),  # 5 x 0.01 s
        ("Hopper-v4", 125.0),  # 4 x 0.002 s
        ("Pusher-v5", 20.0),
        ("WalkerWalk-v1", 40.0),  # 10 x 0.0025 s
        ("BallInCupCatch-v1", 50.0),
        ("LunarLander-v2", 50.0),
        ("Catch-v0", None),
        ("gymnasium/CartPole-v1", 50.0),
        ("gymnasium/gymnasium_fakes:Clock-v0", None),
        ("jax/jax_fakes:own", None),
        ("CartPole-v1:flicker=0.5", 50.0),
    ],
)
def test_a_tasks_own_speed(env_id, rate):
    env_id, _, option = env_id.partition(":flicker")
    envs = make(env_id, 1, 0, Options(flicker=0.5 if option else 0.0))
    assert envs.steps_per_second == (rate and pytest.approx(rate))
    envs.close()


def test_the_speed_that_a_library_tells():
    assert render_fps({"render_fps": 30}) == 30.0
    assert [render_fps(x) for x in ({}, {"render_fps": 0}, {"render_fps": "fast"})] == [None] * 3
    brax = SimpleNamespace(
        action_size=2, dt=0.04, step=lambda *x: x, reset=lambda k: SimpleNamespace(obs=np.ones(3))
    )
    assert read(brax).steps_per_second == 25.0


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ("FrozenLake-v1", "'FrozenLake-v1' cannot be drawn here"),
        ("gymnasium/gymnasium_fakes:SeeBox-v0", "SeeBox-v0' cannot be drawn here"),
        ("jax/jax_fakes:own", "'jax/jax_fakes:own' cannot be drawn here"),
    ],
)
def test_a_task_that_cannot_be_drawn_is_no_failure(env, reason, tmp_path, capfd):
    """One sentence says so, and other tasks are drawn: for EnvPool, Gymnasium and JAX."""

    def policy(params, timestep, core_state, key):
        return np.zeros(1, int), (), core_state, key

    algorithm = SimpleNamespace(score_mode="greedy", make_eval_policy=lambda *args: policy)
    config = SimpleNamespace(tasks=read_tasks(f"{env},Catch-v0", Options()))
    network = SimpleNamespace(initial=lambda num_envs: ())
    assert gif.record_tasks(tmp_path, algorithm, config, network, None) == [
        tmp_path / "episode-1.gif"
    ]
    said, saved = capfd.readouterr().out.splitlines()
    assert said.startswith("no gif: ") and reason in said and said.count(".") == 1 + env.count(".")
    assert saved == f"saved {tmp_path}/episode-1.gif"
    assert [path.name for path in tmp_path.iterdir()] == ["episode-1.gif"]
