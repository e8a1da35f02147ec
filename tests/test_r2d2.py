"""R2D2: each line of what is often got wrong, and the same result on any number of devices."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium import spaces
from made_up import Stub, acted, several_devices

from rlsys import networks
from rlsys.acting import epsilon_greedy
from rlsys.algorithms import r2d2
from rlsys.algorithms.r2d2 import ALGORITHM, Config
from rlsys.learning import learner
from rlsys.types import SAMPLE_SPEC, CoreState, Sample, Timestep, Trajectory

A = 3
OBS = spaces.Box(-1.0, 1.0, (4,), np.float32)
CONFIG = Config(
    burn_in=4, length=12, stride=6, num_envs=4, batch_size=8, n=3, discount=0.9,
    hidden_size=8, core_size=8, head_size=8, replay_capacity=2000, unroll_length=5, refresh_steps=5,
)  # fmt: skip


@functools.cache
def make_network(core_size=8):
    return networks.q_network(
        OBS, spaces.Discrete(A), hidden_size=8, core_size=core_size, head_size=8
    )


@functools.cache
def make_params(seed=0):
    return networks.init(make_network(), jax.random.key(seed))


def play(num_steps, num_envs=4, seed=0, mean_length=7, params_seed=0, agent=True):
    """Makes what an actor hands over: made-up episodes, with an agent's own Q-values and states."""
    random = np.random.default_rng(seed)
    shape = (num_steps + 1, num_envs)
    first = random.random(shape) < 1 / mean_length
    first[0] = True
    last = np.roll(first, -1, 0)
    truncated = last & (random.random(shape) < 0.5)
    steps = Timestep(
        random.uniform(-1, 1, (*shape, 4)).astype(np.float32),
        first,
        np.where(first, 0, random.normal(size=shape)).astype(np.float32),
        (1.0 - (last & ~truncated)).astype(np.float32),
        truncated,
    )
    policy = functools.partial(
        epsilon_greedy.make_policy(make_network()), np.full(num_envs, 0.5, np.float32)
    )
    start = make_network().initial(num_envs)
    actions, aux, _ = acted(policy, make_params(params_seed), steps, start, jax.random.key(seed))
    return Trajectory(steps, actions, aux, start)


initial_priorities = jax.jit(r2d2.initial_priorities)


def filled_replay(config, trajectory):
    replay = r2d2.make_replay(config, make_network())
    numbers, learned, mask = replay.add(trajectory)
    priorities = np.asarray(initial_priorities(config, learned, mask))[: len(numbers)]
    replay.set_priorities(numbers, priorities)
    return replay, numbers, priorities


@functools.cache
def loss_step():
    """(config, (params, target_params), sample) -> loss, priorities, gradient; on one device."""

    def step(config, state, sample):
        grad = learner.value_and_grad(functools.partial(r2d2.loss, make_network(), config))
        (value, (priorities, _)), grads = grad(state[0], state[1], sample)
        return state, (value, priorities, grads)

    mesh = learner.make_mesh(jax.devices()[:1])
    return learner.data_parallel(
        step, mesh, SAMPLE_SPEC, (learner.REPLICATED, learner.SHARDED, learner.REPLICATED)
    )


def loss_of(config, sample, params=None, target_params=None):
    params = make_params() if params is None else params
    state = jax.tree.map(jnp.copy, (params, params if target_params is None else target_params))
    return jax.device_get(loss_step()(config, state, sample)[1])


def test_no_gradient_flows_through_burn_in():
    replay, *_ = filled_replay(CONFIG, play(60))
    _, sample = replay.sample(8)
    value, _, grads = loss_of(CONFIG, sample)
    # The same from the state after burn-in, given as data.
    b, trajectory, network = CONFIG.burn_in, sample.trajectory, make_network()
    steps = jax.tree.map(lambda x: x[:b], trajectory.steps)
    _, state = network.apply(
        make_params(), steps, trajectory.action[: b - 1], trajectory.core_state
    )
    after = Trajectory(
        jax.tree.map(lambda x: x[b:], trajectory.steps),
        trajectory.action[b:],
        (),
        jax.tree.map(np.asarray, state._replace(a_tm1=trajectory.action[b - 1])),
    )
    short = dataclasses.replace(CONFIG, burn_in=0)
    expected, _, expected_grads = loss_of(short, Sample(after, sample.mask[b:], sample.weights))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), grads, expected_grads)
    # It would show: with burn-in learned through, the gradient is another.
    _, _, through = loss_of(short, sample)
    apart = jax.tree.map(lambda x, y: np.abs(x - y).max(), grads, through)
    assert max(jax.tree.leaves(apart)) > 1e-3


