"""Every test sees 4 simulated CPU devices and strict rank promotion."""

import os
import signal

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from rlsys.running import process

process.prepare()  # the cache of compiled programs, above all
signal.signal(
    signal.SIGHUP, signal.SIG_DFL
)  # nohup has programs ignore it, and so those they start
jax.config.update("jax_numpy_rank_promotion", "raise")
