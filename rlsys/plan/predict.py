"""From what was measured here, and a machine's description, to what a Config will cost there."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from rlsys import algorithms
from rlsys.acting.actors import make_envs
from rlsys.envs import family, shared_spaces
from rlsys.envs.tasks import CHEAP
from rlsys.learning import learner
from rlsys.plan import cost, measure
from rlsys.plan.machine import Machine
from rlsys.plan.prediction import Bytes, Plan, Times
from rlsys.plan.workload import Workload, workload
from rlsys.replay.memory import num_bytes
from rlsys.types import UserError

OPTIMIZER_PASSES = 10  # over the parameters: Adam reads and writes four arrays, and their norms


def plan(name: str, config: Any, machine: Machine | None = None) -> Plan:
    """For an algorithm's Config on a machine; on this one, where all is measured, if None.

    Raises:
      UserError: no device is left to learn, or a batch cannot be split over those that are.
    """
    algorithm, pools = algorithms.find(name), make_envs(config)
    network = algorithm.make_network(config, *shared_spaces(pools))
    if machine is None:
        return here(config, pools, workload(algorithm, config, network))
    network = network.convolving("plain")  # as accelerators have it
    return elsewhere(config, pools, workload(algorithm, config, network), machine)


def here(config: Any, pools: list, work: Workload) -> Plan:
    """Every part is measured by itself."""
    mesh = learner.make_mesh(reserved=config.actor_devices)
    played = measure.play(config, pools, work.policies, work.network, work.state.params)
    add, draw, work = measure.replay(work, played.trajectory)
    batch = work.batch(played.trajectory)
    program = learner.data_parallel(
        functools.partial(work.learn, work.network), mesh, work.spec, work.out_spec
    )
    state = learner.place(mesh, jax.tree.map(jnp.copy, work.state))
    compiled = program.lower(config, state, learner.place(mesh, batch, work.spec)).compile()
    learned = measure.learn(config, mesh, compiled, state, batch, work.spec)
    machine = measure.machine()
    shared = (played.cpu + add + work.programs * (draw + learned.cpu)) / machine.cores
    if config.unrolls_ahead and work.add is None:  # threads that wait for each other cost more
        state = learner.place(mesh, jax.tree.map(jnp.copy, work.state))
        num_calls = max(round(work.programs), 1)
        begin = measure.learning(config, mesh, compiled, state, batch, work.spec, num_calls)
        pools = make_envs(config)
        shared = measure.play(
            config, pools, work.policies, work.network, work.state.params, begin
        ).wall
    times = Times(
        environment=played.environment,
        inference=played.inference,
        host=played.host,
        actors=played.wall,
        replay=add + work.programs * draw,
        transfer=work.programs * learned.transfer,
        learner=work.programs * learned.learn,
        shared=shared,
    )
    memory = memory_of(config, work, played.trajectory, batch, compiled, mesh.size)
    return expect(machine, config, work, times, memory, math.nan)


def elsewhere(config: Any, pools: list, work: Workload, machine: Machine) -> Plan:
    """Predict for another machine: measure here what the host does, count what devices do."""
    num_learners = machine.devices - config.actor_devices
    if num_learners < 1:
        raise UserError(
            f"actor_devices {config.actor_devices} leaves none of the {machine.devices} to learn"
        )
    params = work.state.params
    inputs = (params, pools[0].reset(), work.network.initial(pools[0].num_envs))
    idle = [measure.without_network(work.network, x, *inputs) for x in work.policies]
    played = measure.play(config, pools, idle, work.network, params)
    alone = measure.play(config, make_envs(config)[:1], idle[:1], work.network, params)
    add, draw, work = measure.replay(work, played.trajectory)
    add, draw = add / machine.core_speed, draw / machine.core_speed

    policy = work.policies[0]
    found = cost.products(policy.apply, policy.own, *inputs, jax.random.key(0))
    inference = cost.seconds(found, machine)  # of a call, on the device
    each = config.unroll_length * machine.core_speed
    environment, host = alone.environment / each, alone.host / each
    every = environment  # of all actors, if each has cores of its own
    if family(config.tasks[0].env_id) not in CHEAP:  # threads on all cores
        environment = max(alone.cpu - alone.host, 0.0) / each / machine.cores
        every = environment * config.actors
    sharing = config.actor_devices or 1
    step = max(
        environment + host + machine.dispatch + inference,
        every,
        (host + machine.dispatch) * config.actors,  # one at a time in Python
        inference * -(-config.actors // sharing),
    )

    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), work.batch(played.trajectory)
    )
    share = split(batch, work.spec, num_learners)
    mesh = learner.make_mesh(jax.local_devices()[:1])
    program = learner.data_parallel(
        functools.partial(work.learn, work.network), mesh, work.spec, work.out_spec
    )
    passes = OPTIMIZER_PASSES * num_bytes(params) / machine.bandwidth
    passes += cost.all_reduce_seconds(
        num_bytes(params), num_learners, machine.link, machine.link_latency
    )
    learn = machine.dispatch * work.programs + passes * work.updates
    learn += work.programs * cost.seconds(
        cost.products(program, config, work.state, share), machine
    )
    transfer = work.programs * num_bytes(share) / machine.host_to_device
    hidden = min(work.programs * draw, learn)  # the next sample is drawn while the device learns
    times = Times(
        environment=environment * config.unroll_length,
        inference=(machine.dispatch + inference) * config.unroll_length,
        host=host * config.unroll_length,
        actors=step * config.unroll_length,
        replay=add + work.programs * draw - hidden,
        transfer=transfer,
        learner=learn,
        shared=0.0
        if config.actor_devices
        else learn + inference * config.unroll_length * config.actors,
    )
    compiled = program.lower(config, work.state, share).compile()
    memory = memory_of(config, work, played.trajectory, share, compiled, 1)
    busy = inference / (inference + machine.dispatch)
    return expect(machine, config, work, times, memory, busy)


def expect(machine, config, work: Workload, times: Times, memory: Bytes, busy: float) -> Plan:
    env_steps = config.num_envs * config.unroll_length
    ahead = config.unrolls_ahead > 0
    return Plan(machine, ahead, env_steps, work.updates, times, memory, busy)


def split(avals: Any, spec: Any, num_devices: int):
    """Shapes of one device's share of a batch.

    Raises:
      UserError: it cannot be split evenly.
    """

    def share(spec, tree):
        def one(x):
            shape = list(x.shape)
            for axis, name in enumerate(spec):
                if name == learner.BATCH:
                    if shape[axis] % num_devices:
                        raise UserError(
                            f"a batch of {shape[axis]} cannot be split evenly over {num_devices} "
                            f"devices"
                        )
                    shape[axis] //= num_devices
            return jax.ShapeDtypeStruct(shape, x.dtype)

        return jax.tree.map(one, tree)

    return jax.tree.map(share, spec, avals, is_leaf=lambda s: isinstance(s, jax.P))


def memory_of(config, work: Workload, trajectory, batch, compiled, num_devices: int) -> Bytes:
    """batch: of num_devices devices."""
    state, past = work.state, 0
    if config.has_past_selves:
        past = 1 if config.self_play.frozen else config.self_play.past_most
    unrolls = (config.unrolls_ahead + 1) * 2 * num_bytes(trajectory)  # steps, and stacked
    return Bytes(
        parameters=num_bytes((state.params, state.target_params)),
        optimizer=num_bytes(state.opt_state),
        temporaries=compiled.memory_analysis().temp_size_in_bytes,
        batches=2 * num_bytes(batch) / num_devices,  # the next is placed while one is in use
        replay=work.replay_bytes,
        unrolls=unrolls,
        past_selves=past * num_bytes(state.params),
    )