def test_burn_in_is_under_both_parameters():
    """The target's burn-in is its own: with other target parameters the targets are those of a
    network that ran under them from the stored state on."""
    replay, *_ = filled_replay(CONFIG, play(60))
    _, sample = replay.sample(8)
    trajectory, b = sample.trajectory, CONFIG.burn_in

    def whole(params):
        return make_network().apply(
            params, trajectory.steps, trajectory.action, trajectory.core_state
        )[0][b:]

    q, q_target = whole(make_params()), whole(make_params(1))
    steps = jax.tree.map(lambda x: x[b:], trajectory.steps)
    q_star = epsilon_greedy.q_of(q_target, epsilon_greedy.greedy(q, None))[1:]
    td_error = r2d2.td_errors(
        CONFIG, epsilon_greedy.q_of(q[:-1], trajectory.action[b:]), q_star, steps
    )
    squares = (sample.mask[b:] * np.asarray(td_error) ** 2).sum(0)
    value, _, _ = loss_of(CONFIG, sample, target_params=make_params(1))
    np.testing.assert_allclose(value, (sample.weights * squares / 2).mean(), rtol=1e-5)


def test_a_zero_start_state_can_be_had_in_place_of_the_stored_one():
    replay, *_ = filled_replay(CONFIG, play(60, mean_length=30))
    _, sample = replay.sample(8)
    state = sample.trajectory.core_state
    zero = state._replace(lstm=jax.tree.map(np.zeros_like, state.lstm))
    zeroed = sample._replace(trajectory=sample.trajectory._replace(core_state=zero))
    config = dataclasses.replace(CONFIG, stored_state=False)
    assert loss_of(config, sample)[0] == loss_of(CONFIG, zeroed)[0] != loss_of(CONFIG, sample)[0]


@pytest.mark.parametrize("cross", [False, True])
def test_what_is_masked_does_not_matter(cross):
    """Neither loss nor priority nor gradient depends on padding past an episode's end."""
    config = dataclasses.replace(CONFIG, cross_episodes=cross)
    replay, *_ = filled_replay(config, play(100, mean_length=9))
    _, sample = replay.sample(8)
    steps, mask = sample.trajectory.steps, sample.mask
    # Steps after a sequence's last learned one, and the step it leads to.
    learned = np.flip(np.maximum.accumulate(np.flip(mask, 0), 0), 0)
    unused = np.concatenate([np.zeros_like(mask[:1]), ~learned])
    unused[: config.burn_in] = False
    assert unused.any()
    garbage = steps._replace(
        reward=np.where(unused, 1e6, steps.reward).astype(np.float32),
        obs=np.where(unused[..., None], 7.0, steps.obs).astype(np.float32),
    )
    result = loss_of(config, sample)
    other = loss_of(config, sample._replace(trajectory=sample.trajectory._replace(steps=garbage)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), result, other)


@jax.jit
def apply(params, steps, state):
    return make_network().apply(params, steps, np.zeros((0, 1), np.int32), state)


def literal_errors(config, trajectory, env, begin, end):
    """TD errors of one episode, alone, in float64: x_begin .. x_end, from a state of zeros."""
    steps = jax.tree.map(lambda x: x[begin : end + 1, env : env + 1], trajectory.steps)
    action = trajectory.action[begin:end, env : env + 1]

    def q_values(params):
        state, q = make_network().initial(1), []
        for t in range(len(action) + 1):  # a step at a time
            q_t, state = apply(params, jax.tree.map(lambda x, t=t: x[t : t + 1], steps), state)
            state = state._replace(a_tm1=action[min(t, len(action) - 1)])
            q.append(np.float64(q_t[0, 0]))
        return np.array(q)

    q, q_target = q_values(make_params()), q_values(make_params(1))
    eps = 1e-3

    def h(x):
        return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + eps * x

    def h_inv(x):
        root = np.sqrt(1 + 4 * eps * (abs(x) + 1 + eps))
        return np.sign(x) * (((root - 1) / (2 * eps)) ** 2 - 1)

    value = [h_inv(q_target[t][q[t].argmax()]) for t in range(len(q))]
    errors = []
    for t in range(len(action)):
        last = min(t + config.n, len(action))  # no further than the episode's end
        g = value[last]
        for k in range(last, t, -1):
            g = np.float64(steps.reward[k, 0]) + config.discount * steps.discount[k, 0] * g
        errors.append(h(g) - q[t][action[t, 0]])
    return np.array(errors)


