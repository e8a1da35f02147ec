"""PPO: sequences go on where the actor was, each is learned from as often, on any devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_up import Stub, close, network_of, params_of, pieces, play, several_devices

from rlsys.acting import actor_critic
from rlsys.algorithms import ppo
from rlsys.algorithms.ppo import ALGORITHM, Config
from rlsys.algorithms.ppo_minibatches import BATCH_SPEC, turns
from rlsys.envs import Options
from rlsys.learning import learner
from rlsys.losses import popart
from rlsys.networks.distributions import MultiCategorical
from rlsys.types import TRAJECTORY_SPEC, LearnerState, Timestep, UserError

T, B = 16, 8
TASK = (0, 0, 0, 1, 0, 0, 2, 2)  # the first of 4 devices has one task, the last another
CONFIG = Config(
    unroll_length=T, refresh_steps=T, num_envs=B, sequence_length=4, epochs=2, minibatches=2,
    discount=0.9, gae_lambda=0.8, value_cost=0.7, entropy_cost=0.03, popart=True,
    popart_step_size=0.01,
)  # fmt: skip
STATISTICS = popart.PopArtState(
    *np.array([[0.5, -1.0, 3.0], [2.0, 5.0, 9.5], [500.0, 50.0, 0.0]], np.float32)
)
LENGTHS = {"memoryless": 1, "recurrent": 4, "many": 4, "stacked": 2, "stacked recurrent": 4}


def config_of(kind, **changes):
    return dataclasses.replace(CONFIG, sequence_length=LENGTHS[kind], **changes)


@functools.cache
def trajectory_of(kind):
    return play(ppo.act, kind, T, B, task=TASK if network_of(kind).head.num_tasks > 1 else None)


def state_of(kind, config, optimizer=ppo.optimizer):
    params = jax.tree.map(jnp.array, params_of(kind))
    several = network_of(kind).head.num_tasks > 1
    statistics = jax.tree.map(jnp.array, STATISTICS if several else popart.init(1))
    zero, progress = jnp.zeros((), jnp.int32), jnp.zeros(())
    opt_state = optimizer(config, 0.0).init(params)
    return LearnerState(params, opt_state, jax.random.key(3), zero, progress, popart=statistics)


@functools.cache
def preparation(kind, num_devices):
    mesh = learner.make_mesh(jax.devices()[:num_devices])
    prepare = functools.partial(ppo.prepare, network_of(kind))
    return mesh, learner.data_parallel(
        prepare, mesh, TRAJECTORY_SPEC, (BATCH_SPEC, learner.REPLICATED)
    )


def prepared(kind, config, num_devices=1, trajectory=None):
    """LearnerState, (Batch, metrics)."""
    mesh, prepare = preparation(kind, num_devices)
    trajectory = trajectory or trajectory_of(kind)
    state = learner.place(mesh, state_of(kind, config))
    return prepare(config, state, learner.place(mesh, trajectory, TRAJECTORY_SPEC))


def descend(kind, config, num_devices):
    """A batch from beginning to end by gradient descent: state, batch, metrics."""
    mesh, begin = preparation(kind, num_devices)

    def optimizer(config, _):
        return optax.sgd(0.3)

    update = functools.partial(ppo.update, network_of(kind), optimizer=optimizer)
    learn = learner.data_parallel(update, mesh, BATCH_SPEC)
    state = learner.place(mesh, state_of(kind, config, optimizer))
    trajectory = learner.place(mesh, trajectory_of(kind), TRAJECTORY_SPEC)
    state, (batch, metrics) = begin(config, state, trajectory)
    metrics = [metrics]
    for _ in range(config.epochs * config.minibatches):
        state, scalars = learn(config, state, batch)
        metrics.append(scalars)
    assert state.step == 4
    return jax.device_get((state.params, state.popart, batch, metrics))


@pytest.mark.parametrize("kind", ["memoryless", pytest.param("recurrent", marks=pytest.mark.slow)])
def test_the_number_of_devices_does_not_change_the_result(kind):
    """Advantages' mean and deviation, PopArt, masks, and which sequences meet in a minibatch."""
    config = config_of(kind, clip_value=kind == "memoryless", clip_eps=0.02)
    one = descend(kind, config, 1)
    assert np.abs(one[1].mean - STATISTICS.mean).min() > 1e-2
    assert one[3][1]["ratio_clipped"] == 0 < one[3][-1]["ratio_clipped"]
    for number in several_devices()[0 if kind == "recurrent" else -1 :]:
        close(one, descend(kind, config, number), rtol=5e-4, atol=5e-6)


