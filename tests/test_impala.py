"""IMPALA: the loss against its equations, PopArt against two passes, any number of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_up import Stub, close, network_of, params_of, pieces, play, several_devices

from rlsys import networks
from rlsys.algorithms import impala
from rlsys.algorithms.impala import ALGORITHM, Config
from rlsys.envs import Options
from rlsys.learning import learner
from rlsys.learning.optimizer import linear_decay
from rlsys.losses import popart
from rlsys.networks.distributions import ILLEGAL, Categorical
from rlsys.types import TRAJECTORY_SPEC, LearnerState, UserError

T, B = 16, 8
TASK = (0, 0, 0, 1, 0, 0, 2, 2)  # the first of 4 devices has one task, the last another
CONFIG = Config(
    unroll_length=T, refresh_steps=T, num_envs=B, batch_size=B, discount=0.9, clip_rho=1.1,
    clip_pg_rho=0.9, vtrace_lambda=0.9, baseline_cost=0.7, entropy_cost=0.03,
    popart=False, max_gradient_norm=40.0, optimizer_eps=1e-5,
)  # fmt: skip
POPART = dataclasses.replace(CONFIG, popart=True, popart_step_size=0.01)
STATISTICS = popart.PopArtState(
    *np.array([[0.5, -1.0, 3.0], [2.0, 5.0, 9.5], [500.0, 50.0, 0.0]], np.float32)
)


@functools.cache
def trajectory_of(kind="recurrent", task=TASK):
    return play(impala.act, kind, T, len(task), task=task)


def other_params(kind="recurrent"):
    """Makes the parameters of a policy that has learned since the actors copied theirs."""
    return jax.tree.map(lambda x, y: x + 0.2 * y, params_of(kind), params_of(kind, 1))


@functools.cache
def compiled(network, num_devices, gradient):
    """(config, (params, statistics), trajectory) -> loss, statistics, metrics, gradient."""
    mesh = learner.make_mesh(jax.devices()[:num_devices])

    def step(config, state, trajectory):
        loss = functools.partial(impala.loss, network, config)
        if not gradient:
            _, (statistics, metrics) = loss(*state, trajectory)
            return state, (statistics, learner.pmean(metrics))
        grad = learner.value_and_grad(loss)
        (value, (statistics, metrics)), grads = grad(*state, trajectory)
        return state, (value, statistics, metrics, grads)

    return mesh, learner.data_parallel(step, mesh, TRAJECTORY_SPEC)


def loss_of(
    config, trajectory, params, statistics=STATISTICS, network=None, num_devices=1, gradient=True
):
    network = network or network_of("recurrent")
    mesh, step = compiled(network, num_devices, gradient)
    state = learner.place(mesh, jax.tree.map(jnp.array, (params, statistics)))
    trajectory = learner.place(mesh, trajectory, TRAJECTORY_SPEC)
    return jax.device_get(step(config, state, trajectory)[1])


def literal_targets(config, trajectory, logits, values, statistics):
    """In float64, each episode by itself: targets, advantages, and the statistics after them."""
    steps, action, task = trajectory.steps, trajectory.action, trajectory.task_id
    log_pi, log_mu = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in
                      (np.float64(logits), np.float64(trajectory.aux.logits)))  # fmt: skip
    mean, variance = np.float64(statistics.mean), np.float64(statistics.variance)
    old_scale = floored(config, mean, variance)
    v = np.stack([values[:, b, i] * old_scale[i] + statistics.mean[i]
                  for b, i in enumerate(task)], 1)  # fmt: skip
    vs, advantage = np.zeros((2, T, len(task)))
    mask = np.zeros((T, len(task)), bool)
    for b in range(len(task)):
        for begin, end in pieces(steps.first[:, b], T):
            index = np.arange(begin, end), b, action[begin:end, b]
            rho = np.exp(log_pi[index] - log_mu[index])
            mask[begin:end, b] = True
            r = np.float64(steps.reward[begin + 1 : end + 1, b])
            gamma = config.discount * np.float64(steps.discount[begin + 1 : end + 1, b])
            x = v[begin : end + 1, b]
            rho_bar, c = np.minimum(config.clip_rho, rho), config.vtrace_lambda * np.minimum(1, rho)
            delta = r + gamma * x[1:] - x[:-1]
            target = [*x]  # the last one is V itself: bootstrap
            for s in range(end - begin):
                for t in range(s, end - begin):
                    target[s] += np.prod(gamma[s:t] * c[s:t]) * rho_bar[t] * delta[t]
            for s in range(end - begin):
                last = s + 1 == end - begin
                decay = 0.0 if last else config.vtrace_lambda
                q = decay * (0.0 if last else target[s + 1]) + (1 - decay) * x[s + 1]
                vs[begin + s, b] = target[s]
                advantage[begin + s, b] = min(config.clip_pg_rho, rho[s]) * (
                    r[s] + gamma[s] * q - x[s]
                )
    second = variance + mean**2
    if config.popart:
        for i in range(len(mean)):
            y = vs[:, task == i][mask[:, task == i]]
            beta = max(config.popart_step_size, 1 / (statistics.count[i] + 1))
            keep = (1 - beta) ** len(y)
            if len(y):
                mean[i] = keep * mean[i] + (1 - keep) * y.mean()
                second[i] = keep * second[i] + (1 - keep) * (y**2).mean()
    variance = second - mean**2
    scale = floored(config, mean, variance)
    return v, vs, advantage, mask, mean, variance, scale, old_scale


def floored(config, mean, variance):
    return np.maximum(np.sqrt(variance), config.popart_floor * abs(mean) * config.popart)


def literal_loss(config, trajectory, logits, values, statistics):
    """-> scalar, new mean and variance, gradients for logits and values."""
    task, action = trajectory.task_id, trajectory.action
    v, vs, advantage, mask, mean, variance, scale, old_scale = literal_targets(
        config, trajectory, logits, values, statistics
    )
    pi = np.exp(np.float64(logits[:-1]))
    pi /= pi.sum(-1, keepdims=True)
    total, d_logits, d_values = 0.0, np.zeros(logits.shape), np.zeros(values.shape)
    for t, b in zip(*np.nonzero(mask), strict=True):
        i, a, p = task[b], action[t, b], pi[t, b]
        advantage_tb = advantage[t, b] / scale[i]
        error = (v[t, b] - vs[t, b]) / scale[i]
        entropy = -(p * np.log(p)).sum()
        total += -np.log(p[a]) * advantage_tb
        total += config.baseline_cost * error**2 / 2 - config.entropy_cost * entropy
        d_logits[t, b] = (p - np.eye(len(p))[a]) * advantage_tb
        d_logits[t, b] += config.entropy_cost * p * (np.log(p) + entropy)
        d_values[t, b, i] = config.baseline_cost * error * old_scale[i] / scale[i]
    number = 1 if config.sum_losses else T * len(task)
    return total / number, mean, variance, d_logits / number, d_values / number


class Outputs(Stub):
    """A network whose outputs are its parameters."""

    def apply(self, params, steps, action, core_state):
        logits, values = params["params"]
        return (Categorical(logits), values), core_state


OUTPUTS = Outputs()


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(POPART, sum_losses=True)])
def test_the_loss_and_its_gradient_are_those_of_the_equations(config):
    trajectory, random = trajectory_of(), np.random.default_rng(0)
    steps = trajectory.steps
    assert all(x[1:-1].sum() > 3 for x in (steps.first, steps.truncated, steps.discount == 0))
    logits = trajectory.aux.logits[[*range(T), 0]] + random.normal(scale=0.5, size=(T + 1, B, 3))
    logits, values = np.float32(logits), np.float32(random.normal(size=(T + 1, B, 3)))
    total, mean, variance, d_logits, d_values = literal_loss(
        config, trajectory, logits, values, STATISTICS
    )
    value, new, metrics, grads = loss_of(
        config, trajectory, {"params": (logits, values)}, network=OUTPUTS
    )
    grads = grads["params"]
    np.testing.assert_allclose((value, metrics["loss"]), total, rtol=1e-4)
    size = T * B if config.sum_losses else 1.0
    close([x * size for x in (grads[0], grads[1])], [d_logits * size, d_values * size], atol=1e-5)
    close((new.mean, new.variance), (mean, variance))
    assert not config.popart or abs(mean - STATISTICS.mean).min() > 1e-2


def alone(trajectory, kind, params):
    """A network's outputs for each episode by itself, one step at a time."""
    network = network_of(kind)
    apply = jax.jit(network.apply)
    steps, action = trajectory.steps, trajectory.action
    logits, values = np.zeros((T + 1, B, 3)), np.zeros((T + 1, B, 3))
    for b in range(B):
        for begin, end in pieces(steps.first[:, b], T):
            stored = jax.tree.map(lambda x, b=b: x[b : b + 1], trajectory.core_state)
            state = stored if begin == 0 else network.initial(1)
            for t in range(begin, end + 1):
                x_t = jax.tree.map(lambda x, t=t, b=b: x[t : t + 1, b : b + 1], steps)
                outputs, state = apply(params, x_t, action[:0, :1], state)
                logits[t, b], values[t, b] = outputs[0].logits[0, 0], outputs[1][0, 0]
                state = state._replace(a_tm1=action[min(t, T - 1), b : b + 1])
    return np.float32(logits), np.float32(values)


