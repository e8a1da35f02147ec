"""The networks: time, episodes and batch elements are kept apart; parts equal definitions."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from gymnasium import spaces

from rlsys import networks
from rlsys.networks.recurrent import Lstm
from rlsys.types import CoreState, Timestep, UserError

T, B = 9, 3
MINIGRID = spaces.Dict(
    direction=spaces.Discrete(4),
    image=spaces.Box(0, 255, (7, 7, 3), np.uint8),
    mission=spaces.Box(0, 255, (96,), np.uint8),
    action_mask=spaces.MultiBinary(7),
)
MAZE = spaces.Dict(
    agent=spaces.Dict(row=spaces.Discrete(10), col=spaces.Discrete(10)),
    walls=spaces.MultiBinary((10, 10)),
    step_count=spaces.Discrete(4000),
)
TASKS = {
    "images": (spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Discrete(3), 4),
    "minigrid": (MINIGRID, spaces.Discrete(7), 2),
    "maze": (MAZE, spaces.Discrete(4), 1),
    "vector": (spaces.Box(-2.0, 2.0, (5,)), spaces.MultiDiscrete([3, 3]), 1),
}


@functools.cache
def make(task, **sizes):
    """A small network, parameters of which none is zero, and its compiled apply."""
    observation_space, action_space, frame_stack = TASKS[task]
    sizes = {"hidden_size": 16, "core_size": 8, "head_size": 8, "frame_stack": frame_stack} | sizes
    network = networks.q_network(observation_space, action_space, **sizes)
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), shapes)
    return network, params, jax.jit(network.apply)


def draw(rng, space, length=T):
    if isinstance(space, spaces.Dict):
        return {key: draw(rng, space[key], length) for key in space}
    space.seed(int(rng.integers(2**31)))
    return np.stack([[space.sample() for _ in range(B)] for _ in range(length)])


def play(task, seed=0):
    """Steps [T, B, ...], actions [T, B, ...] and a core state amid an episode."""
    rng = np.random.default_rng(seed)
    observation_space, action_space, _ = TASKS[task]
    first = rng.random((T, B)) < 0.25
    reward = rng.normal(size=(T, B)).astype(np.float32)
    steps = Timestep(draw(rng, observation_space), first, reward, reward * 0 + 1, first & False)
    start = make(task)[0].initial(B)
    past = draw(rng, observation_space, max(jax.tree.leaves(start.frames)[0].shape[1], 1))
    frames = jax.tree.map(
        lambda x, like: np.swapaxes(x, 0, 1)[:, : like.shape[1]].astype(like.dtype),
        {k: v for k, v in past.items() if k != "action_mask"} if isinstance(past, dict) else past,
        start.frames,
    )
    lstm = tuple(rng.normal(size=(B, 8)).astype(np.float32) for _ in range(2))
    action = draw(rng, action_space, T + 1).astype(np.int32)
    age = np.minimum(np.arange(B, dtype=np.int32), jax.tree.leaves(start.frames)[0].shape[1])
    return steps, action[1:], CoreState(lstm, action[0], frames, age)


def at(steps, index):
    return jax.tree.map(lambda x: x[index], steps)


@pytest.mark.parametrize("task", TASKS)
def test_steps_at_once_equal_one_step_at_a_time(task):
    _, params, apply = make(task)
    steps, action, start = play(task)
    assert steps.first.any() and not steps.first.all()
    q, end = apply(params, steps, action[:-1], start)

    state, one_by_one = start, []
    for t in range(T):
        q_t, state = apply(params, at(steps, slice(t, t + 1)), action[:0], state)
        state = state._replace(a_tm1=action[t])
        one_by_one.append(q_t[0])
    np.testing.assert_allclose(q, np.stack(one_by_one), atol=1e-5)
    expected = end._replace(a_tm1=action[-1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, expected)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), end, start)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("task", TASKS)
def test_nothing_passes_an_episodes_start(task):
    _, params, apply = make(task)
    (steps, action, start), (other_steps, other_action, other_start) = play(task), play(task, 1)
    k = 4
    steps.first[k] = True
    q, end = apply(params, steps, action[:-1], start)
    steps = jax.tree.map(lambda a, b: np.concatenate([b[:k], a[k:]]), steps, other_steps)
    steps.reward[k] = 7.0  # of the step that the environment spent on its reset
    action = np.concatenate([other_action[:k], action[k:]])
    other_q, other_end = apply(params, steps, action[:-1], other_start)
    assert (q[:k] != other_q[:k]).any()
    np.testing.assert_array_equal(q[k:], other_q[k:])
    jax.tree.map(
        np.testing.assert_array_equal,
        end._replace(a_tm1=()),
        other_end._replace(a_tm1=()),
    )


@pytest.mark.parametrize("task", TASKS)
def test_batch_elements_do_not_mix(task):
    _, params, apply = make(task)
    (steps, action, start), (other_steps, other_action, other_start) = play(task), play(task, 1)
    keep = np.arange(B) == 1

    def change(axis):
        def pick(a, b):
            shape = [-1 if n == axis else 1 for n in range(a.ndim)]
            return np.where(keep.reshape(shape), a, b)

        return pick

    changed = jax.tree.map(change(1), (steps, action), (other_steps, other_action))
    changed_start = jax.tree.map(change(0), start, other_start)
    q, end = apply(params, steps, action[:-1], start)
    other_q, other_end = apply(params, changed[0], changed[1][:-1], changed_start)
    assert (q[:, 0] != other_q[:, 0]).any()
    np.testing.assert_array_equal(q[:, keep], other_q[:, keep])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[keep], b[keep]), end, other_end)


@pytest.mark.parametrize(("core_size", "matters"), [(0, False), (8, True)])
def test_only_a_recurrent_network_sees_the_previous_action_and_reward(core_size, matters):
    _, params, apply = make("vector", core_size=core_size)
    steps, action, start = play("vector")
    steps.first[:] = False
    start = start._replace(lstm=start.lstm if core_size else ())
    q, _ = apply(params, steps, action[:-1], start)
    acted, _ = apply(params, steps, 2 - action[:-1], start)
    began, _ = apply(params, steps, action[:-1], start._replace(a_tm1=2 - start.a_tm1))
    paid, _ = apply(params, steps._replace(reward=steps.reward + 1), action[:-1], start)
    assert [(q[t] != acted[t]).any() for t in range(T)] == [False] + [matters] * (T - 1)
    assert (q[0] != began[0]).any() == matters
    assert (q[0] != paid[0]).any() == matters


def test_the_action_mask_is_found_and_is_no_input():
    _, params, apply = make("minigrid")
    steps, action, start = play("minigrid")
    q, _ = apply(params, steps, action[:-1], start)
    masked = steps._replace(obs=steps.obs | {"action_mask": 1 - steps.obs["action_mask"]})
    np.testing.assert_array_equal(q, apply(params, masked, action[:-1], start)[0])
    network = make("minigrid")[0]
    assert network.legal(steps.obs) is steps.obs["action_mask"]
    assert network.legal(np.zeros(3)) is None and network.legal({"image": 0}) is None


def test_lstm_equals_flax():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 4, 5)).astype(np.float32)
    state = tuple(rng.normal(size=(4, 6)).astype(np.float32) for _ in range(2))
    first = np.zeros((7, 4), bool)
    params = jax.jit(Lstm(6).init)(jax.random.key(0), x, first, state)["params"]
    params = jax.tree.map(np.asarray, params)
    params["bias"] = rng.normal(size=24).astype(np.float32)
    cell = {}
    for n, gate in enumerate("ifgo"):
        columns = slice(6 * n, 6 * n + 6)
        recurrent = params["recurrent_kernel"][:, columns]
        np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(6), atol=1e-5)
        cell["i" + gate] = {"kernel": params["kernel"][:, columns]}
        cell["h" + gate] = {"kernel": recurrent, "bias": params["bias"][columns]}

    def ours(params, x, state):
        return Lstm(6).apply({"params": params}, x, first, state)

    def flaxs(cell, x, state):
        step = lambda s, x_t: nn.OptimizedLSTMCell(6).apply({"params": cell}, s, x_t)  # noqa: E731
        state, h = jax.lax.scan(step, state, x)
        return h, state

    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
    jax.tree.map(close, jax.jit(ours)(params, x, state), jax.jit(flaxs)(cell, x, state))
    weight = rng.normal(size=(7, 4, 6)).astype(np.float32)

    def grad(lstm):
        loss = lambda *args: (lstm(*args)[0] * weight).sum() + lstm(*args)[1][0].sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))

    grads, expected = grad(ours)(params, x, state), grad(flaxs)(cell, x, state)
    jax.tree.map(close, grads[1:], expected[1:])
    for name, part, leaf in [("kernel", "i", "kernel"), ("recurrent_kernel", "h", "kernel")]:
        gates = [expected[0][part + gate][leaf] for gate in "ifgo"]
        close(grads[0][name], np.concatenate(gates, -1))
    close(grads[0]["bias"], np.concatenate([expected[0]["h" + g]["bias"] for g in "ifgo"]))


@pytest.mark.parametrize("head_size", [8, 0])
@pytest.mark.parametrize("task", ["images", "vector"])
def test_q_is_value_plus_centred_advantage(task, head_size):
    network, params, _ = make(task, core_size=0, head_size=head_size)
    steps, action, start = play(task)
    apply = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    (q, _), aux = apply(params, steps, action[:-1], start._replace(lstm=()))
    x = np.asarray(aux["intermediates"]["torso"]["__call__"][0]).reshape(T, B, -1)
    head = params["params"]["head"]
    value = advantage = x
    if head_size:
        hidden = np.maximum(x @ head["Dense_0"]["kernel"] + head["Dense_0"]["bias"], 0)
        value, advantage = hidden[..., :8], hidden[..., 8:]
    v = value @ head["value"]["kernel"] + head["value"]["bias"]
    a = advantage @ head["advantage"]["kernel"] + head["advantage"]["bias"]
    if task == "vector":
        v, a = v[..., None], a.reshape(T, B, 2, 3)
    np.testing.assert_allclose(q, v + a - a.mean(-1, keepdims=True), rtol=1e-5, atol=1e-5)
    assert q.shape == ((T, B, 3) if task == "images" else (T, B, 2, 3))


@pytest.mark.parametrize(
    ("task", "head_size", "num_tasks", "torso"),
    [("vector", 8, 3, None), ("vector", 0, 1, None), ("images", 0, 2, "shallow")],
)
def test_policy_and_values_are_two_heads_on_one_torso(task, head_size, num_tasks, torso):
    observation_space, action_space, _ = TASKS[task]
    network = networks.policy_value_network(
        observation_space, action_space, num_tasks=num_tasks, head_size=head_size, torso=torso,
        hidden_size=16, core_size=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0)))
    params = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), shapes)
    steps, action, _ = play(task)
    apply = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    (outputs, _), aux = apply(params, steps, action[:-1], network.initial(B))
    x = np.asarray(aux["intermediates"]["torso"]["__call__"][0]).reshape(T, B, 16)
    head = params["params"]["head"]
    policy = value = x
    if head_size:
        hidden = np.maximum(x @ head["Dense_0"]["kernel"] + head["Dense_0"]["bias"], 0)
        policy, value = hidden[..., :8], hidden[..., 8:]
    shape = (3,) if task == "images" else (2, 3)
    logits = policy @ head["policy"]["kernel"] + head["policy"]["bias"]
    value = value @ head["value"]["kernel"] + head["value"]["bias"]
    assert value.shape == (T, B, num_tasks)
    outputs = outputs[0].logits, outputs[1]
    for found, expected in zip(outputs, (logits.reshape(T, B, *shape), value), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert networks.value_layer(params) is head["value"]
    changed = networks.with_value_layer(params, {"kernel": 0 * head["value"]["kernel"],
                                                 "bias": 0 * head["value"]["bias"]})  # fmt: skip
    (same, none), _ = jax.jit(network.apply)(changed, steps, action[:-1], network.initial(B))
    np.testing.assert_allclose(same.logits, outputs[0], atol=1e-6)
    assert not np.any(none) and np.any(head["value"]["kernel"])


def test_advantages_are_centred_over_the_actions_that_a_dimension_has():
    space = spaces.MultiDiscrete([2, 5])
    network = networks.q_network(
        spaces.Box(-2.0, 2.0, (3,)), space, hidden_size=8, core_size=0, head_size=0
    )
    x = jax.random.normal(jax.random.key(0), (4, 8))
    params = network.head.init(jax.random.key(1), x)

    def q_with(bias):
        changed = {"params": params["params"] | {"advantage": {**advantage, "bias": bias}}}
        return network.head.apply(changed, x)  # [4, 2, 5]

    advantage = params["params"]["advantage"]
    value = np.asarray(x @ params["params"]["value"]["kernel"])  # biases begin at 0
    there = np.arange(5)[None] < np.array([[2], [5]])
    q = np.asarray(q_with(advantage["bias"]))
    np.testing.assert_allclose(q[:, 0, :2].mean(-1), value[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(q[:, 1].mean(-1), value[:, 0], rtol=1e-5, atol=1e-6)
    other = q_with(advantage["bias"] + 1000.0 * ~there.ravel())  # of actions that are none
    np.testing.assert_allclose(np.asarray(other)[:, there], q[:, there], rtol=1e-5)


def test_the_shallow_torso_is_two_convolutions():
    """Mnih et al. 2013: 16 of 8x8 by 4, 32 of 4x4 by 2, without padding."""
    network = networks.policy_value_network(
        spaces.Box(0, 255, (84, 84, 1), np.uint8), spaces.Discrete(6), torso="shallow",
        hidden_size=256, core_size=0, frame_stack=4,
    )  # fmt: skip
    params = jax.eval_shape(lambda: networks.init(network, jax.random.key(0)))["params"]
    shapes = {x.shape for x in jax.tree.leaves(params["torso"]) if x.ndim > 1}
    assert shapes == {(8, 8, 4, 16), (4, 4, 16, 32), (9 * 9 * 32, 256)}
    assert params["head"]["policy"]["kernel"].shape == (256, 6)


def test_the_first_policy_is_near_uniform_and_the_first_values_near_0():
    network = networks.policy_value_network(
        TASKS["vector"][0], TASKS["vector"][1], hidden_size=64, core_size=0, head_size=64
    )
    params = networks.init(network, jax.random.key(0))
    steps, action, _ = play("vector")
    (pi, values), _ = jax.jit(network.apply)(params, steps, action[:-1], network.initial(B))
    assert 0 < np.std(pi.logits) < 0.2 and 0 < np.std(values) < 0.2


def test_a_policys_core_sees_rewards_clipped():
    network = networks.policy_value_network(
        *TASKS["vector"][:2], hidden_size=16, core_size=8, head_size=8
    )
    params = networks.init(network, jax.random.key(0))
    apply = jax.jit(network.apply)
    steps, action, start = play("vector")
    steps.first[:] = False
    start = start._replace(frames=network.initial(B).frames, age=network.initial(B).age)

    def outputs(reward):
        paid = steps._replace(reward=np.full((T, B), reward, np.float32))
        return jax.tree.leaves(apply(params, paid, action[:-1], start))

    for reward, same in ((1.0, True), (50.0, True), (0.9, False), (-50.0, False)):
        equal = [np.array_equal(x, y) for x, y in zip(outputs(reward), outputs(1.0), strict=True)]
        assert all(equal) == same, reward
    np.testing.assert_array_equal(outputs(-50.0)[0], outputs(-1.0)[0])


@pytest.mark.parametrize(
    ("space", "action", "torso", "message"),
    [
        (MINIGRID, spaces.Discrete(2), "natur", "'natur'; the nearest are nature"),
        (MINIGRID, spaces.Discrete(2), "nature", "36 pixels a side, not 7"),
        (spaces.Discrete(3), spaces.Discrete(2), "impala", r"'impala'.*not Discrete\(3\)"),
        (MINIGRID, spaces.MultiBinary(3), None, "not MultiBinary"),
        (MINIGRID, spaces.Box(-1, 1, (2,)), None, "not Box"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(space, action, torso, message):
    with pytest.raises(UserError, match=message) as error:
        networks.q_network(space, action, torso=torso)
    assert "\n" not in str(error.value)


BYTES = spaces.Box(0, 255, (128,), np.uint8)


@pytest.mark.parametrize("make", [networks.q_network, networks.policy_value_network])
@pytest.mark.parametrize(
    "space, fields, message",
    [
        (BYTES, {"frame_stack": 4}, "frame_stack 4 is for images, and the observation has none"),
        (MAZE, {"frame_stack": 2}, "frame_stack 2 is for images"),
        (MINIGRID["image"], {"pixel_scale": 40}, "pixel_scale 40 is for the grey levels of images"),
        (TASKS["vector"][0], {"pixel_offset": 87}, "pixel_offset 87 is for the grey levels"),
        (MINIGRID, {"frame_stack": 4, "pixel_offset": 0, "pixel_scale": 255}, None),
        (BYTES, {"pixel_offset": 87, "pixel_scale": 40}, None),
    ],
)
def test_what_is_for_images_is_refused_without_them(make, space, fields, message):
    if message is None:
        make(space, spaces.Discrete(2), **fields)
        return
    with pytest.raises(UserError, match=message) as error:
        make(space, spaces.Discrete(2), **fields)
    assert "\n" not in str(error.value)


def test_sharded_over_devices_and_mapped_over_members():
    """shard_map with its default checks, and vmap over parameters, give what each gives alone."""
    network, params, _ = make("images")
    members = jax.tree.map(lambda x: np.stack([x, 1.1 * x]), params)
    steps, action, start = play("images")
    twice = lambda axis: lambda x: np.concatenate([x, x], axis)  # noqa: E731
    steps, action = jax.tree.map(twice(1), (steps, action[:-1]))
    start = jax.tree.map(twice(0), start)

    def loss(params, steps, action, start):
        q, end = network.apply(params, steps, action, start)
        return (q**2).mean(), end

    def mean_grad(params, *args):
        def mean(params):
            value, end = loss(params, *args)
            return jax.lax.pmean(value, "batch"), end

        return jax.value_and_grad(mean, has_aux=True)(params)

    mesh = jax.make_mesh((2, 2), ("member", "batch"), (jax.sharding.AxisType.Auto,) * 2)
    time, batch, member = jax.P(None, "batch"), jax.P("batch"), jax.P("member")
    both = jax.P("member", "batch")
    sharded = jax.shard_map(
        jax.vmap(mean_grad, in_axes=(0, None, None, None)),
        mesh=mesh,
        in_specs=(member, time, time, batch),
        out_specs=((member, both), member),
    )
    (value, end), grads = jax.jit(sharded)(members, steps, action, start)
    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for n in range(2):
        alone = jax.tree.map(lambda x, n=n: x[n], members)
        expected = grad(alone, steps, action, start)
        jax.tree.map(
            lambda a, b, n=n: np.testing.assert_allclose(a[n], b, atol=1e-5, rtol=1e-4),
            ((value, end), grads),
            expected,
        )