def part_of(config, batch, number, key=3, num_devices=1, done=None):
    """Learner step `number`'s minibatch, after `done` on the same batch."""
    mesh = learner.make_mesh(jax.devices()[:num_devices])

    def step(config, state, batch):
        return state, ppo.minibatch(config, state, batch, done)

    step = learner.data_parallel(step, mesh, BATCH_SPEC, BATCH_SPEC)
    state = LearnerState((), (), jax.random.key(key), jnp.array(number, jnp.int32), ())
    return step(config, learner.place(mesh, state), batch)[1]


def numbered(total):
    """A Batch of two steps in which all that belongs to sequence i is i."""
    number = np.arange(total)
    twice = np.stack([number, number])
    fields = dict.fromkeys(ppo.Batch._fields, twice)
    return ppo.Batch(**fields | {"task_id": number, "core_state": (number,)})


def test_every_sequence_is_learned_from_once_an_epoch():
    config = dataclasses.replace(CONFIG, minibatches=4)
    epochs = {1: [], 4: []}
    for num_devices, orders in epochs.items():
        for epoch in range(3):
            parts = [
                part_of(config, numbered(32), 4 * epoch + i, num_devices=num_devices)
                for i in range(4)
            ]
            for part in parts:
                together = np.asarray(part.task_id)
                for x in jax.tree.leaves(part):
                    np.testing.assert_array_equal(x, np.broadcast_to(together, x.shape))
                np.testing.assert_array_equal(together // 4, np.arange(8))  # one of each few
            order = np.stack([part.task_id for part in parts])
            np.testing.assert_array_equal(np.sort(order.ravel()), np.arange(32))
            orders.append(order)
    np.testing.assert_array_equal(epochs[1], epochs[4])
    one = epochs[1]
    assert (one[0] != one[1]).mean() > 0.5 and (one[1] != one[2]).mean() > 0.5
    assert len({tuple(group) for group in one[0].T % 4}) > 2  # each few by themselves
    other = part_of(config, numbered(32), 0, key=4)
    assert (other.task_id != one[0][0]).any()


def test_a_changed_number_of_minibatches_leaves_epochs_whole():
    """A run resumed with 4 minibatches after 7 learner steps: epochs begin with each unroll."""
    config, orders = dataclasses.replace(CONFIG, minibatches=4), []
    for begin in (7, 15):
        for epoch in range(2):
            steps = [4 * epoch + i for i in range(4)]
            parts = [part_of(config, numbered(32), begin + i, done=i) for i in steps]
            orders.append(np.concatenate([part.task_id for part in parts]))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(32))
    assert len({tuple(order) for order in orders}) == 4


@functools.cache
def whole_loss(kind):
    """(config, LearnerState, Trajectory) -> metrics of all sequences at once."""
    mesh = learner.make_mesh(jax.devices()[:1])

    def step(config, state, trajectory):
        new, (batch, _) = ppo.prepare(network_of(kind), config, state, trajectory)
        grad = learner.value_and_grad(functools.partial(ppo.loss, network_of(kind), config))
        (_, (_, metrics)), _ = grad(new.params, batch)
        return state, metrics

    return learner.data_parallel(step, mesh, TRAJECTORY_SPEC)


