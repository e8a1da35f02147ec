"""A learner step runs on all devices, each with its rows of the batch.

This file makes the mesh, places arrays on it and averages over it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from rlsys.learning.optimizer import learned
from rlsys.types import UserError

BATCH = "batch"
REPLICATED = jax.P()
SHARDED = jax.P(BATCH)


def make_mesh(devices=None, *, reserved: int = 0) -> jax.sharding.Mesh:
    """Make a mesh of one axis, 'batch', over the devices of all processes that learn.

    Args:
      devices: those to take; all of the run's if None.
      reserved: number of devices of each process, its last ones, that act and do not learn.

    Raises:
      UserError: no device is left to learn.
    """
    devices = devices or jax.devices()
    processes: dict[int, list] = {d.process_index: [] for d in devices}
    for device in devices:
        processes[device.process_index].append(device)
    fewest = min(map(len, processes.values()))
    if reserved >= fewest:
        raise UserError(f"actor_devices {reserved} leaves none of the {fewest} to learn")
    devices = [d for own in processes.values() for d in own[: len(own) - reserved]]
    return jax.make_mesh((len(devices),), (BATCH,), (jax.sharding.AxisType.Auto,), devices=devices)


def place(mesh, tree, spec=REPLICATED):
    """Put tree on the devices, which may alias it: donating the result then deletes tree's arrays.

    Args:
      mesh: the mesh of the devices.
      tree: pytree of arrays. If the run has several processes, each gives its own rows of what is
        sharded, and the whole of what is replicated.
      spec: how to place it: one PartitionSpec, or a prefix of tree made of them.
    """
    sharding = _shardings(mesh, spec)
    if mesh.is_multi_process:

        def place_leaf(s, x):
            x = np.float32(x) if isinstance(x, float) else x
            return jax.make_array_from_process_local_data(s, x)

        return jax.tree.map(
            lambda s, part: jax.tree.map(functools.partial(place_leaf, s), part), sharding, tree
        )
    return jax.device_put(tree, sharding)


def at(mesh, state, progress: float):
    """Return state with its progress set: the share of the run's steps that have been played."""
    return state._replace(progress=place(mesh, np.float32(progress)))


def _shardings(mesh, spec):
    return jax.tree.map(
        lambda s: jax.NamedSharding(mesh, s), spec, is_leaf=lambda s: isinstance(s, jax.P)
    )


def placed_shapes(mesh, tree, spec):
    """Return shapes, dtypes and shardings of place(mesh, tree, spec), to compile for them."""
    shardings = jax.tree.broadcast(_shardings(mesh, spec), tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def stacked(spec, over=None):
    """Return spec for a tree with one axis more in front, split over mesh axis `over` if given."""
    return jax.tree.map(lambda s: jax.P(over, *s), spec, is_leaf=lambda s: isinstance(s, jax.P))


def local_shard(x) -> np.ndarray:
    """Copy this process's rows of a sharded array to the host, waiting until they are computed."""
    rows = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(rows[start]) for start in sorted(rows)])


class LearnedMean(NamedTuple):
    """Holds a metric's mean over the steps that are learned from, before devices are averaged over.

    Devices have different numbers of such steps, so each gives two means over all its steps, and
    value_and_grad divides one by the other once both are means over all devices.
    """

    masked: Any  # [] mean of the metric, which counts as 0 where no step is learned from
    share: Any  # [] share of the steps that are learned from


def learned_mean(x, mask) -> LearnedMean:
    """Average a metric x [...] over the steps where mask [...] is True, in a loss; 0 if none is."""
    return LearnedMean(jnp.mean(jnp.where(mask, x, 0.0)), jnp.mean(mask))


def _divided(metrics):
    def is_mean(x):
        return isinstance(x, LearnedMean)

    def divided(x):
        return x.masked / jnp.maximum(x.share, 1e-9) if is_mean(x) else x

    return jax.tree.map(divided, metrics, is_leaf=is_mean)


def value_and_grad(loss):
    """Make a function like jax.value_and_grad(loss), but of the mean loss over all devices.

    Call the function inside update (see data_parallel). One all-reduce averages the scalar, the
    metrics and the gradients together; aux stays what it is on each device.

    Args:
      loss: loss(params, *args) -> (scalar, (aux, metrics)), params being replicated. Gradients are
        those of learned(params). A metric may be a LearnedMean, and is a number in the result.
    """

    def mean_value_and_grad(params, *args):
        # For params not marked varying jax itself would sum gradients over devices, leaf by leaf.
        part = jax.lax.pcast(learned(params), BATCH, to="varying")

        def of_part(part):
            return loss({**params, **part}, *args)

        (value, (aux, metrics)), grads = jax.value_and_grad(of_part, has_aux=True)(part)
        value, metrics, grads = pmean((value, metrics, grads))
        return (value, (aux, _divided(metrics))), grads

    return mean_value_and_grad


def data_parallel(update, mesh, batch_spec, out_spec=REPLICATED):
    """Compile update(config, state, batch) -> (state, out) for the mesh; state is donated.

    Args:
      update: runs on each device, with its rows of the batch; config and state are replicated.
      mesh: the mesh of the devices.
      batch_spec: PartitionSpecs of the batch.
      out_spec: PartitionSpecs of out, which update returns beside the state.
    """
    mapped = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(REPLICATED, REPLICATED, batch_spec),
        out_specs=(REPLICATED, out_spec),
    )
    return jax.jit(mapped, donate_argnums=1)


def pmean(tree):
    """Average each leaf over all devices by one all-reduce. Call it inside update."""
    if jax.lax.axis_size(BATCH) == 1:
        return jax.lax.pmean(tree, BATCH)  # free, while ravel copies
    vector, unravel = jax.flatten_util.ravel_pytree(tree)
    return unravel(jax.lax.pmean(vector, BATCH))


def pmax(x):
    """Take the maximum of x over all devices, elementwise. Call it inside update."""
    return jax.lax.pmax(x, BATCH)


def global_rows(num_rows: int):
    """Return the numbers of this device's rows among those of all. Call it inside update.

    num_rows: rows of each device.

    Returns:
      [num_rows] int32.
    """
    return jax.lax.axis_index(BATCH) * num_rows + jnp.arange(num_rows)


def actor_devices(reserved: int) -> list:
    """List the devices dealt to actors in turn: the reserved ones, or None for the learner's."""
    return jax.local_devices()[-reserved:] if reserved else [None]


def snapshot(params, device=None):
    """Copy the parameters, so that they outlive the state, which the next update deletes.

    device: where the copy lies; if None, on the learner's first device of this process.
    """

    def copy(x):
        if not x.is_fully_replicated:  # a sweep's are split by member
            return jax.device_put(x, device or jax.local_devices()[0], may_alias=False)
        x = x.addressable_shards[0].data
        return x.copy() if device is None else jax.device_put(x, device, may_alias=False)

    return jax.tree.map(copy, params)


def check_batch(mesh, batch_size: int) -> None:
    """Raise UserError unless the batch can be split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"a batch of {batch_size} cannot be split evenly over {mesh.size} devices")


def check_finite(priorities, learner_step: int) -> None:
    """Raise FloatingPointError, in a sentence for the user, unless all priorities are finite."""
    if not np.isfinite(priorities).all():
        raise FloatingPointError(f"the loss is no finite number at learner step {learner_step}")