def test_episodes_in_one_sequence_equal_each_alone():
    """Sequences that cross episodes: no state, target or priority leaks from one to the next."""
    config = dataclasses.replace(CONFIG, burn_in=0, length=40, stride=40, batch_size=4)
    trajectory = play(41, mean_length=8)
    replay, *_ = filled_replay(config, trajectory)
    numbers, sample = replay.sample(64)
    q = r2d2.q_values(make_network(), make_params(), 0, sample.trajectory)
    q_target = r2d2.q_values(make_network(), make_params(1), 0, sample.trajectory)
    steps = sample.trajectory.steps
    td_error = np.asarray(
        r2d2.td_errors(
            config,
            epsilon_greedy.q_of(q[:-1], sample.trajectory.action),
            epsilon_greedy.q_of(q_target, epsilon_greedy.greedy(q, None))[1:],
            steps,
        )
    )
    _, priorities, _ = loss_of(config, sample, target_params=make_params(1))
    compared = {"terminated": 0, "truncated": 0}
    for i in np.unique(numbers, return_index=True)[1]:
        env = int(np.flatnonzero((trajectory.steps.obs[0] == steps.obs[0, i]).all(-1))[0])
        begins = [*np.flatnonzero(steps.first[:, i]), 41]
        errors = []
        for begin, after in itertools.pairwise(begins):
            end = after - 1  # its last observation
            if after < 41:
                compared["truncated" if steps.truncated[end, i] else "terminated"] += 1
            if begin == end:  # an episode of one observation
                continue
            alone = literal_errors(config, trajectory, env, begin, end)
            np.testing.assert_allclose(td_error[begin:end, i], alone, rtol=1e-4, atol=1e-5)
            assert sample.mask[begin:end, i].all()
            assert after == 41 or not sample.mask[end, i]
            errors.extend(np.abs(alone))
        expected = 0.9 * np.max(errors) + 0.1 * np.mean(errors)
        np.testing.assert_allclose(priorities[i], expected, rtol=1e-4)
    assert min(compared.values()) > 2


def test_the_paper_preset_never_crosses_an_episodes_end():
    assert not ALGORITHM.presets.configs["atari"].cross_episodes
    config = dataclasses.replace(CONFIG, cross_episodes=False)
    replay, *_ = filled_replay(config, play(200, mean_length=9))
    _, sample = replay.sample(200)
    b = config.burn_in
    for i in range(200):
        learned = b + np.flatnonzero(sample.mask[b:, i])
        assert not sample.trajectory.steps.first[learned[0] + 1 : learned[-1] + 2, i].any()


def test_initial_priorities_are_those_of_the_learner():
    """With the same parameters, the actor's own Q-values give what the learner would."""
    config = dataclasses.replace(CONFIG, burn_in=6)
    replay, numbers, initial = filled_replay(config, play(80))
    drawn, sample = replay.sample(64)
    _, priorities, _ = loss_of(dataclasses.replace(config, batch_size=64), sample)
    expected = initial[np.searchsorted(numbers, drawn)]
    np.testing.assert_allclose(priorities, expected, rtol=1e-4)
    assert initial.std() / initial.mean() > 0.05


def test_the_core_sees_previous_action_and_reward_but_at_first():
    network, params = make_network(), make_params()
    timestep = jax.tree.map(lambda x: x[:1], play(1).steps)
    state = network.initial(4)._replace(a_tm1=np.ones(4, np.int32))
    no_action = np.zeros((0, 4), np.int32)

    def q(first, **change):
        steps = timestep._replace(first=np.full((1, 4), first))
        changed = {k: v for k, v in change.items() if k in Timestep._fields}
        rest = {k: v for k, v in change.items() if k in CoreState._fields}
        return network.apply(params, steps._replace(**changed), no_action, state._replace(**rest))[
            0
        ]

    for change in ({"reward": np.ones((1, 4), np.float32)}, {"a_tm1": np.full(4, 2, np.int32)}):
        assert np.abs(q(False, **change) - q(False)).max() > 1e-4
        np.testing.assert_array_equal(q(True, **change), q(True))


