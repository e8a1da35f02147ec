"""Data-parallel learner steps: the one file that knows there are devices."""

import jax
import jax.numpy as jnp
import numpy as np

from rlsys.types import UserError

BATCH = "batch"
REPLICATED = jax.P()
SHARDED = jax.P(BATCH)


def make_mesh(devices=None) -> jax.sharding.Mesh:
    """A mesh of one axis, 'batch', over the local devices."""
    devices = devices or jax.local_devices()
    return jax.make_mesh((len(devices),), (BATCH,), (jax.sharding.AxisType.Auto,), devices=devices)


def place(mesh, tree, spec=REPLICATED):
    """Puts tree on the devices, which may alias it: donating the result then deletes tree's arrays.

    spec: one PartitionSpec or a prefix of tree made of them.
    """
    return jax.device_put(tree, _shardings(mesh, spec))


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


def stacked(spec):
    """Of a tree with one axis more before all others."""
    return jax.tree.map(lambda s: jax.P(None, *s), spec, is_leaf=lambda s: isinstance(s, jax.P))


def value_and_grad(loss):
    """jax.value_and_grad of the mean over all devices of loss(params, *args) -> (scalar, aux).

    The mean is taken inside what is differentiated: inside shard_map, jax sums the gradient of
    replicated params over the devices by itself, so pmean(grad(loss)) is too large by the number
    of devices. Leaves of aux that differ between devices are left as they are.
    """

    def mean_loss(params, *args):
        value, aux = loss(params, *args)
        return jax.lax.pmean(value, BATCH), aux

    return jax.value_and_grad(mean_loss, has_aux=True)


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


def mean(metrics):
    """The mean over all devices of each leaf, inside update."""
    return jax.lax.pmean(metrics, BATCH)


def rows(num_rows: int):
    """Numbers of this device's rows among those of all devices: [num_rows] int32, inside update."""
    return jax.lax.axis_index(BATCH) * num_rows + jnp.arange(num_rows)


def snapshot(params):
    """A copy of the parameters on the first device, which outlives the donated state."""
    device = jax.local_devices()[0]

    def copy(x):
        if x.is_fully_replicated:
            return x.addressable_shards[0].data.copy()
        return jax.device_put(x, device, may_alias=False)  # a sweep's, split by member

    return jax.tree.map(copy, params)


def check_batch(mesh, batch_size: int) -> None:
    """Raises UserError unless the batch can be split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"a batch of {batch_size} cannot be split evenly over {mesh.size} devices")


def check_finite(priorities, learner_step: int) -> None:
    """Raises FloatingPointError, in a sentence for the user, if one is not a finite number."""
    if not np.isfinite(priorities).all():
        raise FloatingPointError(f"the loss is no finite number at learner step {learner_step}")
