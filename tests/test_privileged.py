"""Arrays that the value function alone reads: the policy cannot see them, wherever it acts."""

import dataclasses
import functools
import json
import shutil

import gymnasium
import jax
import numpy as np
import optax
import pytest
from gymnasium import spaces
from test_train import checkpoint, logged, play

import rlsys
from rlsys import networks, train
from rlsys.acting import actor_critic, actors, exported, playing
from rlsys.algorithms import impala, ppo
from rlsys.envs import NOTHING, Options, Randomise, make
from rlsys.envs.spaces import within_bounds
from rlsys.learning import learner
from rlsys.results import evaluate, export
from rlsys.types import TRAJECTORY_SPEC, Timestep, Trajectory, UserError

T, B = 8, 8
SEEN = spaces.Dict(
    {
        "action_mask": spaces.MultiBinary(3),
        "hand": spaces.Box(-1.0, 1.0, (3,)),
        "privileged_state": spaces.Box(-9.0, 9.0, (5,)),
    }
)
ACTIONS = spaces.Discrete(3)
CORES = {"both": (8, 8), "of the values": (0, 8), "of the policy": (8, 0), "none": (0, 0)}


def config_of(algorithm, cores, **changes):
    core_size, value_core_size = CORES[cores]
    more = {"sequence_length": 4, "epochs": 1, "minibatches": 2}
    changes = {"env": "Pendulum-v1", "privileged": ("privileged_state",)} | changes
    if algorithm is impala:
        more = {"batch_size": B}
    return algorithm.Config(
        num_envs=B, unroll_length=T, refresh_steps=T, separate_networks=True,
        hidden_size=8, head_size=8, core_size=core_size, value_core_size=value_core_size,
        normalize_observations=True, popart_step_size=0.01,
        **more | changes,
    )  # fmt: skip


@functools.cache
def network_and_params(algorithm, cores):
    """Parameters that are all far from zero, and statistics of observations as they begin."""
    config = config_of(algorithm, cores)
    network = actor_critic.make_network(config, SEEN, ACTIONS)
    params, rng = networks.init(network, jax.random.key(0)), np.random.default_rng(0)
    random = jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype("f"), params["params"])
    return config, network, {**params, "params": random}


def steps_of(seed=0, changed=False):
    rng = np.random.default_rng(seed)
    obs = {k: rng.normal(size=(T + 1, B, *SEEN[k].shape)).astype("f") for k in sorted(SEEN)}
    obs["action_mask"] = obs["action_mask"] < 1
    if changed:
        obs["privileged_state"] = 3 - 5 * obs["privileged_state"]
    first = rng.random((T + 1, B)) < 0.2
    reward = np.where(first, 0, rng.normal(size=(T + 1, B)) - 3 * changed).astype("f")
    return Timestep(obs, first, reward, np.ones_like(reward), np.zeros_like(first))


def played(algorithm, cores, changed=False):
    """A Trajectory by the policy with which actors play, in made-up steps."""
    config, network, params = network_and_params(algorithm, cores)
    (policy,) = algorithm.ALGORITHM.make_policies(network, config)
    state = start = network.initial(B)
    key, steps, actions, auxs = jax.random.key(1), steps_of(changed=changed), [], []
    for t in range(T):
        timestep = jax.tree.map(lambda x, t=t: x[t], steps)
        action, aux, state, key = policy(params, timestep, state, key)
        actions.append(np.asarray(action))
        auxs.append(jax.tree.map(np.asarray, aux))
    aux = jax.tree.map(lambda *xs: np.stack(xs), *auxs)
    return Trajectory(steps, np.stack(actions), aux, start, np.zeros(B, np.int32))


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("algorithm", [impala, ppo])
def test_what_is_privileged_changes_no_action_in_training_but_values(algorithm, cores):
    _, network, params = network_and_params(algorithm, cores)
    a, b = (played(algorithm, cores, changed) for changed in (False, True))
    np.testing.assert_array_equal(a.action, b.action)
    assert (a.steps.obs["privileged_state"] != b.steps.obs["privileged_state"]).all()

    def outputs(x):
        (pi, v), state = network.apply(params, x.steps, x.action, x.core_state)
        return pi.logits, v, state

    (pi, v, state), (other_pi, other_v, other_state) = map(jax.jit(outputs), (a, b))
    np.testing.assert_array_equal(pi, other_pi)
    assert (v != other_v).mean() > 0.9
    if state.lstm:
        sizes = {k: [y.shape[-1] for y in x] for k, x in state.lstm.items()}
        wanted = zip(("policy", "value"), CORES[cores], strict=True)
        assert sizes == {name: [size] * 2 if size else [] for name, size in wanted}
        jax.tree.map(
            np.testing.assert_array_equal, state.lstm["policy"], other_state.lstm["policy"]
        )
    assert bool(state.lstm) == (cores != "none")