@pytest.mark.parametrize("kind", LENGTHS)
def test_before_the_first_step_every_ratio_is_1(kind):
    """States, previous actions, frames and their ages are those at each sequence's start."""
    trajectory = trajectory_of(kind)
    steps, length = trajectory.steps, LENGTHS[kind]
    starts = steps.first[:-1:length]
    assert 0 < starts[1:].sum() < starts[1:].size and not steps.first[0].all()

    def metrics(trajectory, clip_eps=3e-6):
        config = config_of(kind, clip_eps=clip_eps)
        return jax.device_get(whole_loss(kind)(config, state_of(kind, config), trajectory)[1])

    found = metrics(trajectory)
    assert found["ratio_clipped"] == 0 and found["kl"] < 1e-9
    # It would show: what the actor kept is what is compared with.
    log_mu_a = trajectory.aux.log_mu_a + np.float32(1e-2)
    aside = metrics(trajectory._replace(aux=trajectory.aux._replace(log_mu_a=log_mu_a)))
    np.testing.assert_allclose(aside["ratio_clipped"], 1, rtol=1e-5)  # steps onto a reset count not
    np.testing.assert_allclose(aside["kl"], np.exp(-0.01) - 1 + 0.01, rtol=1e-2)


def literal_batch(config, trajectory, values, statistics):
    """In float64, each episode by itself: advantage, v_old, target, mask [T, B], statistics."""
    steps, task = trajectory.steps, trajectory.task_id
    mean, second = np.float64(statistics.mean), np.float64(statistics.variance)
    second += mean**2
    sigma = floored(config, mean, second)
    v = np.stack([values[:, b, i] * sigma[i] + mean[i] for b, i in enumerate(task)], 1)
    advantage, mask = np.zeros((T, len(task))), np.zeros((T, len(task)), bool)
    for b in range(len(task)):
        for begin, end in pieces(steps.first[:, b], T):
            mask[begin:end, b] = True
            for s in range(begin, end):  # n-step advantages, exponentially weighted
                weight = 1.0
                for t in range(s, end):
                    gamma = config.discount * steps.discount[t + 1, b]
                    delta = steps.reward[t + 1, b] + gamma * v[t + 1, b] - v[t, b]
                    advantage[s, b] += weight * delta
                    weight *= gamma * config.gae_lambda
    target = v[:-1] + advantage
    if config.popart:
        for i in range(len(mean)):
            y = target[:, task == i][mask[:, task == i]]
            beta = max(config.popart_step_size, 1 / (statistics.count[i] + 1))
            keep = (1 - beta) ** len(y)
            mean[i] = keep * mean[i] + (1 - keep) * y.mean()
            second[i] = keep * second[i] + (1 - keep) * (y**2).mean()
    sigma = floored(config, mean, second)
    advantage = advantage / sigma[task]
    advantage = np.where(mask, (advantage - advantage[mask].mean()) / advantage[mask].std(), 0)
    v_old, target = ((x - mean[task]) / sigma[task] for x in (v[:-1], target))
    return advantage, v_old, target, mask, mean, second - mean**2


def floored(config, mean, second):
    return np.maximum(np.sqrt(second - mean**2), config.popart_floor * abs(mean) * config.popart)


def cut(x, length):
    """[T, B, ...] -> [length, B * T / length, ...], one sequence after the other."""
    found = [x[s : s + length, b] for b in range(x.shape[1]) for s in range(0, len(x), length)]
    return np.stack(found, 1)


@pytest.mark.parametrize("with_popart", [True, False])
def test_a_batch_is_that_of_the_equations(with_popart):
    """Episodes in one unroll equal each alone."""
    config = config_of("recurrent")
    if not with_popart:
        default = Config.popart_step_size
        config = dataclasses.replace(config, popart=False, popart_step_size=default)
    trajectory, network = trajectory_of("recurrent"), network_of("recurrent")
    steps = trajectory.steps
    assert all(x[1:-1].sum() > 3 for x in (steps.first, steps.truncated, steps.discount == 0))
    state, (batch, _) = jax.device_get(prepared("recurrent", config))
    (_, values), _ = jax.jit(network.apply)(
        params_of("recurrent"), steps, trajectory.action, trajectory.core_state
    )
    *fields, mean, variance = literal_batch(config, trajectory, np.float64(values), STATISTICS)
    advantage, v_old, target, mask = (cut(x, 4) for x in fields)
    np.testing.assert_array_equal(batch.mask, mask)
    close(batch.advantage, advantage, atol=1e-5)
    for found, expected in ((batch.v_old, v_old), (batch.target, target)):
        close(np.where(mask, found, 0), np.where(mask, expected, 0), atol=1e-5)
    close((state.popart.mean, state.popart.variance), (mean, variance))
    np.testing.assert_array_equal(batch.task_id, np.repeat(TASK, 4))
    # Values that learning begins with are those from before the statistics moved.
    (_, values), _ = jax.jit(network.apply)(
        state.params, batch.steps, batch.action[:-1], batch.core_state
    )
    close(np.where(mask, actor_critic.value_of(values, batch.task_id), 0), np.where(mask, v_old, 0),
          atol=2e-5)  # fmt: skip