def test_episodes_in_one_unroll_equal_each_alone():
    """Those that were begun before it go on from the stored state."""
    trajectory, params = trajectory_of(), other_params()
    assert not trajectory.steps.first[0].all() and trajectory.core_state.lstm[0].std() > 0.1
    outputs = alone(trajectory, "recurrent", params)
    total, mean, variance, _, _ = literal_loss(POPART, trajectory, *outputs, STATISTICS)
    value, new, metrics, _ = loss_of(POPART, trajectory, params)
    np.testing.assert_allclose(value, total, rtol=1e-4)
    close((new.mean, new.variance), (mean, variance))
    assert metrics["rho_clipped"] > 0.1  # of the policy that acted, which is another


@pytest.mark.parametrize("kind", ["recurrent", "many", "stacked recurrent"])
def test_on_policy_every_ratio_is_1(kind):
    """That of behaviour as act kept it, with what each network remembers."""
    trajectory = trajectory_of(kind, TASK if kind == "recurrent" else (0,) * B)
    statistics = popart.init(network_of(kind).head.num_tasks)

    def above(bound, params):
        config = dataclasses.replace(CONFIG, clip_rho=bound)
        _, metrics = loss_of(
            config, trajectory, params, statistics, network_of(kind), gradient=False
        )
        return metrics["rho_clipped"].masked / metrics["rho_clipped"].share

    assert trajectory.steps.first[1:].any()  # steps that are not learned from do not count
    assert above(1 + 3e-6, params_of(kind)) == 0
    just_below = np.float32(1 - 3e-6)  # no float, so no Config checks it
    np.testing.assert_allclose(above(just_below, params_of(kind)), 1, rtol=1e-6)
    assert 0.1 < above(1 + 3e-6, other_params(kind)) < 0.9


