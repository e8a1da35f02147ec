"""Exported policies: they act as evaluation does, in programs that know nothing of the trainer."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from gymnasium import spaces
from test_train import play
from untrained import write_run

import rlsys
from rlsys import streams, train
from rlsys.acting import playing
from rlsys.acting.exported import ExportedPolicy
from rlsys.envs import make, space_json
from rlsys.envs.spaces import within_bounds
from rlsys.results import evaluate
from rlsys.types import UserError

SMALL = (
    "--num-envs 8 --hidden-size 16 --head-size 8 --unroll-length 8 --refresh-steps 8 "
    "--unrolls-ahead 0 "
)
PPO = SMALL + "--sequence-length 8 --minibatches 1 --epochs 1 --actors 1 "
RUNS = {
    "vector": "ppo --env CartPole-v1 " + PPO,
    "drawn, recurrent, continuous": "impala --env Pendulum-v1 --policy gaussian --core-size 8 "
    "--separate-networks True --normalize-observations True --batch-size 8 --actors 1 " + SMALL,
    "bins, with options": "ppo --env Pendulum-v1:observe=2,0:permute=3:reward-scale=0.5 "
    "--action-bins 5 --core-size 8 " + PPO,
    "Q-values, recurrent": "r2d2 --env Catch-v0 --core-size 8 --batch-size 4 --learning-starts 200 "
    "--replay-capacity 1000 --clip-rewards True --only-first True --actors 1 " + SMALL,
    "Q-values": "apex --env Catch-v0 --batch-size 4 --learning-starts 200 --replay-capacity 1000 "
    "--normalize-observations True --actors 1 " + SMALL,
    "Q-values, no memory": "apex --env CartPole-v1 --batch-size 8 --learning-starts 200 "
    "--replay-capacity 1000 --actors 1 " + SMALL,
    "frames": "ppo --env Pong-v5 --torso shallow --frame-stack 4 --core-size 0 "
    "--max-episode-steps 40 " + PPO,
}


@pytest.fixture(scope="module", params=RUNS)
def exported(request, tmp_path_factory):
    """A run's Algorithm and Config, and the file that its policy was exported to."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "run", RUNS[request.param])
    assert play("export", folder / "run", "--out", folder / "policy.zip") == 0
    return *train.load(str(folder / "run")), folder / "policy.zip"


def raw_action(task, action):
    """Returns an evaluation's action as the task takes it: as the bins' values if it has bins."""
    if task.env_id != "Pendulum-v1" or task.continuous:
        return action
    return np.linspace(-2.0, 2.0, task.options.action_bins, dtype=np.float32)[action]


@pytest.mark.parametrize("mode", [0, 1])
def test_actions_equal_evaluations_to_the_bit(exported, mode):
    algorithm, config, path = exported
    mode, (task,) = algorithm.eval_modes[mode], config.tasks
    network, params, *_ = evaluate.saved(algorithm, config)
    player = playing.eval_policy(algorithm, config, network, task, 3, 7, mode)
    plain = dataclasses.replace(task.options, observe=(), permute=0, reward_scale=1.0,
                                clip_rewards=False, action_bins=11, only_first=False)  # fmt: skip
    own = make(task._replace(options=plain, continuous=True), 3, 7)
    policy = rlsys.load_policy(path, mode)
    policy.reset(3, seed=7)

    key, core_state = streams.key(7, "evaluation"), player.core_state
    timestep, raw = player.envs.reset(), own.reset()
    for _ in range(60):
        action, _, core_state, key = player.policy(params, timestep, core_state, key)
        expected = raw_action(task, np.asarray(action))
        if task.continuous:  # beyond the bounds, as the first draws of a Gaussian may be
            expected = within_bounds(policy.action_space, expected)
        found = policy.act(raw.obs, raw.reward, raw.first)
        np.testing.assert_array_equal(found, expected)
        assert all(map(policy.action_space.contains, found))
        assert found.dtype.kind == ("f" if task.env_id == "Pendulum-v1" else "i")
        timestep, raw = player.envs.step(np.asarray(action)), own.step(found)
        np.testing.assert_array_equal(timestep.first, raw.first)
    player.envs.close()
    own.close()
    assert policy.modes == algorithm.eval_modes
    assert rlsys.load_policy(path).mode == algorithm.score_mode


def test_a_test_of_memory_shows_the_first_observation_alone(exported, tmp_path):
    """In each episode, whatever the program passes later."""
    *_, path = exported
    with zipfile.ZipFile(path) as file:
        about, params = json.loads(file.read("policy.json")), file.read("params.npz")
    for only_first in (False, True):
        about["options"]["only_first"] = only_first
        with zipfile.ZipFile(tmp_path / f"{only_first}.zip", "w") as file:
            file.writestr("policy.json", json.dumps(about))
            file.writestr("params.npz", params)
    whole, own = (rlsys.load_policy(tmp_path / f"{x}.zip") for x in (False, True))
    first = np.array([[True, True], [False, False], [False, True], [False, False]])
    for policy in (whole, own):
        policy.reset(2, seed=3)
    whole.observation_space.seed(0)
    for begins in first:
        obs = np.stack([whole.observation_space.sample() for _ in begins])
        blanked = np.where(begins.reshape(2, *[1] * (obs.ndim - 1)), obs, 0).astype(obs.dtype)
        expected = whole.act(blanked, np.ones(2), begins)
        np.testing.assert_array_equal(own.act(obs, np.ones(2), begins), expected)


