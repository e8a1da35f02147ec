"""Runs that begin with the parameters of another: what is taken over, and what is refused."""

import json

import jax
import numpy as np
import pytest
from test_words import run
from untrained import write_run

from rlsys import algorithms, train
from rlsys.envs import make, shared_spaces
from rlsys.losses import popart
from rlsys.running import initial
from rlsys.running.checkpoint import Checkpoints
from rlsys.sweep import __main__ as sweep

SMALL = "--hidden-size 16 --head-size 8 --num-envs 16"
ENDS = (
    "--env-steps 640 --log-every 320 --eval-episodes 1 --no-gif --unroll-length 8 --refresh-steps 8"
)
REPLAY = "--learning-starts 400 --replay-capacity 2000 --batch-size 8"
IMPALA = f"impala {SMALL} --batch-size 16"
WORDS = {
    "ppo": f"ppo {SMALL} --normalize-observations",
    "impala": f"{IMPALA} --core-size 8",
    "r2d2": f"r2d2 {SMALL} --core-size 8 {REPLAY}",
    "apex": f"apex {SMALL} {REPLAY}",
}
STATISTICS = popart.init(1)._replace(mean=np.float32([3.0]), count=np.float32([500.0]))


def with_statistics(state):
    return state if state.popart is None else state._replace(popart=STATISTICS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def weights(folder):
    """Reads the learned parameters in a run's newest checkpoint, without statistics."""
    learner = Checkpoints(folder / "checkpoints").restore({"learner": None})[1]["learner"]
    return learner["params"]["params"]


def new_and_old(words, there):
    """The LearnerState of a new run that begins with another's parameters, and the other's."""
    name, *args = words.split()
    algorithm = algorithms.find(name)
    config = algorithms.config_of(name, [*args, "--init-from", str(there)])
    network = algorithm.make_network(config, *shared_spaces([make(config.tasks[0], 2, 0)]))
    new = algorithm.make_state(network, config)
    found = initial.begin(new, initial.read(algorithm, config, network), config)
    saved = Checkpoints(there / "checkpoints").restore({"learner": new})[1]["learner"]
    return found, saved, new


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=() if x in ("r2d2", "ppo") else pytest.mark.slow) for x in WORDS]
)
def test_parameters_and_statistics_are_taken_over_and_nothing_else(name, folder):
    there = write_run(folder / name, WORDS[name], change=with_statistics)
    found, old, new = new_and_old(f"{WORDS[name]} --seed 5", there)
    jax.tree.map(np.testing.assert_array_equal, found.params, old.params)
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, new.opt_state)
    assert int(found.step) == 0 and float(found.progress) == 0.0
    assert (jax.random.key_data(found.key) == jax.random.key_data(new.key)).all()
    assert jax.tree.structure(found) == jax.tree.structure(new)
    kinds = [(x.shape, x.dtype) for x in jax.tree.leaves(new)]
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(found)] == kinds
    if new.target_params is not None:
        jax.tree.map(np.testing.assert_array_equal, found.target_params, old.params)
        pairs = zip(
            jax.tree.leaves(found.params), jax.tree.leaves(found.target_params), strict=True
        )
        assert all(a is not b for a, b in pairs)
    if new.popart is not None:
        jax.tree.map(np.testing.assert_array_equal, found.popart, STATISTICS)
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), found.params, new.params)
    assert any(jax.tree.leaves(differ))


def test_of_other_tasks_statistics_of_values_begin_anew(folder):
    there = write_run(folder / "values", f"ppo {SMALL}", change=with_statistics)
    found, old, new = new_and_old(f"ppo {SMALL} --max-episode-steps 77", there)
    jax.tree.map(np.testing.assert_array_equal, found.params, old.params)
    jax.tree.map(np.testing.assert_array_equal, found.popart, new.popart)


OFF = ["--no-popart"]
FLOORS = [["--popart-floor", "0"], ["--popart-floor", "0.5"]]  # of a mean of 3: 0, 1.5


@pytest.mark.parametrize("there, here", [FLOORS, FLOORS[::-1], (FLOORS[1], OFF), (OFF, FLOORS[1])])
def test_values_stay_the_same_though_popart_is_another(there, here, folder):
    """In units of return: PopArt's scale and mean times the last layer's outputs."""
    statistics = STATISTICS if there != OFF else popart.init(1)
    words = f"ppo {SMALL} " + " ".join(there)
    found, old, _ = new_and_old(
        f"ppo {SMALL} " + " ".join(here),
        write_run(folder / f"{there}{here}", words, change=lambda x: x._replace(popart=statistics)),
    )

    def layer(words, state):  # as it is in units of return
        floor = float(words[-1]) * 3.0 if words != OFF else 0.0
        mean, variance = np.asarray(state.popart.mean), np.asarray(state.popart.variance)
        scale = np.maximum(np.sqrt(variance), floor * (mean != 0))
        inner = jax.tree.map(np.asarray, state.params["params"]["head"]["value"])
        return np.concatenate([inner["kernel"].ravel() * scale, inner["bias"] * scale + mean])

    np.testing.assert_allclose(layer(here, found), layer(there, old), atol=1e-6)
    assert found.popart.count == (500 if OFF not in (there, here) else 0)


