"""Descriptions of machines."""

import dataclasses
import json
from pathlib import Path

from rlsys.types import UserError


@dataclasses.dataclass(frozen=True)
class Machine:
    """A host and its devices. Rates are what programs reach, not what data sheets say."""

    name: str
    cores: int
    core_speed: float
    """The speed of a core, as a multiple of the planning machine's, where host code is measured."""
    host_memory: float
    """Bytes."""
    devices: int
    device: str
    device_memory: float
    """Bytes of one device, like the rates below."""
    float32_flops: float
    """Multiplications and additions per second of products of float32."""
    bfloat16_flops: float
    bandwidth: float
    """Bytes/s of the device's memory."""
    host_to_device: float
    """Bytes/s."""
    link: float
    """Bytes/s that a device sends to another while it receives as much."""
    link_latency: float
    """Seconds."""
    dispatch: float
    """Seconds of the host for a call of a program, arguments and small results included."""
    launch: float
    """Seconds from the start of a kernel to that of the next, at least."""
    tile: int
    """Rows and columns of a result that are computed together."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and not value > 0:
                raise UserError(f"{field.name} of a machine must be positive, not {value}")


# NVIDIA's data sheet of the H100 SXM: dense TF32 494.7 and BF16 989.4 TFLOP/s, 80 GB of HBM3 at
# 3.35 TB/s, NVLink 900 GB/s and PCIe 5 128 GB/s, both ways together.
H100 = Machine(
    name="h100",
    cores=16,
    core_speed=1.0,  # taken as equal
    host_memory=128 * 2**30,
    devices=1,
    device="NVIDIA H100 SXM",
    device_memory=80e9,
    float32_flops=0.5 * 494.7e12,  # jax computes float32 products in TF32; half is a usual share
    bfloat16_flops=0.5 * 989.4e12,
    bandwidth=0.8 * 3.35e12,  # a copy's usual share
    host_to_device=0.25 * 64e9,  # numpy's memory is copied to pinned memory first
    link=0.8 * 450e9,
    link_latency=5e-6,  # a guess, like the next two
    dispatch=200e-6,  # about 100 us for a small program on a CPU, and copies there and back
    launch=4e-6,
    tile=64,  # the smallest that tensor cores fill
)
MACHINES = {
    "h100": H100,
    "8xh100": dataclasses.replace(H100, name="8xh100", cores=128, host_memory=2 * 2**40, devices=8),
}


def load(name: str) -> Machine:
    """One of MACHINES, or from a file of JSON with the fields of Machine.

    Raises:
      UserError: there is none, or the file does not describe one.
    """
    if name in MACHINES:
        return MACHINES[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"no machine is called {name!r}, only here, {', '.join(MACHINES)} or a file"
        )
    try:
        values = json.loads(path.read_text())
        return Machine(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} does not describe a machine: {error}") from None