def test_advantages_have_mean_0_and_deviation_1_over_all_devices():
    config = config_of("recurrent")
    _, (batch, _) = jax.device_get(prepared("recurrent", config, 4))
    of_agent = batch.advantage[batch.mask]
    assert 0.3 < batch.mask.mean() < 0.95 and (batch.advantage[~batch.mask] == 0).all()
    np.testing.assert_allclose([of_agent.mean(), of_agent.std()], [0, 1], atol=1e-5)
    parts = [x[m] for x, m in zip(np.split(batch.advantage, 4, 1), np.split(batch.mask, 4, 1),
                                  strict=True)]  # fmt: skip
    assert max(abs(x.mean()) for x in parts) > 0.1  # not device by device


def test_a_batch_in_which_nobody_acts_has_no_advantages():
    """Environments in step may all be reset at once."""
    first = np.ones((T + 1, B), bool)
    trajectory = trajectory_of("recurrent")
    trajectory = trajectory._replace(steps=trajectory.steps._replace(first=first))
    state, (batch, _) = jax.device_get(
        prepared("recurrent", config_of("recurrent"), trajectory=trajectory)
    )
    np.testing.assert_array_equal(batch.advantage, 0)
    np.testing.assert_array_equal(state.popart.mean, STATISTICS.mean)


def test_steps_onto_a_reset_do_not_matter():
    trajectory, config = trajectory_of("recurrent"), config_of("recurrent")
    steps, reset = trajectory.steps, trajectory.steps.first[1:]
    onto = np.concatenate([np.zeros_like(reset[:1]), reset])
    garbage = trajectory._replace(
        steps=steps._replace(
            reward=np.where(onto, np.float32(1e6), steps.reward),
            discount=np.where(onto, np.float32(0.5), steps.discount),
            truncated=np.where(onto, ~steps.truncated, steps.truncated),
        ),
        action=np.where(reset, 2 - trajectory.action, trajectory.action),
        aux=trajectory.aux._replace(
            log_mu_a=np.where(reset, np.float32(-1e9), trajectory.aux.log_mu_a)
        ),
    )
    (state, (batch, metrics)), (other_state, (other, other_metrics)) = (
        jax.device_get(prepared("recurrent", config, trajectory=t)) for t in (trajectory, garbage)
    )
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same((state.params, state.popart, metrics), (other_state.params, other_state.popart,
                                                 other_metrics))  # fmt: skip
    same(batch.advantage, other.advantage)
    run = whole_loss("recurrent")
    same(*(run(config, state_of("recurrent", config), t)[1] for t in (trajectory, garbage)))


