"""Data-parallel learner steps: the one file that knows there are devices."""

import functools

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
    """A mesh of one axis, 'batch', over the devices of all processes, but for the last `reserved`
    of each, which act.

    Raises:
      UserError: none is left to learn.
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
    """Puts tree on the devices, which may alias it: donating the result then deletes tree's arrays.

    Args:
      tree: of several processes each has its rows of what is sharded, all of what is replicated.
      spec: one PartitionSpec or a prefix of tree made of them.
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
    """state with its progress, the share of the run's steps played before what is learned next."""
    return state._replace(progress=place(mesh, np.float32(progress)))


def _shardings(mesh, spec):
    return jax.tree.map(
        lambda s: jax.NamedSharding(mesh, s), spec, is_leaf=lambda s: isinstance(s, jax.P)
    )


def placed_shapes(mesh, tree, spec):
    """What place would give of arrays with the shapes and dtypes in tree, to compile for."""
    shardings = jax.tree.broadcast(_shardings(mesh, spec), tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def stacked(spec, over=None):
    """Of a tree with one axis more before all others, split over that axis of the mesh if named."""
    return jax.tree.map(lambda s: jax.P(over, *s), spec, is_leaf=lambda s: isinstance(s, jax.P))


def local_shard(x) -> np.ndarray:
    """This process's rows of what is sharded; waits for it."""
    rows = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(rows[start]) for start in sorted(rows)])


def value_and_grad(loss):
    """jax.value_and_grad of the mean over all devices of loss(params, *args) -> (scalar, (aux,
    metrics)), inside update. The gradient is that of learned(params).

    Scalar, metrics and gradients are averaged by one all-reduce together; aux is left as it is.
    """

    def mean_value_and_grad(params, *args):
        # Otherwise jax sums the gradient of replicated params by itself, leaf by leaf.
        part = jax.lax.pcast(learned(params), BATCH, to="varying")

        def of_part(part):
            return loss({**params, **part}, *args)

        (value, (aux, metrics)), grads = jax.value_and_grad(of_part, has_aux=True)(part)
        value, metrics, grads = pmean((value, metrics, grads))
        return (value, (aux, metrics)), grads

    return mean_value_and_grad


def data_parallel(update, mesh, batch_spec, out_spec=REPLICATED):
    """Jits update(config, state, batch) -> (state, out) over the mesh; state is donated.

    batch_spec, out_spec: PartitionSpecs of the batch and of what comes out beside the state.
    """
    mapped = jax.shard_map(
        update,
        mesh=mesh,
        in_specs=(REPLICATED, REPLICATED, batch_spec),
        out_specs=(REPLICATED, out_spec),
    )
    return jax.jit(mapped, donate_argnums=1)


def pmean(tree):
    """The mean over all devices of each leaf, inside update, by one all-reduce."""
    if jax.lax.axis_size(BATCH) == 1:
        return jax.lax.pmean(tree, BATCH)  # costs nothing
    vector, unravel = jax.flatten_util.ravel_pytree(tree)
    return unravel(jax.lax.pmean(vector, BATCH))


def pmax(x):
    """The largest of x over all devices, inside update."""
    return jax.lax.pmax(x, BATCH)


def global_rows(num_rows: int):
    """Numbers of this device's rows among those of all devices: [num_rows] int32, inside update."""
    return jax.lax.axis_index(BATCH) * num_rows + jnp.arange(num_rows)


def actor_devices(reserved: int) -> list:
    """Those that actors play on in turn: the reserved ones, or the learner's first, as None."""
    return jax.local_devices()[-reserved:] if reserved else [None]


def snapshot(params, device=None):
    """A copy of the parameters, which outlives the donated state.

    device: where to; if None it stays on the learner's first.
    """

    def copy(x):
        if not x.is_fully_replicated:  # a sweep's, split by member
            return jax.device_put(x, device or jax.local_devices()[0], may_alias=False)
        x = x.addressable_shards[0].data
        return x.copy() if device is None else jax.device_put(x, device, may_alias=False)

    return jax.tree.map(copy, params)


def check_batch(mesh, batch_size: int) -> None:
    """Raises UserError unless the batch can be split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"a batch of {batch_size} cannot be split evenly over {mesh.size} devices")


def check_finite(priorities, learner_step: int) -> None:
    """Raises FloatingPointError, in a sentence for the user, if one is not a finite number."""
    if not np.isfinite(priorities).all():
        raise FloatingPointError(f"the loss is no finite number at learner step {learner_step}")
