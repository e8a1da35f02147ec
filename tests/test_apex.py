"""Ape-X: transitions, their returns and priorities against each episode alone, in float64."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium import spaces
from made_up import KINDS, acted, close, pieces, several_devices, timesteps

from rlsys import algorithms, cli, networks, train
from rlsys.acting import epsilon_greedy
from rlsys.algorithms import apex
from rlsys.algorithms.apex import ALGORITHM, Config
from rlsys.learning import learner
from rlsys.learning.optimizer import centred_rmsprop
from rlsys.learning.q_update import q_metrics
from rlsys.types import SAMPLE_SPEC, Trajectory, UserError

B, STEPS = 4, 90
CONFIG = Config(
    num_envs=B, batch_size=8, n=3, discount=0.9, hidden_size=8, head_size=8,
    replay_capacity=2000, unroll_length=5, refresh_steps=5,
)  # fmt: skip
KIND_NAMES = ["memoryless", "stacked"]  # a vector with a mask of legal actions, images in fours


@functools.cache
def network_of(kind):
    obs, _, _, frame_stack, _ = KINDS[kind]
    torso = "shallow" if frame_stack > 1 else None
    return networks.q_network(
        obs, spaces.Discrete(3), torso=torso, hidden_size=8, core_size=0, head_size=8,
        frame_stack=frame_stack,
    )  # fmt: skip


@functools.cache
def params_of(kind, seed=0):
    return networks.init(network_of(kind), jax.random.key(seed))


@functools.cache
def q_one(kind):
    """Q(x_t, .) [B, A] of one step, and the agent's next state."""

    @jax.jit
    def apply(params, timestep, core_state):
        steps = jax.tree.map(lambda x: x[None], timestep)
        q, state = network_of(kind).apply(params, steps, np.zeros((0, B), np.int32), core_state)
        return q[0], state

    return apply


@functools.cache
def play(kind, mean_length=6):
    """Makes what an actor hands over, with episodes that end in every way."""
    steps = timesteps(kind, STEPS, B, mean_length=mean_length)
    policy = functools.partial(
        epsilon_greedy.make_policy(network_of(kind)), np.full(B, 0.5, np.float32)
    )
    start = network_of(kind).initial(B)
    actions, aux, _ = acted(policy, params_of(kind), steps, start, jax.random.key(0))
    return Trajectory(steps, actions, aux, start)


@functools.cache
def q_values(kind, seed):
    """Q [T + 1, B, A] of every step played, an agent's own memory from the first step on."""
    state, found = network_of(kind).initial(B), []
    for t in range(STEPS + 1):
        timestep = jax.tree.map(lambda x, t=t: x[t], play(kind).steps)
        q, state = q_one(kind)(params_of(kind, seed), timestep, state)
        found.append(np.float64(q))
    return np.stack(found)


def filled(kind, config=CONFIG):
    trajectory = play(kind)
    replay = apex.make_replay(config, network_of(kind))
    numbers, steps, mask = replay.add(trajectory)
    priorities = np.asarray(apex.initial_priorities(config, steps, mask))[: len(numbers)]
    replay.set_priorities(numbers, priorities)
    return replay, numbers, priorities


@functools.cache
def loss_of(kind, config):
    """Returns a function of a sample that computes its loss, priorities and gradient."""

    @jax.jit
    def compute(target_params, sample):
        of = functools.partial(apex.loss, network_of(kind), config)
        grad = jax.value_and_grad(of, has_aux=True)
        (value, (priorities, _)), grads = grad(params_of(kind), target_params, sample)
        return value, priorities, grads

    return lambda sample, seed=0: jax.device_get(compute(params_of(kind, seed), sample))


def literal_errors(kind, config, target_seed):
    """The error of each transition (t, env) by a loop over its own episode, in float64."""
    trajectory, errors, ends = play(kind), {}, {"terminated": 0, "truncated": 0, "whole": 0}
    steps, q, q_target = trajectory.steps, q_values(kind, 0), q_values(kind, target_seed)
    legal = network_of(kind).legal(steps.obs)
    for env in range(B):
        for begin, end in pieces(steps.first[:, env], STEPS):
            for t in range(begin, end):
                last = min(t + config.n, end)
                if end == STEPS and t + config.n > end:
                    continue  # not known yet
                allowed = np.ones(3, bool) if legal is None else legal[last, env]
                chosen = np.where(allowed, q[last, env], -np.inf).argmax()
                g = q_target[last, env, chosen]
                for k in range(last, t, -1):
                    g = np.float64(steps.reward[k, env]) + config.discount * (
                        np.float64(steps.discount[k, env]) * g
                    )
                errors[t, env] = g - q[t, env, trajectory.action[t, env]]
                if last == end < STEPS:
                    ends["truncated" if steps.truncated[last, env] else "terminated"] += 1
                else:
                    ends["whole"] += 1
    assert min(ends.values()) > 20
    return errors