def test_sequences_begin_with_what_the_actor_remembered():
    random = np.random.default_rng(0)
    trajectory, network, length = trajectory_of("stacked"), network_of("stacked"), 4
    lstm = tuple(random.normal(size=(T, B, 5)) for _ in range(2))
    aux = trajectory.aux._replace(lstm=lstm)
    cut_, state = ppo.sequences(network, trajectory._replace(aux=aux), length)
    np.testing.assert_array_equal(cut_(trajectory.action), cut(trajectory.action, length))
    obs = trajectory.steps.obs[:-1]
    np.testing.assert_array_equal(cut_(obs), cut(obs, length))

    first, start = trajectory.steps.first, trajectory.core_state
    old, old_age = start.frames, start.age  # before x_0
    seen = {"age": set(), "first": 0}
    for b in range(B):
        for k in range(T // length):
            i, t = b * (T // length) + k, k * length
            for x, y in zip(state.lstm, lstm, strict=True):
                np.testing.assert_array_equal(x[i], np.float32(y[t, b]))
            a_tm1 = trajectory.action[t - 1, b] if t else start.a_tm1[b]
            np.testing.assert_array_equal(state.a_tm1[i], a_tm1)
            frames = np.concatenate([old[b], obs[:t, b]])[-3:]
            np.testing.assert_array_equal(state.frames[i], frames)
            if first[t, b]:  # age is not looked at
                seen["first"] += 1
                continue
            age = 0
            while age < t and not first[t - age, b]:
                age += 1
            if age == t and not first[0, b]:
                age += old_age[b]
            assert state.age[i] == min(age, 3)
            seen["age"].add(int(min(age, 3)))
    assert seen["age"] == {1, 2, 3} and seen["first"] > 2


class Outputs(Stub):
    """A network whose outputs are its parameters."""

    def apply(self, params, steps, action, core_state):
        logits, values = params["params"]
        return (MultiCategorical(logits), values), core_state


@functools.cache
def compiled_loss():
    def step(config, params, batch):
        grad = learner.value_and_grad(functools.partial(ppo.loss, Outputs(), config))
        return params, grad(params, batch)

    return learner.data_parallel(step, learner.make_mesh(jax.devices()[:1]), BATCH_SPEC)


@pytest.mark.parametrize("clip_value", [False, True])
def test_the_loss_and_its_gradient_are_those_of_the_equations(clip_value):
    """Actions have two dimensions; some are illegal, and some steps are a reset's."""
    random, (L, S, D, K, N) = np.random.default_rng(0), (4, 6, 2, 3, 2)
    config = dataclasses.replace(CONFIG, clip_value=clip_value, clip_eps=0.3)
    logits = random.normal(size=(L, S, D, K)).astype(np.float32)
    logits[0, :, :, 0] = -1e9
    action = random.integers(1, K, size=(L, S, D))
    values = random.normal(size=(L, S, N)).astype(np.float32)
    task, mask = random.integers(N, size=S), random.random((L, S)) < 0.8
    log_pi = np.float64(logits) - np.log(np.exp(np.float64(logits)).sum(-1, keepdims=True))
    log_pi_a = np.take_along_axis(log_pi, action[..., None], -1)[..., 0].sum(-1)
    log_mu_a = log_pi_a + random.normal(scale=0.4, size=(L, S))
    advantage, v_old, target = random.normal(size=(3, L, S))
    steps = Timestep({}, (), (), (), ())  # no observation names legal actions
    numbers = np.float32([log_mu_a, advantage, v_old, target])
    batch = ppo.Batch(steps, action, *numbers, mask, task, ())

    total, d_logits, d_values = 0.0, np.zeros(logits.shape), np.zeros(values.shape)
    clips, value_clips, kl, entropies = 0, 0, 0.0, 0.0
    for t, i in zip(*np.nonzero(mask), strict=True):
        a, v = advantage[t, i], values[t, i, task[i]]
        ratio = np.exp(log_pi_a[t, i] - log_mu_a[t, i])
        clipped = min(max(ratio, 0.7), 1.3)
        total -= min(ratio * a, clipped * a)
        bound = ratio * a > clipped * a
        clips += ratio != clipped
        kl += ratio - 1 - np.log(ratio)
        error, factor = v - target[t, i], 1.0
        if clip_value:
            held = v_old[t, i] + min(max(v - v_old[t, i], -0.3), 0.3) - target[t, i]
            if abs(held) > abs(error):
                error, factor = held, 0.0
                value_clips += 1
        total += config.value_cost * error**2 / 2
        d_values[t, i, task[i]] = config.value_cost * error * factor
        for d in range(D):
            lp, p = log_pi[t, i, d], np.exp(log_pi[t, i, d])
            entropy = -(p * lp).sum()
            total -= config.entropy_cost * entropy
            entropies += entropy
            d_logits[t, i, d] = config.entropy_cost * p * (lp + entropy)
            if not bound:
                d_logits[t, i, d] -= ratio * a * (np.eye(K)[action[t, i, d]] - p)
    _, ((value, (_, metrics)), grads) = compiled_loss()(config, {"params": (logits, values)}, batch)
    np.testing.assert_allclose(value, total / (L * S), rtol=1e-4)
    np.testing.assert_allclose(metrics["ratio_clipped"], clips / mask.sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl / mask.sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["entropy"], entropies / mask.sum(), rtol=1e-4)
    close(grads["params"], (d_logits / (L * S), d_values / (L * S)))
    assert clips > 3 and (value_clips > 3) == clip_value and (~mask).sum() > 2


def test_far_apart_policies_have_finite_metrics():
    """pi(a) / mu(a) overflows where the loss does not."""
    L, S, D, K, N = 4, 6, 2, 3, 1
    logits = np.zeros((L, S, D, K), np.float32)
    logits[..., 0] = 1e4
    action = np.zeros((L, S, D), int)  # whose pi(a) is 1
    action[2:] = 1  # e^-20,000
    log_mu_a = np.full((L, S), -200, np.float32)
    ones = np.ones((L, S), np.float32)
    batch = ppo.Batch(Timestep({}, (), (), (), ()), action, log_mu_a, ones, ones, ones, ones > 0,
                      np.zeros(S, int), ())  # fmt: skip
    values = np.zeros((L, S, N), np.float32)
    _, ((value, (_, metrics)), grads) = compiled_loss()(CONFIG, {"params": (logits, values)}, batch)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert all(np.isfinite(x) for x in metrics.values()), metrics


@pytest.mark.parametrize("minibatches", [1, 2, 3, 6, 7])
def test_every_turn_comes_once_where_the_bits_are_largest(minibatches):
    """bits + number beyond 2^32 would be another number modulo 3."""
    bits = jnp.uint32(2**32 - 1) - jnp.arange(20, dtype=jnp.uint32)
    order = [turns(bits, jnp.int32(i), minibatches) for i in range(minibatches)]
    expected = np.broadcast_to(np.arange(minibatches)[:, None], (minibatches, 20))
    np.testing.assert_array_equal(np.sort(order, axis=0), expected)


def test_the_horizon_gives_the_discount():
    """OpenAI Five: 180 s at one step every 0.1333 s."""
    config = Config(horizon_seconds=180.0, step_seconds=0.1333)
    np.testing.assert_allclose(ppo.discount(config), 0.99926, atol=5e-6)
    assert ppo.discount(Config(discount=0.97)) == np.float32(0.97)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), config, Config(discount=0.97))
    np.testing.assert_allclose(jax.vmap(ppo.discount)(stacked), [0.99926, 0.97], atol=5e-6)
    trajectory = trajectory_of("recurrent")
    batches = [
        prepared("recurrent", config_of("recurrent", **changes), trajectory=trajectory)[1][0]
        for changes in ({"discount": 0.9}, {"discount": 0.1, "horizon_seconds": 1.333})
    ]
    close(batches[0].target, batches[1].target)


