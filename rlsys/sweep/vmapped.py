"""One member's work, done for all of them at once: stacks, vmap, members over devices.

S members; arrays of all have an axis [S, ...] more, before all others.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlsys import networks
from rlsys.learning import learner
from rlsys.types import Policy, Timestep, Trajectory, map_arrays

MEMBER = "member"
SHARDED = jax.P(MEMBER)


def make_mesh(num_members: int, reserved: int = 0) -> jax.sharding.Mesh:
    """Members over as many of the local devices as share them evenly, but the last `reserved`,
    which act; every member's batch is on one device."""
    devices = list(learner.make_mesh(jax.local_devices(), reserved=reserved).devices.flat)
    number = max(n for n in range(1, len(devices) + 1) if num_members % n == 0)
    auto = jax.sharding.AxisType.Auto
    return jax.make_mesh(
        (number, 1), (MEMBER, learner.BATCH), (auto,) * 2, devices=devices[:number]
    )


def stack(trees: Sequence[Any]) -> Any:
    """Trees of numbers and arrays -> one tree [S, ...]; jax arrays, keys among them, stay such."""

    def join(*xs):
        return jnp.stack(xs) if isinstance(xs[0], jax.Array) else np.stack([_array(x) for x in xs])

    return jax.tree.map(join, *trees)


def _array(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32) if isinstance(x, float) else np.asarray(x)


def place_numbers(mesh, configs: Sequence[Any]) -> Any:
    """The Configs as one of numbers [S]."""
    same = [with_seed_of(configs[0], config) for config in configs]
    return learner.place(mesh, stack(same), SHARDED)


def with_seed_of(first: Any, config: Any) -> Any:
    """config with another's seed: no program reads it, but programs of other seeds are others."""
    return dataclasses.replace(config, seed=first.seed)


def one(tree: Any, i: int) -> Any:
    """Member i's part."""
    return jax.tree.map(lambda x: x[i], tree)


def of_members(spec: Any) -> Any:
    """PartitionSpecs of one member's arrays -> of all members'."""
    return learner.stacked(spec, MEMBER)


def make_program(update: Callable, mesh, batch_spec: Any, out_spec: Any = learner.REPLICATED):
    """Jits update(config, state, batch) -> (state, out) of one member for all; states are donated.

    batch_spec, out_spec: of one member.
    """
    mapped = jax.shard_map(
        lambda configs, states, batches: jax.vmap(update)(configs, states, batches),
        mesh=mesh,
        in_specs=(SHARDED, SHARDED, of_members(batch_spec)),
        out_specs=(SHARDED, of_members(out_spec)),
    )
    return jax.jit(mapped, donate_argnums=1)


def compile_program(program, mesh, *args) -> tuple[Callable, int]:
    """A jitted program compiled for arguments like these (arrays on the mesh, or shapes), and the
    bytes of its arguments, results and temporaries on all devices together."""
    compiled = program.lower(*args).compile()
    analysis = compiled.memory_analysis()  # of one device
    sizes = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    each = sum(getattr(analysis, size) for size in sizes) - analysis.alias_size_in_bytes
    return compiled, mesh.size * each


def make_policies(policies: list[list[Policy]]) -> list[Policy]:
    """For each actor one policy of all members, as acting.unroll takes it.

    All members' environments stand side by side, [S * B], and parameters and keys are [S, ...].

    Args:
      policies: of each member those of its actors, which apply one compiled function.
    """
    return [
        Policy(_vmapped(of_actor[0].apply, len(of_actor)), stack([p.own for p in of_actor]))
        for of_actor in zip(*policies, strict=True)
    ]


@functools.cache
def _vmapped(apply: Callable, num_members: int) -> Callable:
    def split(x):
        return x.reshape(num_members, x.shape[0] // num_members, *x.shape[1:])

    def join(x):
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    @jax.jit
    def policy(own, params, timestep, core_state, keys):
        timestep, core_state = jax.tree.map(split, (timestep, core_state))
        *played, keys = jax.vmap(apply)(own, params, timestep, core_state, keys)
        return *jax.tree.map(join, played), keys

    return policy


def example(
    policy: Policy,
    params,
    network,
    config: Any,
    num_members: int,
    num_actors: int,
    takes_turns: bool,
):
    """A Trajectory of zeros such as num_actors actors side by side play, to compile for.

    Args:
      policy: of one of them, as make_policies gives it.
      params: [S, ...].
      takes_turns: whether the environments say which rows are to move.
    """
    number, flag = np.zeros(1, np.float32), np.zeros(1, bool)
    timestep = Timestep(networks.sample_obs(network.observation_space), flag, number, number, flag)
    num_envs = config.num_envs // config.actors * num_members
    timestep = jax.tree.map(lambda x: np.zeros((num_envs, *x.shape[1:]), x.dtype), timestep)
    core_state = network.initial(num_envs)
    keys = jax.random.split(jax.random.key(0), num_members)
    args = (policy.own, params, timestep, core_state, keys)
    action, aux, *_ = jax.eval_shape(policy.apply, *args)

    def zeros(lead, tree):
        return jax.tree.map(
            lambda x: np.zeros((*lead, num_actors * x.shape[0], *x.shape[1:]), x.dtype), tree
        )

    length = config.unroll_length
    return Trajectory(
        zeros([length + 1], timestep),
        zeros([length], action),
        zeros([length], aux),
        zeros([], core_state),
        np.zeros(num_actors * num_envs, np.int32),
        np.zeros((length, num_actors * num_envs), bool) if takes_turns else (),
    )


def split(trajectory: Trajectory, num_members: int, num_actors: int) -> list[Trajectory]:
    """Each member's part of an unroll of num_actors actors side by side, each with environments of
    all members."""
    share = trajectory.steps.first.shape[1] // (num_members * num_actors)

    def time_major(x):  # [T, A * S * B] -> [S, T, A * B]
        x = x.reshape(len(x), num_actors, num_members, share, *x.shape[2:])
        x = np.moveaxis(x, 2, 0)
        return x.reshape(*x.shape[:2], num_actors * share, *x.shape[4:])

    def batch_major(x):  # [A * S * B] -> [S, A * B]
        x = x.reshape(num_actors, num_members, share, *x.shape[1:])
        return np.moveaxis(x, 1, 0).reshape(num_members, num_actors * share, *x.shape[3:])

    whole = map_arrays(time_major, batch_major, trajectory)
    return [one(whole, i) for i in range(num_members)]