def test_a_program_of_ones_own(tmp_path):
    """In five lines, in Gymnasium, without EnvPool and the trainer, from float64 and lists too."""
    words = RUNS["vector"].replace("CartPole-v1", "gymnasium/CartPole-v1")
    write_run(tmp_path / "run", words)
    assert play("export", tmp_path / "run", "--out", tmp_path / "policy.zip") == 0
    code = f"""
        import gymnasium, rlsys, sys
        env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
        policy = rlsys.load_policy({str(tmp_path / "policy.zip")!r})
        obs, _ = env.reset(seed=0)
        policy.reset(2)
        steps, ends = 0, 0
        while ends < 4:
            obs, _, ended, cut, _ = env.step(policy.act(obs.astype("float64")))
            steps, ends = steps + 2, ends + (ended | cut).sum()
        assert steps > 20 and policy.act(obs.tolist()).shape == (2,)
        loaded = [name for name in sys.modules if name.partition(".")[0] in ("envpool", "orbax")]
        loaded += [name for name in sys.modules if name.startswith(("rlsys.train", "rlsys.algo"))]
        loaded += [name for name in sys.modules if name.startswith("rlsys.running")]
        assert not loaded, loaded
    """
    env = {**os.environ, "PYTHONPATH": str(Path(rlsys.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env,
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "policy.zip") as file:
        assert sorted(file.namelist()) == ["params.npz", "policy.json"]


def test_what_does_not_fit_is_refused(exported):
    _, config, path = exported
    policy = rlsys.load_policy(path)
    shape = policy.observation_space.shape
    obs = np.zeros((2, *shape), policy.observation_space.dtype)
    with pytest.raises(UserError, match="comes before act"):
        policy.act(obs)
    policy.reset(2)
    for wrong in (obs[:1], obs[:, :1], {"x": obs}):
        with pytest.raises(UserError, match="an observation"):
            policy.act(wrong)
    policy.act(obs)
    with pytest.raises(UserError, match="reward is to be"):
        policy.act(obs, reward=np.zeros(3))
    if config.core_size:
        with pytest.raises(UserError, match="sees the last rewards"):
            policy.act(obs)
    else:
        policy.act(obs)
    with pytest.raises(UserError, match="plays greedy or"):
        rlsys.load_policy(path, "best")
    with pytest.raises(UserError, match="1 environment or more"):
        policy.reset(0)


def test_files_that_are_no_policies(exported, tmp_path):
    *_, path = exported
    with pytest.raises(UserError, match="there is no file"):
        rlsys.load_policy(tmp_path / "none.zip")
    (tmp_path / "text").write_text("no zip")
    (tmp_path / "half").write_bytes(path.read_bytes()[:-200])
    for name in ("text", "half"):
        with pytest.raises(UserError, match="no exported policy"):
            rlsys.load_policy(tmp_path / name)
    with zipfile.ZipFile(path) as file:
        about, params = json.loads(file.read("policy.json")), file.read("params.npz")
    sizes = about["network_arguments"]
    changes = (
        {"format": 2},
        {"network_arguments": {**sizes, "hidden_size": sizes["hidden_size"] + 1}},
    )
    for change, message in zip(changes, ("has format 2", "does not hold"), strict=True):
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
            file.writestr("policy.json", json.dumps({**about, **change}))
            file.writestr("params.npz", params)
        with pytest.raises(UserError, match=message):
            rlsys.load_policy(tmp_path / "other.zip")


def test_export_says_what_it_cannot_do(exported, tmp_path, capfd):
    _, config, _ = exported
    folder = Path(config.run_dir)
    assert play("export", folder, "--task", 1) == 2
    assert "task must lie in 0 to 0, not 1" in capfd.readouterr().err
    (tmp_path / "file").write_text("")
    assert play("export", folder, "--out", tmp_path / "file" / "x.zip") == 2
    assert "cannot be written" in capfd.readouterr().err


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1.0, np.inf, (2, 3)),
        spaces.Box(np.float64([0, 1]), np.float64([2, 3]), dtype=np.float64),
        spaces.Box(0, 255, (4, 4, 1), np.uint8),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([2, 5], start=[1, 0]),
        spaces.MultiBinary((2, 2)),
        spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1)))),
    ],
)
def test_spaces_as_json(space):
    text = json.dumps(space_json.to_json(space), allow_nan=False)
    assert space_json.from_json(json.loads(text)) == space


def test_a_space_that_has_no_json():
    with pytest.raises(UserError, match="of the kind Text"):
        space_json.to_json(spaces.Dict(a=spaces.Text(3)))


def test_reset_forgets(exported):
    *_, path = exported
    policy: ExportedPolicy = rlsys.load_policy(path, "greedy")
    space = policy.observation_space
    space.seed(0)
    obs = [np.stack([space.sample(), space.sample()]) for _ in range(6)]

    def play():
        return [policy.act(x, np.ones(2)) for x in obs], jax.device_get(policy._core_state)

    policy.reset(2)
    once, on = play(), play()
    policy.reset(2)
    jax.tree.map(np.testing.assert_array_equal, once, play())
    if once[1].lstm:
        differ = jax.tree.map(lambda a, b: (a != b).any(), once[1].lstm, on[1].lstm)
        assert any(jax.tree.leaves(differ))
