"""Finds the XML file that an EnvPool task reads, and makes folders in which it can be another one.

EnvPool reads a task's files below a folder, `base_path`, when it makes a pool. A task's settings do
not tell which file that is (Hopper-v5 says hopper.xml and reads hopper_envpool.xml). So one
environment is made, while Linux tells which files are opened (inotify).
"""

import contextlib
import ctypes
import functools
import os
import struct
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlsys.envs import envpool_settings
from rlsys.envs.options import Options
from rlsys.types import UserError

MEMORY = "/dev/shm"  # a folder in memory; a disk may take milliseconds to make a link
IN_OPEN = 0x20  # inotify(7): a file was opened


class Source(NamedTuple):
    """Says where a task's XML lies."""

    base: Path  # EnvPool's base_path
    file: Path  # the file that EnvPool reads first, relative to base


@functools.cache
def source_of(env_id: str) -> Source:
    """Returns where the XML of an EnvPool task lies. It makes one environment, once in a process.

    Raises:
      UserError: the task reads no XML, or this system cannot tell which.
    """
    base = base_path(env_id)
    with _opened(base) as opened:
        _make_one(env_id, str(base))
        found = [x for x in opened() if x.suffix == ".xml"]
    # Another process may have opened files meanwhile, so a file counts only if the task cannot be
    # made without it. A file that another one includes is not the one that is read first.
    included = {x for file in found for x in _includes(file)}
    for file in found:
        source = Source(base, file.relative_to(base))
        if file not in included and not _made_without(env_id, source):
            return source
    raise cannot_change(env_id, "it reads no XML file")


def base_path(env_id: str) -> Path:
    """Returns the folder below which an EnvPool task reads its files.

    Raises:
      UserError: it is no task of MuJoCo, or this system is not Linux.
    """
    family = envpool_settings.family_of(env_id)
    if family != "mujoco":
        raise cannot_change(env_id, f"it is of the family {family!r} and not of MuJoCo")
    if not sys.platform.startswith("linux"):
        raise cannot_change(env_id, "only Linux tells which XML file it reads")
    return Path(envpool_settings.base_path(env_id)).resolve()


def cannot_change(env_id: str, why: str) -> UserError:
    """Returns an error that says why a task's physics cannot be changed."""
    return UserError(f"the physics of {env_id!r} cannot be changed: {why}")


@contextlib.contextmanager
def folder_without(source: Source) -> Iterator[Path]:
    """Makes a folder like EnvPool's, in which the task's XML file is missing, and gives the path at
    which the caller then writes that file.

    Other folders and meshes are links to EnvPool's. Other XML files are missing too, as the file
    that is written must hold what it includes. The folder is removed at the end of the `with`, when
    EnvPool has read it.
    """
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="rlsys-", dir=memory) as folder:
        real, copied = source.base, Path(folder)
        for name in source.file.parts:
            copied.mkdir(exist_ok=True)
            beside = real.iterdir() if real != source.base else ()
            for entry in beside:
                if entry.name != name and entry.suffix not in (".xml", ".py"):
                    (copied / entry.name).symlink_to(entry)
            real, copied = real / name, copied / name
        yield copied


def _includes(file: Path) -> list[Path]:
    """Returns the files that an XML file includes."""
    found = [x.attrib.get("file", "") for x in ET.parse(file).getroot().iter("include")]
    return [(file.parent / name).resolve() for name in found]


def _made_without(env_id: str, source: Source) -> bool:
    """Returns whether a task can be made if its XML file is empty."""
    with folder_without(source) as path:
        path.write_text("")
        try:
            _make_one(env_id, str(path).removesuffix(str(source.file)))
        except UserError:
            return False
    return True


@contextlib.contextmanager
def _opened(base: Path) -> Iterator[Any]:
    """Gives a function that returns the files that were opened in the body, in order. Only folders
    below base that hold XML files are watched; see inotify(7).

    Raises:
      UserError: this system does not let them be watched.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    if watch < 0:
        raise UserError(f"inotify cannot watch files here: {os.strerror(ctypes.get_errno())}")
    folders: dict[int, Path] = {}
    try:
        for folder, _, files in os.walk(base / "mujoco"):
            if any(name.endswith(".xml") for name in files):
                number = libc.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN)
                if number < 0:
                    reason = os.strerror(ctypes.get_errno())
                    raise UserError(f"inotify cannot watch files here: {reason}")
                folders[number] = Path(folder)
        yield lambda: _events(watch, folders)
    finally:
        os.close(watch)


def _events(watch: int, folders: dict[int, Path]) -> list[Path]:
    found: list[Path] = []
    while True:
        try:
            data = os.read(watch, 1 << 16)
        except BlockingIOError:
            return list(dict.fromkeys(found))
        while data:
            folder, _, _, size = struct.unpack_from("iIII", data)
            name = data[16 : 16 + size].rstrip(b"\0")
            found += [folders[folder] / os.fsdecode(name)] if folder in folders else []
            data = data[16 + size :]


def _make_one(env_id: str, base: str) -> None:
    pool = envpool_settings.make_pool(env_id, 1, [0], Options(), 1, False, base_path=base)
    pool.reset()
