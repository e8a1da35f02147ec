"""Networks of two bodies, Gaussian policies and normalised observations, alone and in runs."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from gymnasium import spaces
from test_train import checkpoint, logged, play

from rlsys import networks
from rlsys.algorithms import impala
from rlsys.learning import learner
from rlsys.types import TRAJECTORY_SPEC, CoreState, Timestep, Trajectory, UserError

T, B = 6, 8
SEEN = spaces.Dict(
    hand=spaces.Box(-1.0, 1.0, (3,)), cube=spaces.Box(-9.0, 9.0, (2,)), noise=spaces.Box(0, 1, (4,))
)
ARM = spaces.Box(-2.0, 2.0, (2,))
SIZES = {"hidden_size": 16, "core_size": 8, "head_size": 8}


@functools.cache
def asymmetric():
    """Dactyl's way: the policy sees less than the values do."""
    network = networks.policy_value_network(
        SEEN, ARM, separate=True, policy_keys=("hand",), value_keys=("cube", "hand"), **SIZES,
        normalize_observations=True,
    )  # fmt: skip
    rng, params = np.random.default_rng(0), networks.init(network, jax.random.key(0))
    random = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype("f"), params["params"])
    return network, {**params, "params": random}


def steps_of(seed=0):
    rng = np.random.default_rng(seed)
    obs = {k: rng.normal(size=(T + 1, B, *s.shape)).astype("f") for k, s in SEEN.items()}
    reward = rng.normal(size=(T + 1, B)).astype("f")
    first = rng.random((T + 1, B)) < 0.2
    return Timestep(obs, first, reward, np.ones_like(reward), np.zeros_like(first))


def action_of(seed=0):
    return np.random.default_rng(seed).normal(size=(T, B, 2)).astype("f")


def apply(steps, params=None, state=None):
    network, own = asymmetric()
    state = network.initial(B) if state is None else state
    (pi, values), state = jax.jit(network.apply)(params or own, steps, action_of(), state)
    return np.asarray(pi.mean), np.asarray(values), state


def test_policy_and_values_each_read_their_own_arrays():
    steps = steps_of()
    pi, values, _ = apply(steps)
    matters = {"hand": (True, True), "cube": (False, True), "noise": (False, False)}
    for key, (to_policy, to_values) in matters.items():
        other = steps._replace(obs={**steps.obs, key: steps.obs[key] + 0.5})
        new_pi, new_values, _ = apply(other)
        assert (pi != new_pi).any() == to_policy, key
        assert (values != new_values).any() == to_values, key


def test_two_bodies_share_no_parameter():
    """The gradient of the one is 0 in the other's, and all parameters belong to one of them."""
    network, params = asymmetric()

    def grads(pick):
        def total(part):
            out, _ = network.apply({**params, "params": part}, steps_of(), action_of(), state)
            return pick(out).sum()

        state = network.initial(B)
        return jax.tree.map(lambda x: bool(np.any(x)), jax.jit(jax.grad(total))(params["params"]))

    of_policy, of_values = grads(lambda out: out[0].mean), grads(lambda out: out[1])
    both = jax.tree.map(lambda a, b: (a, b), of_policy, of_values)
    pairs = jax.tree.leaves(both, is_leaf=lambda x: isinstance(x, tuple))
    assert (True, True) not in pairs
    assert pairs.count((True, False)) >= 6 and pairs.count((False, True)) >= 6
    nowhere = [p for p, x in jax.tree.leaves_with_path(both, is_leaf=lambda x: isinstance(x, tuple))
               if x == (False, False)]  # fmt: skip
    assert [path[-1].key for path in nowhere] == ["log_deviation"]  # it moves no mean


def test_each_body_has_a_core_of_its_own():
    network, _ = asymmetric()
    state = network.initial(B)
    assert isinstance(state, CoreState) and set(state.lstm) == {"policy", "value"}
    pi, values, end = apply(steps_of())
    assert jax.tree.structure(end) == jax.tree.structure(state)
    other = state._replace(lstm={**state.lstm, "value": tuple(x + 1 for x in state.lstm["value"])})
    steps = steps_of()
    steps.first[:] = False
    pi, values, _ = apply(steps)
    new_pi, new_values, _ = apply(steps, state=other)
    np.testing.assert_array_equal(pi, new_pi)
    assert (values != new_values).any()
    small = networks.policy_value_network(SEEN, ARM, separate=True, **SIZES | {"core_size": 0})
    assert small.initial(B).lstm == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policy_keys": ("hand",)}, "with separate networks"),
        ({"policy_keys": ("hnd",), "separate": True}, "a network is to read 'hnd' of an obs"),
        ({"value_keys": (), "separate": True}, "a network is to read none of an observation"),
    ],
)
def test_arrays_that_cannot_be_read_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        networks.policy_value_network(SEEN, ARM, **SIZES, **change)


