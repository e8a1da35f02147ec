"""Plans: products are counted with their loops, times add up as they should, users are answered."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsys import algorithms, cli, envs
from rlsys.acting.actors import make_envs
from rlsys.algorithms import apex, impala, ppo, r2d2
from rlsys.learning import learner
from rlsys.networks.convolution import plain
from rlsys.plan import __main__ as command
from rlsys.plan import cost, measure, predict
from rlsys.plan.machine import H100, MACHINES, load
from rlsys.plan.prediction import Bytes, Plan, Times
from rlsys.types import UserError

MACHINE = dataclasses.replace(
    H100, tile=1, launch=1e-12, float32_flops=1e9, bfloat16_flops=2e9, bandwidth=1e15
)


def xla_flops(function, *args):
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


@pytest.mark.parametrize("stride, padding", [(1, "SAME"), (1, "VALID"), (4, "VALID")])
def test_products_are_those_that_xla_counts(stride, padding):
    """Where there is no loop and no padding XLA is right; with padding it leaves out the zeros."""
    x, kernel = jnp.ones((5, 20, 20, 3)), jnp.ones((4, 4, 3, 7))

    def loss(kernel, x):
        y = plain(x, kernel, stride, padding)
        return jnp.sum((y.reshape(5, -1) @ jnp.ones((y.size // 5, 6))) ** 2)

    for function in (loss, jax.grad(loss), jax.grad(loss, argnums=1)):
        found = cost.flops(cost.products(function, kernel, x))
        expected = xla_flops(function, kernel, x)
        padded = padding == "SAME" or (stride == 1 and function is not loss)
        assert 0.92 * expected < found < (1.6 if padded else 1.08) * expected


def test_loops_are_counted_as_often_as_they_run():
    def body(x, _):
        return x @ x, None

    def loop(x, length):
        return jax.lax.scan(body, x, length=length)[0]

    x = jnp.ones((8, 8))
    ((product, times),) = cost.products(functools.partial(loop, length=10), x).items()
    assert times == 10 and product.flops == 2 * 8**3 and product.bytes == 3 * 4 * 64
    assert xla_flops(functools.partial(loop, length=10), x) < 2 * product.flops  # its body once

    nested = cost.products(jax.grad(lambda x: loop(loop(x, 10), 3).sum()), x)
    assert sum(nested.values()) == 13 + 2 * 13


def test_the_dearest_branch_and_programs_in_programs_count():
    @jax.jit
    def inner(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    mesh = learner.make_mesh(jax.devices()[:1])
    outer = jax.shard_map(inner, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    assert sum(cost.products(jax.jit(outer), jnp.ones((4, 4))).values()) == 2


def test_seconds_are_the_longer_of_arithmetic_and_traffic():
    x = jnp.ones((30, 40)), jnp.ones((40, 50))
    found = cost.products(jnp.matmul, *x)
    work, traffic = 2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 3 * 30 * 50)
    assert cost.seconds(found, MACHINE) == pytest.approx(work / 1e9)
    slow = dataclasses.replace(MACHINE, bandwidth=1e6)
    assert cost.seconds(found, slow) == pytest.approx(traffic / 1e6)
    launch = dataclasses.replace(MACHINE, launch=1.0)
    assert cost.seconds(found, launch) == pytest.approx(2 + work / 1e9)
    tiled = dataclasses.replace(MACHINE, tile=64)
    assert cost.seconds(found, tiled) == pytest.approx(2 * 64 * 64 * 40 / 1e9)
    half = cost.products(jnp.matmul, *(a.astype(jnp.bfloat16) for a in x))
    assert cost.seconds(half, MACHINE) == pytest.approx(work / 2e9)


def test_a_rings_all_reduce():
    assert cost.all_reduce_seconds(8e9, 1, 1e9, 1.0) == 0.0
    assert cost.all_reduce_seconds(8e9, 4, 1e9, 0.0) == pytest.approx(2 * 3 / 4 * 8)
    assert cost.all_reduce_seconds(0.0, 4, 1e9, 1.0) == pytest.approx(6)


TIMES = Times(
    environment=3.0, inference=2.0, host=1.0, actors=6.0, replay=1.0, transfer=0.5, learner=2.5,
    shared=8.0,
)  # fmt: skip
NOTHING = Bytes(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "ahead, shared, seconds, sentence",
    [
        (False, 8.0, 10.0, "the environments: 30%"),
        (True, 0.0, 6.0, "the environments: 50%"),
        (True, 8.0, 8.0, "wait for the same hardware; the environments"),
    ],
)
def test_in_turn_times_add_up_and_beside_each_other_the_longer_counts(
    ahead, shared, seconds, sentence
):
    plan = Plan(H100, ahead, 600, 1.0, TIMES._replace(shared=shared), NOTHING, math.nan)
    assert plan.seconds == seconds and plan.rate == 600 / seconds
    assert sentence in plan.bottleneck
    slow = plan._replace(times=plan.times._replace(learner=100.0))
    assert "the learner: " in slow.bottleneck


def test_machines_are_known_or_read_from_a_file(tmp_path):
    assert load("h100") is H100 and load("8xh100").devices == 8
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(dataclasses.asdict(H100) | {"name": "mine", "cores": 3}))
    assert load(str(path)) == dataclasses.replace(H100, name="mine", cores=3)
    with pytest.raises(UserError, match=r"'h10'.*here, h100, 8xh100 or a file"):
        load("h10")
    for content, message in (
        ("{", "does not describe a machine"),
        ('{"cores": 3}', "does not describe a machine"),
        (json.dumps(dataclasses.asdict(H100) | {"cores": 0}), "cores of a machine must be posit"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load(str(path))


def test_a_devices_share_of_a_batch():
    shapes = jax.ShapeDtypeStruct((3, 8, 5), np.float32), jax.ShapeDtypeStruct((8,), np.int32)
    spec = (jax.P(None, "batch"), jax.P("batch"))
    share = predict.split(shapes, spec, 4)
    assert [x.shape for x in share] == [(3, 2, 5), (2,)]
    with pytest.raises(UserError, match="batch of 8 cannot be split evenly over 3 devices"):
        predict.split(shapes, spec, 3)


SMALL = {"num_envs": 8, "unroll_length": 10, "refresh_steps": 10}
REPLAY = {"batch_size": 8, "learning_starts": 200, "env_steps": 1000, "replay_capacity": 4000}
CONFIGS = {
    "impala": impala.Config(**SMALL, batch_size=8, actors=2, unrolls_ahead=1),
    "ppo": ppo.Config(**SMALL),
    "r2d2": r2d2.Config(**SMALL, **REPLAY, actors=2),
    "apex": apex.Config(**SMALL, **REPLAY, actors=2),
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.0)


@pytest.mark.parametrize("name", algorithms.NAMES)
@pytest.mark.slow
def test_every_algorithm_can_be_planned_elsewhere(name, quick):
    config = CONFIGS[name]
    one, eight = (predict.plan(name, config, MACHINES[m]) for m in ("h100", "8xh100"))
    for plan in (one, eight):
        assert all(np.isfinite(plan.times)) and min(plan.times[:-1]) >= 0 < plan.rate
        assert 0 < plan.inference_busy < 1 and plan.env_steps == 80
    assert eight.times.learner != one.times.learner  # less of each batch, and an all-reduce
    updates = {"impala": 1, "ppo": 16, "r2d2": 80 * 2.5 / (8 * 20), "apex": 80 * 2.5 / 8}
    padded = 1.3 if name == "r2d2" else 1.0  # resets between episodes are not learned
    assert updates[name] <= one.learner_steps <= padded * updates[name]
    assert (one.bytes.replay > 0) == (name in ("r2d2", "apex"))
    state = algorithm_state(name, config)
    assert one.bytes.optimizer == sum(x.nbytes for x in jax.tree.leaves(state.opt_state))


def algorithm_state(name, config):
    algorithm = algorithms.find(name)
    network = algorithm.make_network(config, *envs.shared_spaces(make_envs(config)))
    return algorithm.make_state(network, config)


def test_short_episodes_in_long_sequences_need_more_updates(quick):
    """For the same replay ratio: 9 of 100 steps are learned."""
    whole = {"cross_episodes": False, "length": 100, "stride": 100, "learning_starts": 900}
    whole |= {"env": "Catch-v0", "env_options": envs.Options()}  # 9 steps an episode
    config = dataclasses.replace(CONFIGS["r2d2"], **whole)
    plan = predict.plan("r2d2", config, H100)
    assert plan.learner_steps > 2.5 * 80 * 2.5 / (8 * 100)


@pytest.mark.slow
def test_faster_machines_are_predicted_to_be_faster(quick):
    config = dataclasses.replace(
        CONFIGS["ppo"], core_size=256, sequence_length=CONFIGS["ppo"].unroll_length,
        hidden_size=2048, num_envs=64, bfloat16=True,
    )  # fmt: skip
    pool = dataclasses.replace(H100, launch=1e-9, dispatch=1e-6)
    fast = dataclasses.replace(pool, bfloat16_flops=1e30, bandwidth=1e30)
    slow = dataclasses.replace(pool, bfloat16_flops=1e12)
    learner_times = [
        predict.plan("ppo", config, machine).times.learner for machine in (fast, pool, slow)
    ]
    assert learner_times == sorted(learner_times) and learner_times[2] > 2 * learner_times[1]


def test_what_does_not_fit_the_machines_devices_is_refused(quick):
    config = dataclasses.replace(CONFIGS["impala"], actor_devices=1)
    with pytest.raises(UserError, match="actor_devices 1 leaves none of the 1 to learn"):
        predict.plan("impala", config, H100)
    with pytest.raises(UserError, match="a batch of 8 cannot be split evenly over 7 devices"):
        predict.plan("impala", config, MACHINES["8xh100"])


def test_the_command_prints_what_a_person_asks(quick, capsys):
    words = "ppo --env Catch-v0 --num-envs 8 --machine h100".split()
    assert cli.exit_code(lambda: command.main(words)) == 0
    out = capsys.readouterr().out
    for what in (
        "Catch-v0, h100: 16 cores",
        "predicted, not measured",
        "environment",
        "inference",
        "transfer",
        "learner, 16 updates",
        "replay 0.00 GB",
        "bottleneck: ",
        "steps/s",
    ):
        assert what in out  # fmt: skip
    assert "not counted: checkpoints and an evaluation at the end" in out
    assert "past selves 0.0 MB" in " ".join(out.split())
    assert cli.exit_code(lambda: command.main(["ppo", "--machine", "h10"])) == 2
    assert "no machine is called 'h10'" in capsys.readouterr().err


def test_past_selves_take_memory_and_what_is_not_counted_is_named(quick):
    config = ppo.Config(env="TicTacToe-v1", num_envs=32, eval_every=5_000)
    found = predict.plan("ppo", config, H100).bytes
    params = found.past_selves / config.self_play.past_most
    assert config.has_past_selves and found.parameters == params > 0
    assert command.left_out(config) == (
        "not counted: the inference of past selves, checkpoints and an evaluation every 5,000 "
        "steps and at the end"
    )


@pytest.mark.slow
def test_here_everything_is_measured(quick):
    """Parts that cannot be 0, and a sum that is theirs; the rate itself is the slow test's."""
    config = dataclasses.replace(CONFIGS["impala"], batch_size=4, num_envs=16)
    plan = predict.plan("impala", config)
    t = plan.times
    assert plan.machine.name == "here" and plan.machine.devices == len(jax.local_devices())
    assert min(t._replace(replay=1.0)) > 0 and t.replay == 0
    assert t.actors >= 0.9 * (t.environment + t.inference)
    assert plan.seconds == max(t.actors, t.transfer + t.learner, t.shared)
    assert dataclasses.replace(load_again(plan.machine)) == plan.machine


def load_again(machine):
    return type(machine)(**json.loads(json.dumps(dataclasses.asdict(machine))))