@pytest.mark.parametrize("cores", CORES)
def test_the_policy_alone_is_the_whole_networks_policy(cores):
    """It acts the same to the bit on observations with privileged arrays and without them, and
    whatever the rewards."""
    _, network, params = network_and_params(ppo, cores)
    alone = networks.policy_alone(network)
    assert list(alone.observation_space) == ["action_mask", "hand"] and alone.value_body is None
    assert networks.policy_alone(alone) is alone and hash(alone)
    whole, part = (actor_critic.make_policy(ppo.act, x) for x in (network, alone))
    states = [x.initial(B) for x in (network, alone, alone)]
    assert len(jax.tree.leaves(states[1].lstm)) == 2 * bool(CORES[cores][0])
    keys, steps = [jax.random.key(2)] * 3, steps_of()
    for t in range(T):
        timestep = jax.tree.map(lambda x, t=t: x[t], steps)
        shown = {k: x for k, x in timestep.obs.items() if k != "privileged_state"}
        timesteps = timestep, timestep, timestep._replace(obs=shown, reward=-timestep.reward)
        actions, log_mu = [], []
        for i, policy in enumerate((whole, part, part)):
            action, aux, states[i], keys[i] = policy(params, timesteps[i], states[i], keys[i])
            actions.append(np.asarray(action))
            log_mu.append(np.asarray(aux.log_mu_a))
        for x in (actions, log_mu):
            np.testing.assert_array_equal(x[0], x[1])
            np.testing.assert_array_equal(x[0], x[2])


@pytest.mark.parametrize("cores", ["both", "of the values"])
def test_gradients_of_policy_and_values_reach_their_own_body_alone(cores):
    config, network, params = network_and_params(ppo, cores)
    trajectory = played(ppo, cores)
    mesh = learner.make_mesh(jax.devices()[:1])

    def grads(config, advantage):
        def of_batch(config, state, trajectory):
            state, (batch, _) = ppo.prepare(network, config, state, trajectory)
            batch = batch._replace(advantage=advantage * batch.advantage)
            grad = learner.value_and_grad(functools.partial(ppo.loss, network, config))
            return state, grad(state.params, batch)[1]

        state = ppo.make_state(network, config)
        state = state._replace(params=jax.tree.map(np.array, params))
        run = learner.data_parallel(of_batch, mesh, TRAJECTORY_SPEC)
        found = run(config, learner.place(mesh, state), trajectory)[1]["params"]
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): bool(np.any(x))
            for path, x in jax.tree.leaves_with_path(found)
        }

    of_policy = grads(dataclasses.replace(config, value_cost=0.0), 1.0)
    of_values = grads(dataclasses.replace(config, entropy_cost=0.0), 0.0)
    values = {x for x in of_policy if x.startswith(("value_body", "head/value", "head/Dense_1"))}
    assert {x for x, moved in of_values.items() if moved} == values
    assert {x for x, moved in of_policy.items() if moved} == set(of_policy) - values
    assert len(values) >= 6 and any("value_body/core" in x for x in values)