def test_steps_onto_a_reset_do_not_matter():
    """Whatever the environment, the policy and the action were there."""
    trajectory, params = trajectory_of(), other_params()
    steps, reset = trajectory.steps, trajectory.steps.first[1:]
    onto = np.concatenate([np.zeros_like(reset[:1]), reset])
    impossible = np.float32(-1e9) * np.eye(3, dtype=np.float32)[0]
    garbage = trajectory._replace(
        steps=steps._replace(
            reward=np.where(onto, np.float32(1e20), steps.reward),
            discount=np.where(onto, np.float32(0.5), steps.discount),
            truncated=np.where(onto, ~steps.truncated, steps.truncated),
        ),
        action=np.where(reset, 2 - trajectory.action, trajectory.action),
        aux=Categorical(np.where(reset[..., None], impossible, trajectory.aux.logits)),
    )
    assert reset.sum() > 10
    for config in (CONFIG, POPART):
        result = loss_of(config, trajectory, params)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))
        jax.tree.map(np.testing.assert_array_equal, result, loss_of(config, garbage, params))


def test_far_apart_policies_have_finite_metrics():
    """pi(a) / mu(a) overflows where the loss does not."""
    trajectory, params = trajectory_of(), other_params()
    taken = trajectory.action[..., None] == np.arange(3)
    for far in (-200, 200):  # e^far is the chance that the actor gave the action, over the others'
        apart = trajectory._replace(
            aux=Categorical(np.where(taken, np.float32(far), np.float32(0)))
        )
        value, _, metrics, grads = loss_of(CONFIG, apart, params)
        assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        assert all(np.isfinite(x) for x in jax.tree.leaves(metrics)), metrics
        assert (metrics["rho_clipped"] > 0.5) == (far < 0)