def test_ppo_may_begin_with_what_impala_has_learned(folder):
    there = write_run(folder / "by-impala", IMPALA)
    found, old, _ = new_and_old(f"ppo {SMALL}", there)
    jax.tree.map(np.testing.assert_array_equal, found.params, old.params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "apex"])
def test_a_run_begins_with_them_and_a_resumed_one_does_not_read_them_again(
    name, folder, tmp_path, capsys
):
    there = write_run(tmp_path / "there", WORDS[name], change=with_statistics)
    words = f"{WORDS[name]} {ENDS} --learning-rate 1e-12 --run-dir {tmp_path}/here"
    assert run(train.main, f"{words} --init-from {there}") == 0
    assert f"begins with the parameters of {there} after 9,000" in capsys.readouterr().out
    config = json.loads((tmp_path / "here/config.json").read_text())["config"]
    assert config["init_from"] == str(there)
    old, here = (
        Checkpoints(path / "checkpoints").restore({"learner": None})[1]["learner"]["params"][
            "params"
        ]
        for path in (there, tmp_path / "here")
    )
    # A learning rate of 1e-12 leaves them as they were, but for the values that PopArt rescales.
    old["head"].pop("value", 0), here["head"].pop("value", 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), here, old)
    there.rename(tmp_path / "moved")
    assert run(train.main, f"resume {tmp_path}/here --env-steps 1280") == 0
    assert "begins with" not in capsys.readouterr().out
    assert run(train.main, f"resume {tmp_path}/here --env-steps 1e4 --init-from {there}x") == 2
    assert "a run with another init_from is a run of its own" in capsys.readouterr().err


@pytest.mark.slow
def test_the_members_of_a_sweep_begin_alike(folder, tmp_path, capsys):
    there = write_run(folder / "swept", f"ppo {SMALL}")
    words = f"ppo {SMALL} {ENDS} --seeds 2 --learning-rate 1e-12 --run-dir {tmp_path}/sweep"
    assert run(sweep.main, f"{words} --init-from {there}") == 0
    assert "begins with the parameters of" in capsys.readouterr().out
    kernels = [
        weights(path)["head"]["policy"]["kernel"]
        for path in (there, *(tmp_path / "sweep/members" / i for i in "01"))
    ]
    np.testing.assert_allclose(kernels[1], kernels[0], atol=1e-6)
    np.testing.assert_allclose(kernels[2], kernels[0], atol=1e-6)


@pytest.mark.parametrize(
    "there, words, message",
    [
        (f"ppo {SMALL}", f"ppo {SMALL} --hidden-size 32", "hidden_size is 16 there, and 32 here"),
        (f"ppo {SMALL}", f"ppo {SMALL} --core-size 8 --sequence-length 8", "core_size is 0 there"),
        (f"ppo {SMALL}", f"ppo {SMALL} --normalize-observations", "is False there, and True here"),
        (
            f"ppo {SMALL}",
            f"ppo {SMALL} --env Acrobot-v1",
            "float32[2] there, and float32[3] here",
        ),
        (
            f"ppo {SMALL}",
            f"ppo {SMALL} --env CartPole-v1:observe=0,2",
            "kernel is float32[4, 16] there, and float32[2, 16] here",
        ),
        (
            f"ppo {SMALL} --env Pendulum-v1",
            f"ppo {SMALL} --env Pendulum-v1 --policy gaussian",
            "there, and",
        ),
        (f"ppo {SMALL}", f"ppo {SMALL} --separate-networks", "there, and"),
        (f"apex {SMALL}", IMPALA, ", a run of apex, does not fit this run of impala: "),
        (IMPALA, f"apex {SMALL}", ", a run of impala, does not fit this run of apex: "),
    ],
)
def test_another_network_is_refused_by_what_differs_first(there, words, message, tmp_path, capsys):
    other = write_run(tmp_path / "there", there)
    assert run(train.main, f"{words} --run-dir {tmp_path}/here --init-from {other}") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "here").exists()  # refused before the run has a folder


def test_what_is_no_run_is_refused(tmp_path, capsys):
    empty = write_run(tmp_path / "empty", f"ppo {SMALL}", checkpoint=False)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/config.json").write_text('{"algorithm": "ppo", "members": []}')
    for name, message in {
        "none": "none is no run",
        "sweep": "is a sweep",
        "empty": "There is no folder",
        "no-*": "there is no run that fits",
    }.items():
        words = f"ppo {SMALL} --run-dir {tmp_path}/here --init-from {tmp_path}/{name}"
        assert run(train.main, words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert empty.exists() and not (tmp_path / "here").exists()