@pytest.mark.parametrize("target_seed", [0, 1])
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_transition_equals_the_episode_alone(kind, n, target_seed):
    """Double Q by both networks; ends, time-outs, stacks of frames and legal actions."""
    config = dataclasses.replace(CONFIG, n=n)
    errors = literal_errors(kind, config, target_seed)
    replay, *_ = filled(kind, config)
    numbers, sample = replay.sample(600)
    value, priorities, _ = loss_of(kind, config)(sample, target_seed)
    expected = np.array([errors[divmod(int(number), B)] for number in numbers])
    np.testing.assert_allclose(priorities, np.abs(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, (sample.weights * expected**2 / 2).mean(), rtol=1e-4)
    drawn = {divmod(int(number), B) for number in numbers}
    assert len(drawn) > 0.6 * len(errors)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_initial_priorities_are_those_of_the_learner(kind):
    """With the same parameters, the actor's own Q-values give what the learner would."""
    replay, numbers, initial = filled(kind)
    drawn, sample = replay.sample(64)
    _, priorities, _ = loss_of(kind, CONFIG)(sample)
    expected = dict(zip(numbers, initial, strict=True))
    np.testing.assert_allclose(priorities, [expected[x] for x in drawn], rtol=2e-4, atol=1e-5)
    assert np.ptp(priorities) > 0.5


def test_what_can_be_drawn_is_every_step_but_resets():
    """And each in proportion to priority^0.6."""
    replay, numbers, priorities = filled("memoryless")
    steps = play("memoryless").steps
    resets = {t * B + env for t, env in zip(*np.nonzero(steps.first[1:]), strict=True)}
    stored = range(B * (STEPS - CONFIG.n))
    assert sorted(numbers) == [*stored] and len(resets) > 40
    assert len(replay) == len(set(stored) - resets)
    mass = np.zeros(len(stored))
    mass[numbers] = np.maximum(priorities, 1e-6) ** 0.6
    mass[[x for x in resets if x in stored]] = 0.0
    share = mass / mass.sum()
    drawn, sample = replay.sample(100_000)
    count = np.bincount(drawn, minlength=len(stored))
    assert (count[share == 0] == 0).all() and sample.mask[0].all() and not sample.mask[1:].any()
    likely = 100_000 * share > 20
    chi = ((count - 100_000 * share) ** 2)[likely] / (100_000 * share)[likely]
    assert likely.sum() > 100 and abs(chi.sum() / likely.sum() - 1) < 0.3
    np.testing.assert_allclose(sample.weights, share[drawn] ** -0.4, rtol=1e-5)
    figures = replay.metrics()
    newest = B * CONFIG.n - (steps.first[-CONFIG.n - 1 : -1]).sum()  # whose returns are not known
    assert 1 - figures["replay/drawable_share"] == pytest.approx(
        newest / (~steps.first[1:STEPS]).sum(), abs=0.02
    )


def test_what_follows_an_episodes_end_does_not_matter():
    replay, *_ = filled("memoryless")
    _, sample = replay.sample(64)
    steps = sample.trajectory.steps
    ended = (steps.discount[1:] == 0) | steps.truncated[1:]
    after = np.cumsum(np.concatenate([np.zeros((1, 64), bool), ended]), 0) > 0
    after = np.concatenate([np.zeros((1, 64), bool), after[:-1]])  # the end itself matters
    assert after.any()
    obs = {**steps.obs, "x": np.where(after[..., None], 7.0, steps.obs["x"]).astype(np.float32)}
    reward = np.where(after, 1e6, steps.reward).astype(np.float32)
    garbage = sample.trajectory._replace(steps=steps._replace(obs=obs, reward=reward))
    close(
        loss_of("memoryless", CONFIG)(sample, 1),
        loss_of("memoryless", CONFIG)(sample._replace(trajectory=garbage), 1),
    )


def test_the_gradient_is_that_of_the_prediction_alone():
    """-w delta grad Q(S_t, A_t) / B: nothing flows through the target."""
    kind = "memoryless"
    numbers, sample = filled(kind)[0].sample(8)
    _, priorities, grads = loss_of(kind, CONFIG)(sample)
    trajectory, network = sample.trajectory, network_of(kind)

    def q_a(params):
        first = jax.tree.map(lambda x: x[:1], trajectory.steps)
        q, _ = network.apply(params, first, trajectory.action[:0], trajectory.core_state)
        return jnp.take_along_axis(q[0], trajectory.action[0][:, None], axis=-1)[:, 0]

    errors = literal_errors(kind, CONFIG, 0)
    delta = np.array([errors[divmod(int(x), B)] for x in numbers], np.float32)
    np.testing.assert_allclose(np.abs(delta), priorities, rtol=1e-3, atol=1e-5)
    _, pull = jax.vjp(q_a, params_of(kind))
    (expected,) = pull(jnp.asarray(-sample.weights * delta / 8))
    close(grads, expected, rtol=1e-3, atol=1e-5)


def learn(num_devices, config, sample, num_updates=5):
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    network = network_of("stacked")
    step = learner.data_parallel(
        functools.partial(apex.update, network), mesh, SAMPLE_SPEC,
        (learner.SHARDED, learner.REPLICATED),
    )  # fmt: skip
    state, losses = learner.place(mesh, apex.make_state(network, config)), []
    for _ in range(num_updates):
        state, (priorities, metrics) = step(config, state, learner.place(mesh, sample, SAMPLE_SPEC))
        losses.append(jax.device_get(metrics))
    return jax.device_get((state.params, state.target_params, priorities, losses))


# With these RMSProp is SGD: its variance stays 0.
SGD = dataclasses.replace(CONFIG, rmsprop_decay=1.0, rmsprop_eps=1.0, learning_rate=0.02)


@pytest.mark.slow
def test_the_number_of_devices_does_not_change_the_result():
    """SGD, which does not hide a gradient's scale; weights divided by the largest of all."""
    replay, *_ = filled("stacked")
    _, sample = replay.sample(8)
    assert np.ptp(sample.weights) > 0.1
    one = learn(1, SGD, sample)
    assert one[3][-1]["loss"] < 0.98 * one[3][0]["loss"]
    weights = sample.weights / sample.weights.max()
    np.testing.assert_allclose(one[3][0]["importance_weight"], weights.mean(), rtol=1e-5)
    for num_devices in several_devices():
        other = learn(num_devices, SGD, sample)
        close(one, other, rtol=2e-4)


@pytest.mark.slow
def test_the_target_network_is_a_copy_made_every_target_update_steps():
    config = dataclasses.replace(CONFIG, target_update=3)
    replay, *_ = filled("stacked")
    _, sample = replay.sample(8)
    start = jax.device_get(apex.make_state(network_of("stacked"), config).params)
    third = learn(1, config, sample, 3)[0]
    for num_updates, expected in ((2, start), (3, third), (5, third)):
        params, target, _, _ = learn(1, config, sample, num_updates)
        jax.tree.map(np.testing.assert_array_equal, target, expected)
        assert jax.tree.all(jax.tree.map(np.array_equal, params, target)) == (num_updates == 3)


def literal_rmsprop(grads, rate, decay, eps):
    """Centred RMSProp as it is written: a second moment minus a squared mean, in float64."""
    mean, square, steps = 0.0, 0.0, []
    for g in np.float64(grads):
        mean = decay * mean + (1 - decay) * g
        square = decay * square + (1 - decay) * g**2
        steps.append(-rate * g / np.sqrt(square - mean**2 + eps))
    return np.array(steps)


@pytest.mark.parametrize("offset", [0.0, 3.0, 100.0])
def test_rmsprop_is_centred(offset):
    """Also on gradients far from 0, of which a float32 second moment leaves no variance."""
    random = np.random.default_rng(0)
    grads = np.float32(offset + 0.01 * random.normal(size=(300, 6)))
    descent = centred_rmsprop(0.1, decay=0.95, eps=1.5e-7)
    state, steps = descent.init({"x": jnp.zeros(6)}), []
    for g in grads:
        updates, state = jax.jit(descent.update)({"x": g}, state)
        steps.append(updates["x"])
    expected = literal_rmsprop(grads, 0.1, 0.95, 1.5e-7)
    np.testing.assert_allclose(np.stack(steps), expected, rtol=2e-3, atol=1e-4)
    if not offset:  # where optax's own is exact, too
        theirs = optax.rmsprop(0.1, decay=0.95, eps=1.5e-7, centered=True)
        state = theirs.init(jnp.zeros(6))
        for g, step in zip(grads, steps, strict=True):
            updates, state = theirs.update(g, state)
            np.testing.assert_allclose(updates, step, rtol=1e-3, atol=1e-5)


def test_rmsprop_survives_a_gradient_that_stays_the_same():
    descent = centred_rmsprop(0.1, decay=0.95, eps=1.5e-7)
    step = jax.jit(descent.update)
    for size in (1e-12, 0.7, 39.9, 1e6):
        state = descent.init(jnp.zeros(1))
        for _ in range(500):
            updates, state = step(jnp.full(1, size), state)
        assert np.isfinite(updates).all() and updates[0] < 0


def test_the_atari_preset_is_the_papers_table():
    config = ALGORITHM.presets.configs["atari"]
    expected = {
        "discount": 0.99, "n": 3, "batch_size": 512, "num_envs": 360, "core_size": 0,
        "replay_capacity": 2_000_000, "learning_starts": 50_000, "priority_exponent": 0.6,
        "importance_exponent": 0.4, "learning_rate": 0.00025 / 4, "learning_rate_decay": 0.0,
        "rmsprop_decay": 0.95, "rmsprop_eps": 1.5e-7, "max_gradient_norm": 40.0,
        "target_update": 2500, "epsilon_base": 0.4, "epsilon_exponent": 7.0, "frame_stack": 4,
        "hidden_size": 0, "head_size": 512, "refresh_steps": 100, "unroll_length": 50,
        "replay_ratio": 1.3,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.env_options.clip_rewards and config.env_options.life_loss_ends
    assert config.env_options.max_episode_steps * 4 == 50_000  # frames
    assert not config.env_options.minimal_actions  # all 18
    np.testing.assert_allclose(
        epsilon_greedy.ladder(config, 360)[[0, 359]], [0.4, 0.4**8], rtol=1e-5
    )


def test_tasks_with_images_have_a_preset_that_they_can_take():
    """Only Atari's have lives and a cap of frames."""
    config = ALGORITHM.presets.choose(None, "D1Basic-v1", on_cpu=False)
    assert (config.frame_stack, config.env_options.life_loss_ends) == (4, False)
    assert config.env_options.clip_rewards and config.env_options.max_episode_steps is None


def test_each_frame_is_held_once():
    """A transition shows n + frame_stack of them."""
    config = dataclasses.replace(
        ALGORITHM.presets.configs["atari"], num_envs=8, batch_size=8, actors=1,
        replay_capacity=1600, learning_starts=400,
    )  # fmt: skip
    network = apex.epsilon_greedy.make_network(
        config, spaces.Box(0, 255, (84, 84, 1), np.uint8), spaces.Discrete(4)
    )
    per_transition = apex.make_replay(config, network).nbytes / config.replay_capacity
    assert 84 * 84 < per_transition < 1.02 * 84 * 84


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--core-size 16", "core_size must be 0, not 16: apex has no memory"),
        ("--rmsprop-decay 2", r"rmsprop_decay must be within \[0, 1\], not 2"),
        ("--rmsprop-eps 0", "rmsprop_eps must be positive, not 0"),
        ("--n 0", "n must be 1 or more, not 0"),
        ("--learning-starts 255", "learning_starts 255 must be 256 or more, when returns of 3 st"),
        ("--replay-capacity 100", "a replay of 100 is smaller than a batch of 128"),
        ("--env Catch-v0,Catch-v0:permute=1", "a replay holds one task"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        algorithms.config_of("apex", words.split())


def test_a_config_is_a_pytree_of_its_numbers():
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), Config(), Config(rmsprop_eps=1.0))
    assert stacked.rmsprop_eps.shape == stacked.learning_rate.shape == (2,)
    assert stacked.length == 1


@pytest.mark.slow
def test_it_learns(tmp_path):
    """Cart-pole in 30 s: no warning of its health, and Q near the 100 that steps for ever give."""
    words = f"apex --env-steps 600000 --seed 3 --run-dir {tmp_path}/run"
    assert cli.exit_code(lambda: train.main(words.split())) == 0
    found = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert found["results"]["greedy"]["mean"] > 400  # 22 at the start
    lines = [json.loads(x) for x in Path(tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert 60 < last["q_mean"] < 120 and last["replay/drawable_share"] > 0.99
    assert last["gradient_clipped"] < 0.2
    assert not any(v for line in lines for k, v in line.items() if k.startswith("health/"))


def test_metrics_of_q_values_are_of_actions_that_there_are():
    q = np.float32([[[1.0, -3.0, 50.0], [2.0, 4.0, 6.0]]])  # [1, 2, 3]
    legal = np.array([[[True, True, False], [True, False, True]]])
    assert metrics_of(q, legal, [[True, True]]) == (1.5, 4.5)
    assert metrics_of(q, None, [[True, True]]) == (10.0, 28.0)


def test_metrics_of_q_values_are_of_steps_that_are_learned_from():
    """Not of padding, nor of the next episode's steps that a window happens to hold."""
    q = np.float32([[[1.0, -3.0], [2.0, 4.0]], [[99.0, 99.0], [0.0, 1.0]]])  # [2, 2, 2]
    assert metrics_of(q, None, [[True, True], [False, True]]) == (pytest.approx(2.5 / 3), 3.5)
    assert metrics_of(q, None, [[True, False], [False, False]]) == (-1.0, 3.0)
    assert metrics_of(q, None, [[False, False]] * 2) == (0.0, 0.0)


def metrics_of(q, legal, mask):
    """q_mean and q_abs_max as they are logged."""
    found = q_metrics(q, legal, np.array(mask))
    return tuple(
        float(found[k].masked / max(found[k].share, 1e-9)) for k in ("q_mean", "q_abs_max")
    )
