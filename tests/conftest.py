"""Every test sees 4 simulated CPU devices and strict rank promotion."""

import os
import signal
import subprocess

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
# Most of the tests' time is XLA's compilation, so here it does not optimise the machine code.
# `make test-slow` has it optimised, as training has.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from rlsys.running import process

process.prepare()  # the cache of compiled programs, above all
# Programs that are started in the background ignore these signals, and so do those they start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def no_program_outlives_its_test(monkeypatch):
    """A test that fails leaves no program behind that would slow the others."""
    started, begin = [], subprocess.Popen.__init__

    def recorded(self, *words, **options):
        begin(self, *words, **options)
        started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", recorded)
    yield
    for program in started:
        if program.poll() is None:
            program.kill()
            program.wait()