def test_gradients_are_clipped_by_norm_or_entry_by_entry():
    grads = {"w": jnp.array([3.0, -4.0])}
    config = dataclasses.replace(Config(), max_gradient_norm=0.5)
    chain = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, eps=1e-5))
    found, expected = (
        o.update(grads, o.init(grads))[0] for o in (ppo.optimizer(config, 0.1), chain)
    )
    close(found, expected)

    @jax.jit
    def last(config):
        optimizer = ppo.optimizer(config, 0.1)

        def step(state, scale):
            updates, state = optimizer.update({"w": scale * grads["w"]}, state)
            return state, jnp.abs(updates["w"]).max()

        scales = jnp.full(50, 1e-3).at[-1].set(100.0)
        return jax.lax.scan(step, optimizer.init(grads), scales)[1][-1]

    entries = dataclasses.replace(config, clip_entries=True)
    assert last(entries) > 2 * last(dataclasses.replace(entries, clip_sigmas=1.0)) > 0


@pytest.mark.parametrize("entries", [False, True])
def test_entries_that_are_clipped_one_by_one_have_no_largest_norm(entries):
    config = config_of("recurrent", clip_entries=entries)
    mesh, begin = preparation("recurrent", 1)
    state = state_of("recurrent", config)
    _, (batch, _) = jax.eval_shape(begin, config, state, trajectory_of("recurrent"))
    update = functools.partial(ppo.update, network_of("recurrent"))
    update = learner.data_parallel(update, mesh, BATCH_SPEC)
    _, metrics = jax.eval_shape(update, config, state, batch)
    assert "gradient_norm" in metrics and ("gradient_clipped" in metrics) == (not entries)


