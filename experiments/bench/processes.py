"""Run a section, or a part of it, in a process of its own, which has its memory to itself."""

import importlib
import multiprocessing
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from experiments.bench.figures import Figure
from rlsys.running import process

T = TypeVar("T")


def stream(function: Callable[..., Iterator[T]], *args: object) -> Iterator[T]:
    """Yield what function(*args) yields in a fresh process, each as soon as it comes.

    Raises:
      RuntimeError: the process failed; its traceback is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, args))
    process.start()
    sender.close()  # then the process holds the only one, and its end is the end of the stream
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            break
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__}{args} failed with exit code {process.exitcode}")


def _send(sender: Any, function: Callable, args: tuple) -> None:
    process.prepare()
    for item in function(*args):
        sender.send(item)


def peak_memory() -> float:
    """Return the most memory that this process has held at once, in MB."""
    status = Path("/proc/self/status").read_text()  # getrusage counts the parent's before exec, too
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def measure(section: str, quick: bool) -> Iterator[Figure]:
    """Yield a section's figures as they come, then the memory that they took."""
    yield from importlib.import_module(f"experiments.bench.{section}").figures(quick)
    yield Figure(section, "peak memory", "of this section", "MB", [peak_memory()])
