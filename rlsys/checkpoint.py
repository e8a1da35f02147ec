"""Checkpoints on disk: each is whole or not there, and every byte of it is checked when read.

A folder of checkpoints holds one folder per checkpoint, named by its number:

    12/trees/<name>/<path>/...  the arrays, written by Orbax (zarr, compressed)
    12/meta.json                the caller's meta; place, shape and dtype of every leaf
    12/manifest.json            size and CRC-32 of every other file

Orbax restores an array with flipped bits without a word (60 of 60 tries), so each file has its
checksum here; and its CheckpointManager lets a checkpoint count before that could be added. So
Orbax's Checkpointer writes into a folder of another name, which is renamed when it is complete.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rlsys.types import UserError

FORMAT = "rlsys checkpoint 1"
PIECE = 32 * 2**20  # bytes; larger arrays are written and read in pieces of about this size
AT_A_TIME = 8  # pieces or arrays that are in the making, which bounds the memory that it takes


class CheckpointError(UserError):
    """What is wrong with a checkpoint, in one sentence that names the file or folder."""


class _Damaged(CheckpointError):
    """The files of a checkpoint are not those written; an older checkpoint may be good."""


class Checkpoints:
    """The checkpoints of one run. One process may save at a time, any number may read."""

    def __init__(self, directory: str | os.PathLike, keep: int = 3):
        """Touches nothing on disk. keep: how many of the newest checkpoints stay, at least 1."""
        if keep < 1:
            raise ValueError(f"keep is {keep}, but at least 1 checkpoint must be kept.")
        self.directory = Path(directory).absolute()
        self.keep = keep
        logging.getLogger("absl").addFilter(_not_orbax)

    def numbers(self) -> list[int]:
        """The checkpoints that are there, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def save(self, number: int, trees: dict[str, Any], meta: dict) -> None:
        """Writes a checkpoint, then removes those older than the newest `keep`.

        Those of larger numbers go too: they are of a future that was taken back when the run
        went on from an older checkpoint. A kill at any moment leaves the older ones as they were.

        Args:
            number: of the checkpoint, at least 0; one of the same number is replaced.
            trees: by name, pytrees of numpy arrays, typed random keys, and jax arrays of which
                this host has every part.
            meta: anything that JSON holds.
        Raises:
            CheckpointError: the disk is full or not writable; nothing half-written stays.
        """
        tables: dict[str, dict] = {name: {} for name in trees}
        arrays = {}
        for name, tree in trees.items():
            for key, (place, leaf) in _leaves(name, tree).items():
                tables[name][key] = _about(place, leaf)
                arrays[key] = _to_numpy(leaf)
        about = {key: leaf for table in tables.values() for key, leaf in table.items()}
        text = json.dumps({"meta": meta, "trees": tables})
        final = self.directory / str(number)
        saving = self.directory / f"saving-{time.time_ns()}"
        try:
            self._remove_remains()
            saving.mkdir(parents=True)
            _write_arrays(saving / "trees", arrays, about)
            (saving / "meta.json").write_text(text)
            written = [path for path in saving.rglob("*") if path.is_file()]
            files = {path.relative_to(saving).as_posix(): _sum(path) for path in written}
            (saving / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": files}))
            for path in [*saving.rglob("*"), saving]:
                _sync(path)
            if final.exists():
                self._remove(number)
            saving.rename(final)
            _sync(self.directory)
            kept = [n for n in self.numbers() if n <= number][-self.keep :]
            for other in set(self.numbers()) - set(kept):
                self._remove(other)
        except BaseException as error:
            shutil.rmtree(saving, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            raise CheckpointError(f"{final} could not be saved: {_reason(error)}.") from error

    def restore(
        self, templates: dict[str, Any], say: Callable[[str], None] = print
    ) -> tuple[int, dict[str, Any], dict]:
        """Reads the newest whole checkpoint: (number, trees, meta).

        Args:
            templates: by name, what to read; the files of other names are not touched. A pytree
                of arrays or ShapeDtypeStructs gives the structure, shapes and dtypes that must
                have been saved. None takes a tree as it is there, as nested dicts.
            say: is told, in one sentence, of each damaged checkpoint that was passed over.
        Returns:
            Trees of numpy arrays, writable, and of typed random keys.
        Raises:
            CheckpointError: there is no checkpoint, none is whole, or the newest does not fit.
        """
        number = self._newest([*templates], say)
        path = self.directory / str(number)
        content = json.loads((path / "meta.json").read_text())
        for name, template in templates.items():
            if name not in content["trees"]:
                raise CheckpointError(f"{path} holds {', '.join(content['trees'])}, but no {name}.")
            if template is not None:
                _check_fit(path, content["trees"][name], _leaves(name, template))
        about = {k: a for name in templates for k, a in content["trees"][name].items()}
        leaves = _read_arrays(path / "trees", about)
        for key in about:
            if "impl" in about[key]:
                data = jnp.asarray(leaves[key])
                leaves[key] = jax.random.wrap_key_data(data, impl=about[key]["impl"])
        trees = {}
        for name, template in templates.items():
            if template is None:
                table = content["trees"][name]
                trees[name] = _nest([(table[key]["path"], leaves[key]) for key in table])
            else:
                ordered = [leaves[key] for key in _leaves(name, template)]
                trees[name] = jax.tree.unflatten(jax.tree.structure(template), ordered)
        return number, trees, content["meta"]

    def meta(self, number: int | None = None) -> dict:
        """The meta of a checkpoint, or of the newest good one, read without its arrays."""
        if number is None:
            number = self._newest([], say=lambda message: None)
        _verify(self.directory / str(number), [])
        return json.loads((self.directory / str(number) / "meta.json").read_text())["meta"]

    def _newest(self, names: list[str], say: Callable[[str], None]) -> int:
        """The newest checkpoint that is whole as far as meta and the trees `names` go."""
        damage: list[str] = []
        for number in reversed(self.numbers()):
            try:
                _verify(self.directory / str(number), names)
            except _Damaged as error:
                damage.append(str(error).removesuffix("."))
                continue
            for sentence in damage:
                say(f"{sentence}; checkpoint {number} is taken instead.")
            return number
        if damage:
            raise CheckpointError(f"No checkpoint in {self.directory} is whole: {damage[0]}.")
        if not self.directory.is_dir():
            raise CheckpointError(f"There is no folder {self.directory} to take a checkpoint from.")
        others = ", ".join(sorted(path.name for path in self.directory.iterdir())[:3])
        there = f"only {others}" if others else "it is empty"
        raise CheckpointError(f"There is no checkpoint in {self.directory}, {there}.")

    def _remove(self, number: int) -> None:
        """Removes a checkpoint, which counts no more from the first moment on."""
        removing = self.directory / f"removing-{time.time_ns()}"
        (self.directory / str(number)).rename(removing)
        shutil.rmtree(removing)

    def _remove_remains(self) -> None:
        """Removes what a save that failed or was killed has left."""
        for pattern in ("saving-*", "removing-*"):
            for path in self.directory.glob(pattern):
                shutil.rmtree(path)


def _leaves(name: str, tree: Any) -> dict[str, tuple[list[str], Any]]:
    """By 'name/path/to/leaf', the path as a list and the leaf.

    A NamedTuple and a dict of its fields give the same paths.
    """
    leaves = {}
    for entries, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = [jax.tree_util.keystr((entry,), simple=True) for entry in entries]
        key = "/".join([name, *path])
        if key in leaves:
            raise ValueError(f"Two leaves of the tree {name!r} are called {key!r}.")
        leaves[key] = (path, leaf)
    return leaves


def _nest(leaves: list[tuple[list[str], Any]]) -> Any:
    """Nested dicts of leaves from their paths."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves:
        if not path:
            return leaf
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return tree


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _about(path: list[str], leaf: Any) -> dict[str, Any]:
    """What a checkpoint says of a leaf beside its values."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    about = {"path": path, "shape": [*leaf.shape], "dtype": str(leaf.dtype)}
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        about["impl"] = str(jax.random.key_impl(leaf))
    elif not _is_key(leaf) and leaf.size * leaf.dtype.itemsize > PIECE:
        about["rows"] = max(1, PIECE * leaf.shape[0] // (leaf.size * leaf.dtype.itemsize))
    return about


def _to_numpy(leaf: Any) -> np.ndarray:
    """As numpy, values of every dtype come back as they were, on any number of devices."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _check_fit(path: Path, saved: dict[str, dict], wanted: dict[str, tuple]) -> None:
    """Raises CheckpointError at the first leaf that differs in place, shape or dtype."""

    def text(about):
        return f"{about['dtype']}{about['shape']}"

    for key in wanted | saved:
        there = text(saved[key]) if key in saved else "not there"
        here = text(_about(*wanted[key])) if key in wanted else "not there"
        if here != there:
            raise CheckpointError(
                f"{path} was saved by another algorithm or network: "
                f"{key} is {there} in it, but {here} in this run."
            )


class _FewAtATime(ocp.type_handlers.NumpyHandler):
    """Writes a few arrays at a time, each to its end, and without copying them before.

    Orbax would start all at once in one event loop. When the disk is full the first failure
    closes that loop under the other writes, which go on in the folder that is being removed.
    """

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values, infos, args=None):
        ones = [*zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True)]
        for begin in range(0, len(ones), AT_A_TIME):
            with contextlib.ExitStack() as wait_for_all:
                for one in ones[begin : begin + AT_A_TIME]:
                    for future in await super().serialize(*([x] for x in one)):
                        wait_for_all.callback(future.result)
        return []


def _orbax() -> ocp.Checkpointer:
    handlers = ocp.type_handlers.create_type_handler_registry((np.ndarray, _FewAtATime()))
    # OCDBT would put small arrays into fewer files, but first collects what it writes in memory.
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=handlers)
    )


def _pieces(key: str, about: dict[str, Any]) -> list[tuple[str, slice]]:
    """The names and rows of the arrays that Orbax writes for a large one of ours.

    Orbax itself only makes chunks whose size divides the array's: an array of a prime number
    of frames would become one file per frame.
    """
    rows = about["rows"]
    return [(f"{key}/{i}", slice(i, i + rows)) for i in range(0, about["shape"][0], rows)]


def _write_arrays(path: Path, arrays: dict[str, np.ndarray], about: dict[str, dict]) -> None:
    pieces: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        if "rows" in about[key]:
            pieces |= {piece: array[rows] for piece, rows in _pieces(key, about[key])}
        elif array.size:  # Orbax refuses arrays without elements
            pieces[key] = array
    if pieces:
        with _orbax() as orbax:
            orbax.save(path, ocp.args.PyTreeSave(pieces))


def _read_arrays(path: Path, about: dict[str, dict]) -> dict[str, Any]:
    arrays = {}
    with _orbax() as orbax:

        def read(keys):
            item, how = dict.fromkeys(keys, 0), ocp.RestoreArgs(restore_type=np.ndarray)
            arguments = {"restore_args": dict.fromkeys(keys, how), "partial_restore": True}
            return orbax.restore(path, ocp.args.PyTreeRestore(item, **arguments)) if keys else {}

        for key, leaf in about.items():
            if "rows" not in leaf and 0 not in leaf["shape"]:
                continue
            arrays[key] = np.empty(leaf["shape"], leaf["dtype"])
            pieces = _pieces(key, leaf) if "rows" in leaf else []
            for begin in range(0, len(pieces), AT_A_TIME):
                few = dict(pieces[begin : begin + AT_A_TIME])
                for piece, array in read(few).items():
                    arrays[key][few[piece]] = array
        return arrays | read([key for key in about if key not in arrays])


def _sum(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file; 2 GB/s, four times as fast as BLAKE2b."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _verify(path: Path, names: list[str]) -> None:
    """Raises _Damaged unless the files of meta and of the trees `names` are those written."""
    manifest = path / "manifest.json"
    try:
        content = json.loads(manifest.read_text())
        if content["format"] != FORMAT:
            raise _Damaged(f"{manifest} is of the format {content['format']}, not {FORMAT}.")
        for file, written in content["files"].items():
            # Orbax's own files lie beside the folders of the trees, and are always read.
            place = file.split("/")
            if place[0] == "trees" and len(place) > 2 and place[1] not in names:
                continue
            found = _sum(path / file)
            if found[0] != written[0]:
                raise _Damaged(f"{path / file} has {found[0]} bytes, not the {written[0]} written.")
            if found != written:
                raise _Damaged(f"{path / file} is damaged: its checksum is not the one written.")
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(path)
        raise _Damaged(f"{path} is no whole checkpoint of rlsys: it has no {missing}.") from error
    except OSError as error:
        raise _Damaged(f"{error.filename or path} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _Damaged(f"{manifest} is damaged: it is not the JSON that was written.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """The operating system's word for an error where there is one, or else its first line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _not_orbax(record: logging.LogRecord) -> bool:
    """A filter for absl's logger: Orbax warns of what is meant and logs what it raises as well."""
    return "orbax" not in Path(record.pathname).parts