@pytest.mark.parametrize("num_devices", [2, 4])
@pytest.mark.slow
def test_the_number_of_devices_changes_neither_parameters_nor_statistics(num_devices):
    network, params = asymmetric()
    config = impala.Config(
        unroll_length=T, refresh_steps=T, num_envs=B, batch_size=B, popart_step_size=0.01
    )
    steps, action = steps_of(), action_of()
    (pi, _), _ = network.apply(params, steps, action, network.initial(B))
    mu = jax.tree.map(lambda x: np.asarray(x[:-1]), pi)
    trajectory = Trajectory(steps, action, mu, network.initial(B), np.zeros(B, np.int32))

    def step(num_devices):
        mesh = learner.make_mesh(jax.devices()[:num_devices])
        update = functools.partial(impala.update, network)
        update = learner.data_parallel(update, mesh, TRAJECTORY_SPEC)
        state = impala.make_state(network, config)
        state = state._replace(params=jax.tree.map(np.array, params))  # the update donates it
        state, _ = update(config, learner.place(mesh, state), trajectory)
        return jax.device_get(state.params)

    one, several = step(1), step(num_devices)
    played = (~steps.first[1:]).sum()
    assert {x.count.item() for x in one["statistics"].values()} == {played}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, several)
    moved = jax.tree.map(lambda a, b: np.any(a != b), one["params"], params["params"])
    assert all(jax.tree.leaves(moved))


WORDS = (
    "--env Pendulum-v1 --num-envs 16 --unrolls-ahead 0 --hidden-size 16 --head-size 16 "
    "--core-size 8 --eval-episodes 4 --unroll-length 10 --refresh-steps 20 --env-steps 1920 "
    "--log-every 320 --checkpoint-every 640 --normalize-observations True"
).split()
GAUSSIAN = [*WORDS, "--policy", "gaussian", "--separate-networks", "True"]
RUNS = {
    "impala": [*GAUSSIAN, "--batch-size", "8"],
    "ppo": [*GAUSSIAN, "--sequence-length", "5", "--epochs", "2", "--minibatches", "2"],
    "r2d2": [*WORDS, "--batch-size", "8", "--replay-capacity", "2000", "--learning-starts", "400"],
}
RUNS["apex"] = [*RUNS["r2d2"], "--core-size", "0"]


@pytest.mark.parametrize("algorithm", ["ppo", "impala", "r2d2", "apex"])
@pytest.mark.slow
def test_a_resumed_run_goes_on_as_it_would_have(tmp_path, algorithm):
    """Statistics are in checkpoints, and reach actors and evaluation."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert play(algorithm, *RUNS[algorithm], "--run-dir", whole) == 0
    shutil.copytree(whole, cut)
    later = sorted((cut / "checkpoints").iterdir(), key=lambda path: int(path.name))[1:]
    assert later
    for path in later:
        shutil.rmtree(path)
    config = json.loads((cut / "config.json").read_text())
    config["config"]["run_dir"] = str(cut)
    (cut / "config.json").write_text(json.dumps(config))
    assert play("resume", cut) == 0
    (number, trees, meta), again = checkpoint(whole), checkpoint(cut)
    assert (number, meta) == (again[0], again[2])
    jax.tree.map(np.testing.assert_array_equal, trees, again[1])
    assert logged(whole) == logged(cut)
    (statistics,) = trees["learner"]["params"]["statistics"].values()
    assert statistics["count"] > 1000 and (statistics["variance"] > 0.05).all()
    results = [json.loads((x / "evaluation.json").read_text())["results"] for x in (whole, cut)]
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_gaussian_policy_learns(tmp_path):
    """Pendulum's return is about -1,200 of a policy that has not learned. IMPALA, which learns from
    each unroll once, has only begun after so few steps."""
    words = "--env Pendulum-v1 --policy gaussian --normalize-observations True --env-steps 400000"
    assert play("ppo", *words.split(), "--run-dir", tmp_path / "run") == 0
    results = json.loads((tmp_path / "run/evaluation.json").read_text())["results"]
    assert results["greedy"]["mean"] > -600, results