def test_each_environment_explores_with_its_own_rate():
    epsilon = epsilon_greedy.ladder(Config(), 8)
    np.testing.assert_allclose(epsilon, [0.4 ** (1 + 7 * i / 7) for i in range(8)], rtol=1e-6)
    policy = functools.partial(epsilon_greedy.make_policy(make_network()), epsilon)
    timestep = jax.tree.map(lambda x: np.repeat(x[0, :1], 8, 0), play(1).steps)
    state, key = make_network().initial(8), jax.random.key(0)
    greedy = functools.partial(epsilon_greedy.make_policy(make_network()), np.zeros(8, np.float32))
    best, *_ = greedy(make_params(), timestep, state, key)
    random = np.zeros(8)
    for _ in range(2000):
        action, _, _, key = policy(make_params(), timestep, state, key)
        random += np.asarray(action) != np.asarray(best)
    expected = epsilon * (A - 1) / A
    assert (np.abs(random / 2000 - expected) < 4 * np.sqrt(expected / 2000)).all()


def test_only_legal_actions_are_taken_or_bootstrapped_from():
    q = jnp.array([[[1.0, 5.0, 3.0], [9.0, 2.0, 4.0]]])
    obs = {"action_mask": jnp.array([[[True, False, True], [False, True, False]]])}
    np.testing.assert_array_equal(epsilon_greedy.greedy(q, obs["action_mask"]), [[2, 1]])
    np.testing.assert_array_equal(epsilon_greedy.greedy(q, None), [[1, 0]])

    class Same(Stub):
        def apply(self, params, steps, action, core_state):
            return q, core_state

    timestep = Timestep({"action_mask": obs["action_mask"][0]}, *np.zeros((4, 2)))
    state = CoreState((), np.zeros(2, np.int32), (), ())
    taken = [
        r2d2.act(Same(), None, timestep, state, jax.random.key(i), np.ones(2, np.float32))[0]
        for i in range(40)
    ]
    assert {int(a[0]) for a in taken} == {0, 2} and {int(a[1]) for a in taken} == {1}


def test_q_of_discretised_actions_is_the_mean_of_their_dimensions():
    q = jnp.arange(12.0).reshape(1, 2, 2, 3)
    action = jnp.array([[[0, 2], [1, 1]]])
    np.testing.assert_allclose(epsilon_greedy.q_of(q, action), [[(0 + 5) / 2, (7 + 10) / 2]])


SGD = optax.sgd(0.05)


@functools.cache
def learn_step(num_devices, optimizer):
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    update = functools.partial(r2d2.update, make_network(), optimizer=lambda config, _: optimizer)
    return mesh, learner.data_parallel(
        update, mesh, SAMPLE_SPEC, (learner.SHARDED, learner.REPLICATED)
    )


def learn(num_devices, config, optimizer, sample, num_updates=5):
    mesh, step = learn_step(num_devices, optimizer)
    state = r2d2.make_state(make_network(), config)
    state = learner.place(mesh, state._replace(opt_state=optimizer.init(state.params)))
    losses = []
    for _ in range(num_updates):
        state, (priorities, metrics) = step(config, state, learner.place(mesh, sample, SAMPLE_SPEC))
        losses.append(jax.device_get(metrics))
    return jax.device_get((state.params, state.target_params, priorities, losses))


def test_the_number_of_devices_does_not_change_the_result():
    """SGD, which does not hide a gradient's scale as Adam does; uneven weights and masks."""
    replay, *_ = filled_replay(CONFIG, play(100))
    _, sample = replay.sample(8)
    assert np.ptp(sample.weights) > 0.1
    one = learn(1, CONFIG, SGD, sample)
    assert one[3][-1]["loss"] < 0.98 * one[3][0]["loss"]
    for num_devices in several_devices():
        other = learn(num_devices, CONFIG, SGD, sample)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-6), one, other
        )


def test_the_error_that_is_logged_is_the_mean_over_learned_steps():
    replay, *_ = filled_replay(CONFIG, play(100))
    _, sample = replay.sample(8)
    params, steps = r2d2.make_state(make_network(), CONFIG).params, sample.trajectory.steps
    q = r2d2.q_values(make_network(), params, CONFIG.burn_in, sample.trajectory)
    td_error = r2d2.td_errors(
        CONFIG,
        epsilon_greedy.q_of(q[:-1], sample.trajectory.action[CONFIG.burn_in :]),
        q.max(-1)[1:],
        jax.tree.map(lambda x: x[CONFIG.burn_in :], steps),
    )
    mask = sample.mask[CONFIG.burn_in :]
    metrics = learn(1, CONFIG, SGD, sample, num_updates=1)[3][0]
    np.testing.assert_allclose(metrics["td_error"], np.abs(td_error)[mask].mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["learned_share"], mask.mean())
    assert mask.mean() < 0.95


