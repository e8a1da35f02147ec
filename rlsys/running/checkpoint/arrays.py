"""Orbax writes and reads the arrays of a checkpoint; meta.json describes each of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

PIECE = 32 * 2**20  # bytes; larger arrays are written and read in pieces of about this size
AT_A_TIME = 8  # pieces or arrays written or read at once, which bounds the memory that it takes


def is_key(leaf: Any) -> bool:
    """Tell whether a leaf is an array of typed random keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(path: list[str], leaf: Any) -> dict[str, Any]:
    """Describe a leaf for meta.json: path, shape, dtype; a key's impl; rows of a piece if large."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    about = {"path": path, "shape": [*leaf.shape], "dtype": str(leaf.dtype)}
    if isinstance(leaf, jax.Array) and is_key(leaf):
        about["impl"] = str(jax.random.key_impl(leaf))
    elif not is_key(leaf) and leaf.size * leaf.dtype.itemsize > PIECE:
        about["rows"] = max(1, PIECE * leaf.shape[0] // (leaf.size * leaf.dtype.itemsize))
    return about


def to_numpy(leaf: Any) -> np.ndarray:
    """Return a leaf as numpy, which can be restored on any number of devices; a key as its data."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


class _FewAtATime(ocp.type_handlers.NumpyHandler):
    """Writes a few arrays at a time, waits until they are written, and copies none before.

    Orbax would start all writes at once in one event loop. If the disk is full, the first failure
    closes that loop under the other writes, which go on in a folder that is being removed.
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

    async def _background_serialize(self, values, infos, args=None):
        """Write as Orbax does, but in every process; in Orbax only the first of several writes."""
        for value, info, arg in zip(values, infos, args, strict=True):
            await info.await_path_creation()
            spec = ocp.type_handlers.get_json_tspec_write(
                info, use_ocdbt=False, global_shape=value.shape, local_shape=value.shape,
                dtype=value.dtype, arg=arg,
            )  # fmt: skip
            await self._open_and_write(value, spec, info.ts_context)


def _orbax() -> ocp.Checkpointer:
    """Make a Checkpointer for this process alone; Orbax's own would wait for all processes."""
    handlers = ocp.type_handlers.create_type_handler_registry((np.ndarray, _FewAtATime()))
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    # OCDBT would put small arrays into fewer files, but first collects what it writes in memory.
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, type_handler_registry=handlers, multiprocessing_options=alone
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _pieces(key: str, about: dict[str, Any]) -> list[tuple[str, slice]]:
    """Name the pieces that a large array is written in, and give the rows of each.

    Orbax itself only makes chunks whose size divides the array's: an array of a prime number of
    frames would become one file per frame.
    """
    rows = about["rows"]
    return [(f"{key}/{i}", slice(i, i + rows)) for i in range(0, about["shape"][0], rows)]


def write_arrays(path: Path, arrays: dict[str, np.ndarray], about: dict[str, dict]) -> None:
    """Write arrays by key into the folder `path`; about has describe() of each."""
    pieces: dict[str, np.ndarray] = {}
    for key, array in arrays.items():
        if "rows" in about[key]:
            pieces |= {piece: array[rows] for piece, rows in _pieces(key, about[key])}
        elif array.size:  # Orbax refuses arrays without elements
            pieces[key] = array
    if pieces:
        with _orbax() as orbax:
            orbax.save(path, ocp.args.PyTreeSave(pieces))


def _reader(orbax: ocp.Checkpointer, path: Path) -> Callable:
    """Make a function that reads arrays and pieces by key."""

    def read(keys):
        item, how = dict.fromkeys(keys, 0), ocp.RestoreArgs(restore_type=np.ndarray)
        arguments = {"restore_args": dict.fromkeys(keys, how), "partial_restore": True}
        return orbax.restore(path, ocp.args.PyTreeRestore(item, **arguments)) if keys else {}

    return read


def read_arrays(path: Path, about: dict[str, dict]) -> dict[str, Any]:
    """Read the arrays that `about` describes, by key, from the folder that write_arrays made."""
    arrays = {}
    with _orbax() as orbax:
        read = _reader(orbax, path)
        for key, leaf in about.items():
            if "rows" not in leaf and 0 not in leaf["shape"]:
                continue
            arrays[key] = np.empty(leaf["shape"], leaf["dtype"])
            for rows, array in _read_pieces(read, key, leaf) if "rows" in leaf else ():
                arrays[key][rows] = array
        return arrays | read([key for key in about if key not in arrays])


def _read_pieces(read: Callable, key: str, about: dict[str, Any]) -> Iterator:
    """Read a few pieces of an array at a time; give the rows of each, and the piece."""
    pieces = _pieces(key, about)
    size = np.dtype(about["dtype"]).itemsize * np.prod([about["rows"], *about["shape"][1:]])
    number = int(max(1, AT_A_TIME * PIECE // max(size, PIECE)))
    for begin in range(0, len(pieces), number):
        few = dict(pieces[begin : begin + number])
        for piece, array in read(few).items():
            yield few[piece], array


class SavedTree(Mapping):
    """The arrays of a saved tree, by path; each is read when it is asked for, and not kept.

    So a large tree need not fit the memory beside the one that it is copied into.
    """

    def __init__(self, path: Path, table: dict[str, dict[str, Any]]):
        """path: the folder that write_arrays made; table: describe() of each leaf, by key."""
        self._path = path
        self._keys = {".".join(about["path"]): key for key, about in table.items()}
        self._table = table

    def __getitem__(self, name: str) -> np.ndarray:
        key = self._keys[name]
        return read_arrays(self._path, {key: self._table[key]})[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def copy_to(self, to: np.ndarray, name: str) -> None:
        """Copy an array into the first corner of `to`, a few pieces at a time."""
        key = self._keys[name]
        about = self._table[key]
        corner = tuple(slice(n) for n in about["shape"])
        if "rows" not in about:
            to[corner] = self[name]
            return
        with _orbax() as orbax:
            for rows, array in _read_pieces(_reader(orbax, self._path), key, about):
                to[(slice(rows.start, rows.start + len(array)), *corner[1:])] = array