def test_losses_may_be_added_up():
    """Over the whole batch, on however many devices."""
    trajectory, params = trajectory_of(), other_params()
    summed = dataclasses.replace(POPART, sum_losses=True)
    value, _, _, grads = loss_of(POPART, trajectory, params)
    total, _, metrics, total_grads = loss_of(summed, trajectory, params, num_devices=4)
    np.testing.assert_allclose((total, metrics["loss"]), T * B * value, rtol=1e-4)
    close(total_grads, jax.tree.map(lambda x: T * B * x, grads), atol=1e-3)


def test_popart_equals_two_passes():
    """First the statistics, then the corrected layer, then the gradient with respect to it."""
    trajectory, params, network = trajectory_of(), other_params(), network_of("recurrent")
    steps = trajectory.steps._replace(reward=50 + 300 * trajectory.steps.reward)
    trajectory = trajectory._replace(steps=steps)
    _, new, _, grads = loss_of(POPART, trajectory, params)
    ratio = popart.scale(new) / popart.scale(STATISTICS)
    assert ratio.min() > 3 and np.ptp(ratio) > 1  # a jump, another for each task

    pi, values = jax.jit(network.apply)(params, steps, trajectory.action, trajectory.core_state)[0]
    _, vs, advantage, mask, *_, scale, _ = literal_targets(
        POPART, trajectory, pi.logits, np.asarray(values), STATISTICS
    )
    layer = networks.value_layer(params)
    kernel, bias = popart.preserve_outputs(STATISTICS, new, layer["kernel"], layer["bias"])
    corrected = networks.with_value_layer(params, {"kernel": kernel, "bias": bias})

    def second_pass(params):
        pi, values = network.apply(params, steps, trajectory.action, trajectory.core_state)[0]
        log_pi = jax.nn.log_softmax(pi.logits[:-1])
        log_pi_a = jnp.take_along_axis(log_pi, trajectory.action[..., None], -1)[..., 0]
        n = jnp.take_along_axis(values[:-1], trajectory.task_id[None, :, None], -1)[..., 0]
        n_target = (vs - new.mean[trajectory.task_id][None]) / scale[trajectory.task_id][None]
        loss = -log_pi_a * advantage / scale[trajectory.task_id][None]
        loss += POPART.baseline_cost * (n - n_target) ** 2 / 2
        return jnp.mean(mask * (loss + POPART.entropy_cost * (jnp.exp(log_pi) * log_pi).sum(-1)))

    expected = jax.jit(jax.grad(second_pass))(corrected)
    found = impala.preserve_outputs(STATISTICS, new, params, grads)
    close(found[0], corrected, rtol=1e-5)
    close(found[1], expected, rtol=1e-3, atol=1e-5)
    for found_layer, was in zip(map(networks.value_layer, found), (layer, grads["params"]["head"]
                                ["value"]), strict=True):  # fmt: skip
        assert np.abs(found_layer["kernel"] - was["kernel"]).max() > 1e-2  # it would show


class Linear(Stub):
    """A network of one layer, for what does not depend on the network."""

    head = network_of("recurrent").head

    def init(self, seed=0):
        random = np.random.default_rng(seed)
        policy, value, bias = (np.float32(random.normal(size=n)) for n in ((4, 3), (4, 3), 3))
        return {"params": {"head": {"policy": policy, "value": {"kernel": value, "bias": bias}}}}

    def apply(self, params, steps, action, core_state):
        head = params["params"]["head"]
        value = steps.obs @ head["value"]["kernel"] + head["value"]["bias"][None, None]
        return (Categorical(steps.obs @ head["policy"]), value), core_state