@pytest.mark.parametrize("algorithm", [impala, ppo])
@pytest.mark.slow
def test_the_number_of_devices_changes_nothing(algorithm):
    """Statistics of what is privileged, too; gradient descent, as Adam would hide a factor."""
    config, network, params = network_and_params(algorithm, "of the values")
    trajectory = played(algorithm, "of the values")

    def optimizer(config, _):
        return optax.sgd(0.3)

    def learn(config, state, trajectory):
        if algorithm is impala:
            return impala.update(network, config, state, trajectory, optimizer=optimizer)
        state, (batch, _) = ppo.prepare(network, config, state, trajectory)
        state, _ = ppo.update(network, config, state, batch, optimizer=optimizer)
        obs = jax.tree.map(lambda x: x[:-1], trajectory.steps.obs)
        mask = ~trajectory.steps.first[1:]
        return state._replace(
            params=networks.see(state.params, obs, mask, axis_name=learner.BATCH)
        ), {}

    def result(num_devices):
        mesh = learner.make_mesh(jax.devices()[:num_devices])
        state = actor_critic.make_state(network, config, optimizer(config, 0.0))
        state = state._replace(params=jax.tree.map(np.array, params))
        run = learner.data_parallel(learn, mesh, TRAJECTORY_SPEC)
        state, _ = run(config, learner.place(mesh, state), trajectory)
        return jax.device_get(state.params)

    one, four = result(1), result(4)
    assert set(one["statistics"]) == {"hand", "privileged_state"}
    assert {int(x.count) for x in one["statistics"].values()} == {
        (~trajectory.steps.first[1:]).sum()
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, four)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), one["params"], params["params"])
    assert sum(jax.tree.leaves(moved)) >= 12


class Hidden(gymnasium.Env):
    """Says only beforehand, and to the value alone, which action will be rewarded."""

    observation_space = spaces.Dict(
        state=spaces.Box(-1, 1, (2,), np.float32),
        more=spaces.Dict(full=spaces.Box(-1, 1, (3,), np.float32)),
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def _obs(self):
        x = self.np_random.uniform(-1, 1, 5).astype("f")
        return {"state": x[:2], "more": {"full": x[2:]}}

    def step(self, action):
        return self._obs(), float(action), bool(self.np_random.random() < 0.1), False, {}


class Robot(Hidden):
    """Shows a simulator's state, as some of Playground's tasks do."""

    observation_space = spaces.Dict(
        state=Hidden.observation_space["state"],
        privileged_state=Hidden.observation_space["more"]["full"],
    )

    def _obs(self):
        obs = super()._obs()
        return {"state": obs["state"], "privileged_state": obs["more"]["full"]}


gymnasium.register("Hidden-v0", entry_point="test_privileged:Hidden", max_episode_steps=20)
gymnasium.register("Robot-v0", entry_point="test_privileged:Robot", max_episode_steps=20)
WORDS = (
    "--num-envs 8 --actors 1 --hidden-size 16 --head-size 8 --unroll-length 8 --refresh-steps 8 "
    "--unrolls-ahead 0 --eval-episodes 4 --env-steps 1280 --checkpoint-every 640 --log-every 320 "
    "--normalize-observations True --separate-networks True "
)
PPO = WORDS + "--sequence-length 4 --minibatches 2 --epochs 2 "
NOISY = (
    "--randomise.observation-offset 0.02 --randomise.observation-noise 0.01 "
    "--randomise.sensor-loss 1 --randomise.observation-drop 0.1 "
    "--randomise.action-noise 0.05 --randomise.action-offset 0.02 "
    "--randomise.action-delay 0.5 --randomise.action-hold 0.1 "
    "--randomise.action-smoothing 0.2 --randomise.action-backlash 0.05 "
    "--randomise.show-value True "
)
RUNS = {
    "noise, two LSTMs": "ppo --env Pendulum-v1 --core-size 4 --value-core-size 8 " + NOISY + PPO,
    "noise, impala": "impala --env Pendulum-v1:observe=0,1 --core-size 8 --batch-size 8 "
    "--policy gaussian " + NOISY + WORDS,
    "a task's own": "ppo --env gymnasium/test_privileged:Hidden-v0 --core-size 8 "
    "--value-core-size 16 --privileged more/full " + PPO,
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) for name in RUNS],
)
def trained(request, tmp_path_factory):
    """A run's Algorithm, Config and folder, beside which its policy was exported."""
    folder = tmp_path_factory.mktemp("runs")
    assert play(*RUNS[request.param].split(), "--run-dir", folder / "run") == 0
    assert play("export", folder / "run", "--out", folder / "policy.zip") == 0
    return *train.load(str(folder / "run")), folder


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_it_would_have(trained):
    *_, folder = trained
    cut = folder / "cut"
    shutil.copytree(folder / "run", cut)
    later = sorted((cut / "checkpoints").iterdir(), key=lambda path: int(path.name))[1:]
    assert later
    for path in later:
        shutil.rmtree(path)
    config = json.loads((cut / "config.json").read_text())
    config["config"]["run_dir"] = str(cut)
    (cut / "config.json").write_text(json.dumps(config))
    assert play("resume", cut) == 0
    (number, trees, meta), again = checkpoint(folder / "run"), checkpoint(cut)
    assert (number, meta) == (again[0], again[2])
    jax.tree.map(np.testing.assert_array_equal, trees, again[1])
    assert logged(folder / "run") == logged(cut)
    results = [json.loads((x / "evaluation.json").read_text()) for x in (folder / "run", cut)]
    assert results[0]["results"] == results[1]["results"]