def test_the_target_network_is_a_copy_made_every_target_update_steps():
    config = dataclasses.replace(CONFIG, target_update=3)
    replay, *_ = filled_replay(config, play(60))
    _, sample = replay.sample(8)
    start = jax.device_get(r2d2.make_state(make_network(), config).params)
    for num_updates, expected in ((2, "start"), (3, "now"), (5, "then")):
        params, target, _, _ = learn(1, config, SGD, sample, num_updates)
        copied = start if expected == "start" else learn(1, config, SGD, sample, 3)[0]
        jax.tree.map(np.testing.assert_array_equal, target, copied)
        assert jax.tree.all(jax.tree.map(np.array_equal, params, target)) == (expected == "now")


def test_the_learning_rate_follows_the_environment_steps():
    config = dataclasses.replace(CONFIG, learning_rate=0.5, learning_rate_decay=0.75)
    replay, *_ = filled_replay(config, play(60))
    _, sample = replay.sample(8)
    mesh = learner.make_mesh(jax.devices()[:1])
    step = learner.data_parallel(
        functools.partial(r2d2.update, make_network()), mesh, SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
    )  # fmt: skip
    start = r2d2.make_state(make_network(), config)

    def moved(progress):
        state = jax.tree.map(jnp.copy, start)._replace(progress=jnp.float32(progress))
        state, (_, metrics) = step(config, learner.place(mesh, state), sample)
        params = jax.device_get((state.params, start.params))
        apart = jax.tree.map(lambda x, y: np.abs(x - y).max(), *params)
        return max(jax.tree.leaves(apart)), metrics

    whole, metrics = moved(0.0)
    assert metrics["learning_rate"] == 0.5
    for progress, rate in ((0.5, 0.3125), (1.0, 0.125), (1.2, 0.125)):
        less, metrics = moved(progress)
        np.testing.assert_allclose(
            (less / whole, metrics["learning_rate"]), (rate / 0.5, rate), rtol=1e-4
        )


@pytest.mark.parametrize("largest", [1e-3, 1e3])
def test_how_far_an_update_goes_is_told(largest):
    config = dataclasses.replace(CONFIG, max_gradient_norm=largest)
    replay, *_ = filled_replay(config, play(60))
    _, sample = replay.sample(8)
    before = r2d2.make_state(make_network(), config).params
    descent = optax.chain(optax.clip_by_global_norm(largest), optax.sgd(0.1))
    params, _, _, (metrics,) = learn(1, config, descent, sample, num_updates=1)
    assert metrics["gradient_clipped"] == (metrics["gradient_norm"] > largest) == (largest < 1)
    step = optax.global_norm(jax.tree.map(jnp.subtract, params, before))
    np.testing.assert_allclose(metrics["update_ratio"], step / optax.global_norm(before), rtol=1e-3)


def test_the_atari_preset_is_the_papers_table():
    config = ALGORITHM.presets.configs["atari"]
    expected = {
        "discount": 0.997, "n": 5, "burn_in": 40, "length": 80, "stride": 40, "batch_size": 64,
        "replay_capacity": 4_000_000, "priority_exponent": 0.9, "priority_eta": 0.9,
        "importance_exponent": 0.6, "learning_rate": 1e-4, "learning_rate_decay": 0.0,
        "adam_eps": 1e-3, "target_update": 2500,
        "value_rescaling": True, "num_envs": 256, "epsilon_base": 0.4, "epsilon_exponent": 7.0,
        "frame_stack": 4, "hidden_size": 0, "core_size": 512, "head_size": 512,
        "refresh_steps": 400, "replay_ratio": 0.8, "stored_state": True,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert not config.env_options.clip_rewards and not config.env_options.life_loss_ends


def test_a_config_is_a_pytree_of_its_numbers():
    leaves = jax.tree.leaves(Config())
    assert len(leaves) > 5 and all(isinstance(x, float) for x in leaves)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), Config(), Config(learning_rate=1.0))
    assert stacked.learning_rate.shape == (2,)


def test_parameters_begin_orthogonal_if_asked():
    """As of every algorithm; the target network's too."""
    plain, asked = (
        r2d2.make_state(make_network(), dataclasses.replace(CONFIG, orthogonal=x))
        for x in (False, True)
    )
    kernel, other = (s.params["params"]["torso"]["Dense_0"]["kernel"] for s in (asked, plain))
    gram = kernel @ kernel.T if kernel.shape[0] < kernel.shape[1] else kernel.T @ kernel
    np.testing.assert_allclose(gram, 2 * np.eye(len(gram)), atol=1e-5)
    assert np.abs(kernel - other).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, asked.params, asked.target_params)
