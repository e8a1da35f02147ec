"""Several processes, on one host or many, train one agent. Other files ask this one about them.

Every process runs the same command. It has its own actors, environments and replay, learns from its
share of each batch, and holds the same parameters. Process 0 writes the log and evaluates. The
run's folder lies on a disk that all processes see.
"""

import ctypes
import dataclasses
import os
import pickle
import signal
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from rlsys.types import UserError

AUTO = "auto"
START_SECONDS = 300  # how long processes wait for each other at the start
HEARTBEAT_SECONDS = 30  # a process that gives no sign of life for this long counts as dead
SHARED = ("num_envs", "batch_size", "replay_capacity")  # fields that are totals over all processes
LOST = (
    "another process of the run has ended or cannot be reached, so this one ends too; `resume` in "
    "all of them goes on from the last checkpoint"
)


@dataclasses.dataclass(frozen=True)
class Address:
    """Says which process this is, of how many, and where they meet."""

    coordinator: str  # "host:port" of process 0; "auto": the cluster sets all three
    num_processes: int | None
    process_id: int | None


def address(coordinator: str | None, num_processes: str | None, process_id: str | None):
    """Make the Address that the command line gives; None for a run of one process.

    Args:
      coordinator: "HOST:PORT" of process 0, "auto", or None.
      num_processes: number of processes of the run, in digits, or None.
      process_id: number of this process, from 0, in digits, or None.

    Raises:
      UserError: some of the three are missing or malformed.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise UserError("--num-processes and --process-id need --coordinator HOST:PORT too")
        return None
    try:
        numbers = [None if x is None else int(x) for x in (num_processes, process_id)]
    except ValueError:
        raise UserError(
            f"--num-processes {num_processes} and --process-id {process_id} must be whole numbers"
        ) from None
    if coordinator == AUTO:
        return Address(coordinator, *numbers)
    if None in numbers or not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(
            "--coordinator needs HOST:PORT of process 0, --num-processes and --process-id; or "
            "--coordinator auto under SLURM, Kubernetes, MPI or on a TPU pod"
        )
    return Address(coordinator, *numbers)


def start(where: Address | None) -> None:
    """Join the run's other processes, if any. Call it before anything else that needs a device.

    Raises:
      UserError: not all processes came within START_SECONDS.
    """
    if where is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # Run handles SIGTERM
    given = None if where.coordinator == AUTO else where.coordinator
    try:
        jax.distributed.initialize(
            given,
            where.num_processes,
            where.process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the processes did not meet: {_first_line(error)}") from None
    barrier()  # so that they connect while they are in step
    _on_abort(_say_and_exit)


def connect(mesh: jax.sharding.Mesh) -> None:
    """Let the devices of a mesh connect while all processes wait for each other.

    Devices connect in the first program in which they talk, and on CPUs they give up after 30
    seconds. Without this, one process could come to its first update that much later than another,
    because it has the update to compile. It is collective, so all processes must call it.
    """
    if not mesh.is_multi_process:
        return
    shared, whole = (
        NamedSharding(mesh, x) for x in (PartitionSpec(mesh.axis_names), PartitionSpec())
    )
    ones = jax.make_array_from_callback((mesh.size,), shared, lambda _: np.ones(1, np.float32))
    program = jax.jit(jnp.sum, out_shardings=whole).lower(ones).compile()
    barrier()
    program(ones).block_until_ready()


def end() -> None:
    """Leave the other processes; collective, so all must call it. Afterwards this one is alone."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
        _on_abort(None)


def leave(code: int) -> None:
    """End this process with an exit code, even in the middle of a run; the others notice."""
    if jax.distributed.is_initialized():  # an ordinary exit would wait for the others
        if is_primary() and code:
            time.sleep(2)  # let others that fail too say so: jax aborts them without process 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def lost(error: Exception) -> str | None:
    """Return a sentence for the user if the error says that another process is gone, else None."""
    text = str(error)
    gone = isinstance(error, jax.errors.JaxRuntimeError) and jax.distributed.is_initialized()
    return LOST if gone and any(x in text for x in ("Gloo", "NCCL", "oordination")) else None


def count() -> int:
    """Return the number of processes of the run."""
    return jax.process_count()


def index() -> int:
    """Return the number of this process, from 0."""
    return jax.process_index()


def is_primary() -> bool:
    """Tell whether this is process 0, which alone writes the log and prints."""
    return index() == 0


def share(config: Any):
    """Return config with this process's share of the environments, the batch and the replay.

    It is collective, so all processes must call it.

    Raises:
      UserError: the processes were started with different fields or numbers of devices, or a total
        cannot be divided by the number of processes.
    """
    if count() == 1:
        return config
    for other, theirs in enumerate(gather((config, jax.local_device_count()))):
        if theirs != (config, jax.local_device_count()):
            raise UserError(
                f"processes {index()} and {other} have other fields or numbers of devices; all must"
                f" be started by the same command on like machines"
            )
    totals = {name: getattr(config, name) for name in SHARED if hasattr(config, name)}
    for name, total in totals.items():
        if total % count():
            raise UserError(f"{name} {total} cannot be shared evenly by {count()} processes")
    return dataclasses.replace(config, **{name: n // count() for name, n in totals.items()})


def local_slice(number: int) -> slice:
    """Return the slice of this process if each has `number` items and all lie in order of index."""
    return slice(index() * number, (index() + 1) * number)


def all_max(number: int) -> int:
    """Return the maximum over all processes; collective, so all must call it."""
    if count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def all_sum(number: int) -> int:
    """Return the sum over all processes; collective, so all must call it."""
    if count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).astype(np.int64).sum())


def gather(x: Any) -> list[Any]:
    """Return the x of every process, by index; collective, so all must call it.

    x: anything that pickle can hold.
    """
    if count() == 1:
        return [x]
    data = np.frombuffer(pickle.dumps(x), np.uint8)
    row = np.zeros(1 << all_max(len(data)).bit_length(), np.uint8)  # each length compiles
    row[: len(data)] = data
    return [pickle.loads(row.tobytes()) for row in multihost_utils.process_allgather(row)]


def barrier() -> None:
    """Wait until all processes have called this."""
    all_max(0)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _say_and_exit(number: int) -> None:
    """Print LOST and exit. jax aborts when another process is gone, which would dump core."""
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    os.write(2, f"{show_cursor}rlsys: {LOST}.\n".encode())
    os._exit(1)


def _on_abort(handler) -> None:
    # Not signal.signal: Python runs its handlers later, but abort() ends the process before.
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
