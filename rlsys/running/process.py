"""A process of rlsys's own is set up: its cache, its numbers, its memory.

A program may do this and an import may not.
"""

import ctypes
import logging
import os
import sys
from pathlib import Path

import jax

from rlsys.types import UserError


def prepare() -> None:
    """Set up the process.

    Compiled programs are kept from one start to the next, also the small ones, of which a start
    has dozens. Numbers have 32 bits, also where JAX_ENABLE_X64 asks for 64, which is said. Memory
    that XLA frees stays with the process: given back at every call, it is faulted in again at the
    next, a third of the time of a convolutional network's update on CPU.
    """
    if cache := cache_folder():
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.config.read("jax_enable_x64"):
        jax.config.update("jax_enable_x64", False)
        print("JAX_ENABLE_X64 is ignored: rlsys computes in 32 bits.", file=sys.stderr)
    # EnvPool imports it, and it warns where its folder belongs to another user.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; malloc.h
        m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8
        libc.mallopt(m_arena_max, 1)  # the settings below do not reach the arenas of other threads
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 256 * 2**20)


def check_32_bits() -> None:
    """Raise UserError if a program has turned on numbers of 64 bits, in which nothing here is meant
    to be computed: half of it would double silently, and some would not compile."""
    here = jax.numpy.result_type(float).itemsize > 4
    if here or jax.config.read("jax_enable_x64"):  # of all threads
        raise UserError(
            "rlsys trains in 32 bits, and jax_enable_x64 is on: "
            'jax.config.update("jax_enable_x64", False) before training turns it off'
        )


def cache_folder() -> Path | None:
    """Make the folder for compiled programs; None where there is no home, or none to write to."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "rlsys"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # Path.home() raises the second
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