LINEAR = Linear()


def state_of(config, optimizer, seed=0):
    params = jax.tree.map(jnp.array, LINEAR.init(seed))
    zero, statistics = jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, STATISTICS)
    opt_state = optimizer(config, 0.0).init(params)
    progress = jnp.zeros(())
    return LearnerState(params, opt_state, jax.random.key(0), zero, progress, popart=statistics)


def descend(num_devices, config, trajectory, num_updates=3):
    """A few learner steps by gradient descent."""
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    rate = 0.05 / (T * B if config.sum_losses else 1)

    def optimizer(config, _):
        return optax.sgd(rate)

    update = functools.partial(impala.update, LINEAR, optimizer=optimizer)
    step = learner.data_parallel(update, mesh, TRAJECTORY_SPEC)
    state = learner.place(mesh, state_of(config, optimizer))
    placed, metrics = learner.place(mesh, trajectory, TRAJECTORY_SPEC), []
    for _ in range(num_updates):
        state, scalars = step(config, state, placed)
        metrics.append(jax.device_get(scalars))
    assert state.step == num_updates
    return jax.device_get((state.params, state.popart, metrics))


@pytest.mark.parametrize(
    "config",
    [CONFIG, pytest.param(dataclasses.replace(POPART, sum_losses=True), marks=pytest.mark.slow)],
)
def test_the_number_of_devices_does_not_change_the_result(config):
    """Gradient descent, which does not hide a gradient's scale; tasks spread unevenly."""
    one = descend(1, config, trajectory_of())
    assert abs(one[2][-1]["loss"] - one[2][0]["loss"]) > 1e-3
    assert abs(one[1].mean - STATISTICS.mean).min() > 1e-2 or not config.popart
    for num_devices in several_devices():
        close(one, descend(num_devices, config, trajectory_of()), rtol=5e-4, atol=2e-6)


def test_an_absent_task_keeps_its_statistics_and_values():
    trajectory = trajectory_of()._replace(task_id=np.array([0, 0, 0, 0, 2, 0, 2, 2], np.int32))
    params, statistics, _ = descend(1, POPART, trajectory)
    for name in popart.PopArtState._fields:
        new, old = getattr(statistics, name), getattr(STATISTICS, name)
        np.testing.assert_array_equal(new == old, [False, True, False], name)
    same = jax.tree.map(
        lambda x, y: (x == y).all(axis=tuple(range(x.ndim - 1))),
        *map(networks.value_layer, (params, LINEAR.init())),
    )
    assert same["kernel"].tolist() == same["bias"].tolist() == [False, True, False]


def test_the_policy_does_not_know_the_task():
    trajectory, params = trajectory_of(), other_params()
    _, _, metrics, _ = loss_of(CONFIG, trajectory, params)
    _, _, other, _ = loss_of(CONFIG, trajectory._replace(task_id=2 - trajectory.task_id), params)
    for name, blind in {"entropy": True, "rho_mean": True, "v_mean": False}.items():
        assert (metrics[name] == other[name]) == blind, name


def test_rmsprop_is_that_of_the_authors_library():
    """epsilon inside the root, mean of squares from 1; clipped by norm; the rate falls to 0."""
    config = dataclasses.replace(
        ALGORITHM.presets.configs["atari"], max_gradient_norm=5.0, optimizer_eps=0.01
    )
    random = np.random.default_rng(0)
    grads = random.normal(size=(33, 4)).astype(np.float32) * np.array([1e-2, 0.1, 1, 10])
    grads = np.float32(grads)

    def step(state, now):
        grad, progress = now
        rate = linear_decay(config.learning_rate, config.learning_rate_decay, progress)
        updates, state = impala.optimizer(config, rate).update({"w": grad}, state)
        return state, updates["w"]

    _, updates = jax.jit(functools.partial(jax.lax.scan, step))(
        impala.optimizer(config, 0.0).init({"w": grads[0]}), (grads, np.float32(np.arange(33) / 30))
    )
    square, expected = np.ones(4), []
    for t, g in enumerate(np.float64(grads)):
        norm = np.sqrt((g**2).sum())
        g = g * min(1, 5 / norm)
        square = 0.99 * square + 0.01 * g**2
        rate = 6e-4 * max(0, 1 - t / 30)
        expected.append(-rate * g / np.sqrt(square + 0.01))
    np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-9)
    norms = np.linalg.norm(grads, axis=1)
    assert norms.min() < 5 < norms.max() and not np.any(updates[30:])


