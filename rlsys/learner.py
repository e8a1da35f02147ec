"""Data-parallel learner steps: the one file that knows there are devices."""

import jax

BATCH = "batch"


def make_mesh(devices=None) -> jax.sharding.Mesh:
    """A mesh of one axis, 'batch', over the local devices."""
    devices = devices or jax.local_devices()
    return jax.make_mesh((len(devices),), (BATCH,), (jax.sharding.AxisType.Auto,), devices=devices)


def place(mesh, tree, spec=jax.P()):
    """Puts tree on the devices. spec: one PartitionSpec or a prefix of tree made of them."""
    sharding = jax.tree.map(
        lambda s: jax.NamedSharding(mesh, s), spec, is_leaf=lambda s: isinstance(s, jax.P)
    )
    return jax.device_put(tree, sharding)


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


def data_parallel(update, mesh, batch_spec, out_spec=jax.P()):
    """Jits update(config, state, batch) -> (state, out) over the mesh; state is donated.

    batch_spec, out_spec: PartitionSpecs of the batch and of what comes out beside the state.
    """
    mapped = jax.shard_map(
        update, mesh=mesh, in_specs=(jax.P(), jax.P(), batch_spec), out_specs=(jax.P(), out_spec)
    )
    return jax.jit(mapped, donate_argnums=1)