def test_evaluation_and_export_see_nothing_that_is_privileged(trained):
    """Evaluation's actions are the exported policy's, which is never shown more."""
    algorithm, config, folder = trained
    (task,) = config.tasks
    network, params, *_ = evaluate.saved(algorithm, config)
    hidden = [x for x in network.observation_space if x.startswith(("privileged/", "more/"))]
    assert hidden and set(hidden) < set(network.observation_space)
    nominal = task._replace(randomise=NOTHING)
    player = playing.eval_policy(algorithm, config, network, nominal, 3, 7, "sampled")
    shown = playing.eval_policy(algorithm, config, network, task, 3, 7, "sampled")
    plain = dataclasses.replace(task.options, observe=())
    own = make(nominal._replace(options=plain, continuous=True), 3, 7)
    policy = rlsys.load_policy(folder / "policy.zip", "sampled")
    policy.reset(3, seed=7)
    assert "full" not in str(policy.observation_space) and "privileged/" not in str(policy.about)
    assert not any("value" in name for name in _names(policy))
    key = shown_key = rlsys.streams.key(7, "evaluation")
    core_state = shown_state = player.core_state
    timestep, raw, obs = player.envs.reset(), own.reset(), shown.envs.reset().obs
    rng = np.random.default_rng(0)
    for _ in range(40):
        for name in hidden:
            obs = {**obs, name: rng.normal(size=obs[name].shape).astype("f")}
        seen = timestep.obs if isinstance(timestep.obs, dict) else {"obs": timestep.obs}
        beside = timestep._replace(
            obs={**obs, **{k: seen[k] for k in set(seen) - set(hidden)}},
            reward=rng.normal(size=3).astype("f"),
        )
        action, _, core_state, key = player.policy(params, timestep, core_state, key)
        again, _, shown_state, shown_key = shown.policy(params, beside, shown_state, shown_key)
        np.testing.assert_array_equal(action, again)
        expected = np.asarray(action)
        if task.env_id == "Pendulum-v1" and not task.continuous:
            expected = np.linspace(*np.float32([-2, 2]), 11, dtype=np.float32)[expected]
        if task.continuous:  # beyond the bounds, as the first draws of a Gaussian may be
            expected = within_bounds(policy.action_space, expected)
        bare = raw.obs if not isinstance(raw.obs, dict) else {"state": raw.obs["state"]}
        np.testing.assert_array_equal(policy.act(bare, first=raw.first), expected)
        timestep, raw = player.envs.step(np.asarray(action)), own.step(expected)
    for pool in (player.envs, shown.envs, own):
        pool.close()


def _names(policy):
    return [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree.leaves_with_path(policy._params["params"])
    ]