def test_illegal_actions_are_never_taken():
    trajectory = trajectory_of("memoryless")
    legal = trajectory.steps.obs["action_mask"][:-1]
    taken = np.take_along_axis(legal, trajectory.action[..., None], -1)[..., 0]
    some = legal.any(-1)
    assert taken[some].all() and (~legal[some]).any()
    only = some & (legal.sum(-1) == 1)
    np.testing.assert_allclose(trajectory.aux.log_mu_a[only], 0, atol=1e-6)


def test_a_config_is_a_pytree_of_its_numbers():
    assert all(isinstance(x, float) for x in jax.tree.leaves(Config()))
    assert len(jax.tree.leaves(Config())) > 10


def test_what_suits_each_family_of_tasks():
    for env, name in {
        None: "cartpole", "CartPole-v1": "cartpole", "Catch-v0": "small", "Pong-v5": "atari",
    }.items():  # fmt: skip
        expected = ALGORITHM.presets.configs[name]
        assert ALGORITHM.presets.choose(None, env, on_cpu=False) == dataclasses.replace(
            expected, env=env or expected.env
        ), env
    assert (
        ALGORITHM.presets.suits["procgen"] == ALGORITHM.presets.suits["vizdoom"] == "pixels"
    )  # which not every machine can make
    assert ALGORITHM.presets.choose("recurrent", None, on_cpu=False).env_options == Options(
        observe=(0, 2)
    )
    assert ALGORITHM.presets.choose("recurrent", "Catch-v0", on_cpu=False).env_options == Options()


@pytest.mark.parametrize("num_tasks", [2, 3, 57])
def test_several_tasks_have_an_actor_each(num_tasks):
    env = ",".join(f"Catch-v0:permute={i + 1}" for i in range(num_tasks))
    config = ALGORITHM.presets.choose(None, env, on_cpu=False)
    assert config.popart and config.actors == num_tasks
    assert config.num_envs % num_tasks == 0 and 0.7 < config.num_envs / 256 <= 1
    games = ALGORITHM.presets.choose(None, "Pong-v5,Breakout-v5", on_cpu=False)
    assert not games.env_options.minimal_actions and games.env_options.clip_rewards


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sequence_length": 5}, "unroll_length 32 is no multiple of sequence_length 5"),
        ({"sequence_length": 0}, "sequence_length must be 1 or more, not 0"),
        ({"horizon_seconds": 0.1}, r"horizon_seconds 0\.1 must not be shorter than step_seconds"),
        ({"clip_eps": 0.0}, r"clip_eps must be positive, not 0\.0"),
        ({"adam_eps": 0.0}, r"adam_eps must be positive, not 0\.0"),  # 0 / 0 without a gradient
        ({"clip_sigmas": 3.0}, r"clip_sigmas 3\.0 needs clip_entries: True"),
        ({"clip_sigmas": 0.0, "clip_entries": True}, "clip_sigmas must be positive"),
        ({"core_size": 8}, "an LSTM .* learns nothing through time from sequences of one step"),
        (
            {"core_size": 8, "unroll_length": 1, "refresh_steps": 1},
            "an LSTM .* learns nothing through time from sequences of one step",
        ),
        ({"epochs": 0}, "epochs must be 1 or more, not 0"),
        ({"actors": 3}, "256 environments cannot be shared evenly by 3 actors"),
        ({"env": "Catch-v0,Catch-v0:permute=1"}, "actors must be a multiple of the 2 tasks, not 1"),
        ({"refresh_steps": 40}, "refresh_steps 40 is no multiple of unroll_length 32"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        dataclasses.replace(Config(), **changes)
    assert "\n" not in str(error.value)


def test_a_batch_must_be_cut_evenly_for_all_devices():
    mesh = learner.make_mesh(jax.devices()[:4])
    ppo.check_mesh(mesh, Config())
    for changes, sentence in (
        ({"num_envs": 6}, "a batch of 6 cannot be split evenly over 4 devices"),
        ({"num_envs": 8, "sequence_length": 32, "minibatches": 4}, "8 sequences of 32 steps"),
    ):
        with pytest.raises(UserError, match=sentence):
            ppo.check_mesh(mesh, dataclasses.replace(Config(), **changes))