def test_adam_is_that_of_optax():
    config = CONFIG
    adam, ours = optax.adam(0.1, eps=1e-5), impala.optimizer(config, 0.1)
    grads = {"w": jnp.array([0.1, -2.0, 3.0])}
    close(ours.update(grads, ours.init(grads))[0], adam.update(grads, adam.init(grads))[0])


def test_the_atari_preset_is_the_papers_table():
    config = ALGORITHM.presets.configs["atari"]
    expected = {
        "discount": 0.99, "clip_rho": 1.0, "clip_pg_rho": 1.0, "vtrace_lambda": 1.0,
        "batch_size": 32,
        "baseline_cost": 0.5, "entropy_cost": 0.01, "sum_losses": True, "optimizer": "rmsprop",
        "learning_rate": 6e-4, "learning_rate_decay": 1.0, "rmsprop_decay": 0.99,
        "optimizer_eps": 0.01, "max_gradient_norm": 40.0, "unroll_length": 20, "torso": "shallow",
        "hidden_size": 256, "core_size": 0, "head_size": 0, "frame_stack": 4, "popart": False,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.env_options.clip_rewards and config.env_options.life_loss_ends
    assert not config.env_options.sticky_actions
    deep = ALGORITHM.presets.configs["atari-deep-lstm"]
    assert (deep.torso, deep.core_size) == ("impala", 256)
    assert Config().popart_step_size == 3e-4


def test_batches_are_the_environments_in_turn():
    trajectory = trajectory_of()
    together = impala.batches(dataclasses.replace(POPART, batch_size=2), trajectory)
    assert together.task_id.tolist() == [[0, 0], [0, 1], [0, 0], [2, 2]]
    parts = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(4)]
    joined = [
        jax.tree.map(lambda *xs, axis=axis: np.concatenate(xs, axis), *fields)
        for axis, fields in zip((1, 1, 1, 0, 0, 1), zip(*parts, strict=True), strict=True)
    ]
    jax.tree.map(np.testing.assert_array_equal, joined, list(trajectory))


def test_a_config_is_a_pytree_of_its_numbers():
    """So that a sweep is vmap over a stack of them."""
    assert all(isinstance(x, float) for x in jax.tree.leaves(Config()))
    assert len(jax.tree.leaves(Config())) > 10
    configs = [POPART, dataclasses.replace(POPART, learning_rate=0.1, vtrace_lambda=0.5)]
    mesh, update = learner.make_mesh(jax.devices()[:1]), functools.partial(impala.update, LINEAR)
    states = [state_of(config, impala.optimizer, seed) for seed, config in enumerate(configs)]
    members = learner.data_parallel(jax.vmap(update, in_axes=(0, 0, None)), mesh, TRAJECTORY_SPEC)
    stacked, states_stacked = (
        jax.tree.map(lambda *xs: jnp.stack(xs), *both) for both in (configs, states)
    )
    sweep, _ = members(stacked, states_stacked, trajectory_of())
    step = learner.data_parallel(update, mesh, TRAJECTORY_SPEC)
    for i, (config, state) in enumerate(zip(configs, states, strict=True)):
        state, _ = step(config, state, trajectory_of())
        close(jax.tree.map(lambda x, i=i: x[i], sweep.params), state.params, atol=1e-5)