def test_a_run_is_evaluated_on_a_domain_without_what_is_privileged(trained):
    algorithm, config, _ = trained
    network, params, *_ = evaluate.saved(algorithm, config)
    nominal = dataclasses.replace(config, randomise=Randomise())
    found = playing.play_tasks(algorithm, nominal, network, params, 4)
    assert {name: len(x) for name, x in found.items()} == {"greedy": 4, "sampled": 4}


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("ppo --privileged x --separate-networks True", "'x', which the observation does not have"),
        ("ppo --privileged obs", r"privileged ('obs',) needs separate_networks"),
        ("ppo --value-core-size 8", "value_core_size 8 needs separate_networks"),
        ("impala --randomise.show-value True", "show_value True needs separate_networks"),
        ("ppo --separate-networks True --value-core-size -1", "value_core_size must be 0 or more"),
        (
            "ppo --separate-networks True --value-core-size 8",
            "an LSTM (core_size 8) learns nothing",
        ),
        ("r2d2 --randomise.show-value True", "which needs impala or ppo"),
        ("apex --privileged obs", "there is no field '--privileged'"),
        ("ppo --randomise.action-noise 0.1", "action_noise is for continuous actions, and those"),
        (
            "ppo --randomise.observation-noise obs.9=1",
            "names entry 9 of obs, of which 'CartPole-v1",
        ),
        ("ppo --randomise.observation-noise x", "observation_noise takes a number, or words"),
        ("r2d2 --randomise.action-delay 2", "action_delay must lie within [0, 1], not 2.0"),
        ("apex --randomise.adapt-step 0.1", "would do nothing without --randomise.adapt True"),
        ("ppo --randomise.preset rubik", "there is no preset 'rubik' of randomise"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(words, sentence, tmp_path, capfd):
    assert play(*words.split(), "--run-dir", tmp_path / "run") == 2
    said = capfd.readouterr().err.strip()
    assert sentence in said and said.count("\n") == 0, said


@pytest.mark.parametrize(
    "privileged, sentence",
    [
        (
            ("priveleged_state",),
            "names 'priveleged_state', which .*; the nearest: privileged_state",
        ),
        (("hand", "privileged_state"), "privileged leaves the policy nothing of hand, privileged"),
        (("action_mask",), "names 'action_mask', which the observation does not have"),
    ],
)
def test_arrays_that_cannot_be_privileged(privileged, sentence):
    config = config_of(ppo, "none", privileged=privileged)
    with pytest.raises(UserError, match=sentence):
        actor_critic.make_network(config, SEEN, ACTIONS)


@pytest.mark.parametrize("noise", [{"observation_noise": "0.1"}, {"preset": "dactyl"}])
def test_noise_that_leaves_a_simulators_state_to_the_policy_is_refused(noise):
    def pools(privileged=(), **given):
        return actors.make_envs(
            config_of(
                ppo, "none", env="gymnasium/test_privileged:Robot-v0", privileged=privileged,
                randomise=Randomise(physics=("none",), **given),
            )
        )  # fmt: skip

    with pytest.raises(UserError, match=r"leaves privileged_state of .*--privileged privileged_"):
        pools(**noise)
    for found in (
        pools(("privileged_state",), **noise),
        pools(show_value=True, **noise),
        pools(observation_noise="state=0.1,privileged_state=0.1"),
        pools(action_delay=0.5),
        pools(observation_drop=0.5),  # which drops all arrays alike
    ):
        assert "privileged_state" in found[0].observation_space.spaces


def test_a_tasks_own_state_stays_out_of_the_exported_policy(tmp_path):
    config = config_of(
        ppo, "both", env="gymnasium/test_privileged:Robot-v0", privileged=(),
        randomise=Randomise(observation_noise="0.1", show_value=True),
    )  # fmt: skip
    (pool,) = actors.make_envs(config)
    network = actor_critic.make_network(config, pool.observation_space, pool.action_space)
    alone = networks.policy_alone(network)
    about = export.describe(ppo.ALGORITHM, config, alone, 0)
    params = networks.init(network, jax.random.key(0))
    policy = exported.ExportedPolicy(json.loads(json.dumps(about)), params)
    assert list(policy.observation_space) == ["state"]
    policy.reset(2)
    for _ in range(2):  # its LSTM asks for no rewards
        assert policy.act({"state": np.zeros((2, 2), "f")}).shape == (2,)


def test_the_noiseless_observation_is_privileged_where_it_is_shown():
    config = config_of(
        ppo, "none", privileged=(), randomise=Randomise(observation_noise="0.1", show_value=True)
    )
    (task,) = config.tasks
    pool = make(task, 2, 0)
    assert actor_critic.policy_keys(config, pool.observation_space) == ["obs"]
    network = actor_critic.make_network(config, pool.observation_space, pool.action_space)
    alone = networks.policy_alone(network)
    assert alone.observation_space == make(task._replace(randomise=NOTHING), 2, 0).observation_space
    assert Options() == task.options
    both = spaces.Dict({**SEEN, "privileged/drawn": SEEN["hand"]})
    assert actor_critic.policy_keys(config, both) == ["hand"]  # a task's own is hidden as well
    assert actor_critic.policy_keys(dataclasses.replace(config, randomise=NOTHING), SEEN) is None