def test_what_suits_each_family_of_tasks():
    for env, name in {
        None: "cartpole", "CartPole-v1": "cartpole", "Catch-v0": "small", "Pong-v5": "atari",
    }.items():  # fmt: skip
        expected = ALGORITHM.presets.configs[name]
        config = ALGORITHM.presets.choose(None, env, on_cpu=False)
        assert config == dataclasses.replace(expected, env=env or expected.env), env
    assert (
        ALGORITHM.presets.suits["procgen"] == ALGORITHM.presets.suits["vizdoom"] == "pixels"
    )  # which not every machine can make
    assert (
        ALGORITHM.presets.configs["pixels"].torso == "impala"
        and not ALGORITHM.presets.configs["pixels"].env_options.minimal_actions
    )
    assert (
        ALGORITHM.presets.choose("atari-deep", "Breakout-v5", on_cpu=False).env_options
        == ALGORITHM.presets.configs["atari"].env_options
    )
    assert ALGORITHM.presets.choose("atari", "Catch-v0", on_cpu=False).env_options == Options()


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 57])
def test_several_tasks_have_an_actor_each_and_popart(num_tasks):
    env = ",".join(f"Catch-v0:permute={i + 1}" for i in range(num_tasks))
    config = ALGORITHM.presets.choose(None, env, on_cpu=False)
    assert config.popart and config.actors == num_tasks
    assert (
        config.num_envs % num_tasks == 0
        and config.num_envs <= ALGORITHM.presets.configs["small"].num_envs
    )
    assert config.unrolls_ahead > 0 and config.join < num_tasks  # none waits for the slowest
    assert config.batch_size >= ALGORITHM.presets.configs["small"].batch_size / 2


def test_games_of_several_kinds_share_all_actions():
    config = ALGORITHM.presets.choose(None, "Pong-v5,Breakout-v5", on_cpu=False)
    assert not config.env_options.minimal_actions and config.env_options.clip_rewards
    assert ALGORITHM.presets.choose(None, "Pong-v5", on_cpu=False).env_options.minimal_actions


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": "sgd"}, "optimizer must be rmsprop or adam, not 'sgd'"),
        ({"batch_size": 24}, "batch_size 24 must divide the 64 environments of an actor"),
        (
            {"actors": 4, "batch_size": 48, "unrolls_ahead": 0},
            "take 3 actors of 16 environments; in turn that must",
        ),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"rmsprop_decay": 0.9}, r"rmsprop_decay 0\.9 is for optimizer rmsprop, not adam"),
        ({"clip_rho": 0.9}, r"clip_rho must be 1 or more, not 0\.9"),
        ({"clip_pg_rho": 0.0}, r"clip_pg_rho must be positive, not 0\.0"),
        ({"optimizer_eps": 0.0}, r"optimizer_eps must be positive, not 0\.0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"actors": 3}, "64 environments cannot be shared evenly by 3 actors"),
        ({"env": "Catch-v0,Catch-v0:permute=1"}, "actors must be a multiple of the 2 tasks, not 1"),
        ({"refresh_steps": 25}, "refresh_steps 25 is no multiple of unroll_length 10"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        dataclasses.replace(Config(), **changes)
    assert "\n" not in str(error.value)


def test_act_keeps_the_policy_that_acted():
    trajectory = trajectory_of("memoryless", (0,) * B)
    legal = trajectory.steps.obs["action_mask"][:-1]
    some = legal.any(-1)
    assert 0 < (~some).sum() < some.size
    taken = np.take_along_axis(legal, trajectory.action[..., None], -1)[..., 0]
    assert taken[some].all()
    np.testing.assert_array_equal((trajectory.aux.logits == ILLEGAL).any(-1),
                                  some & ~legal.all(-1))  # fmt: skip


def test_steps_of_another_policy_are_not_learned_from():
    """Rule 3: where nothing is the learner's own, the loss is 0; a mask of all changes nothing."""
    trajectory = trajectory_of()
    params = networks.init(network_of("recurrent"), jax.random.key(0))
    all_learn = np.ones(trajectory.action.shape[:2], bool)
    as_it_is, none, all_ = (
        loss_of(CONFIG, trajectory._replace(learns=learns), params)[0]
        for learns in ((), ~all_learn, all_learn)
    )
    assert none == 0.0 and as_it_is == all_ != 0.0
