"""Checkpoints on disk: whole or not there, each file known by its checksum.

A folder of checkpoints holds one folder per checkpoint, named by its number:

    12/trees/<name>/...   the arrays of one tree, written by Orbax (Composite of PyTreeSave)
    12/meta.json          the caller's meta, and path, shape and dtype of every leaf
    12/manifest.json      size and CRC-32 of every other file; written last

Orbax's `CheckpointManager` lets a checkpoint count before a manifest could be put into it, and
neither it nor the formats below it notice a flipped bit in an uncompressed array. So Orbax
writes into the folder `saving`, which gets its manifest, goes to the disk and is then renamed.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

FORMAT = "rlsys checkpoint 1"
CHUNK = 64 * 2**20  # bytes written, compressed and summed at a time


class CheckpointError(ValueError):
    """What is wrong with a checkpoint, in one sentence that names the file or folder."""


class _Damaged(CheckpointError):
    """A checkpoint whose files are not what was written: an older one may be good."""


class Checkpoints:
    """The checkpoints of one run; one process at a time may save, any number may read."""

    def __init__(self, directory: str | os.PathLike, keep: int = 3):
        """Touches nothing on disk. keep: how many checkpoints remain, at least 1."""
        if keep < 1:
            raise ValueError(f"keep is {keep} but at least 1 checkpoint must be kept.")
        self.directory = Path(directory).absolute()
        self.keep = keep
        logging.getLogger("absl").addFilter(_not_orbax)

    def numbers(self) -> list[int]:
        """The checkpoints that are there, oldest first; [] without a folder."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def save(self, number: int, trees: dict[str, Any], meta: dict) -> None:
        """Writes trees and meta, then removes what is older than the newest `keep`.

        Checkpoints with a larger number go too: they are of a future that was taken back when
        the run resumed from an older one. Killed at any moment, this leaves every older
        checkpoint as it was.

        Args:
            number: of the checkpoint, at least 0; one of the same number is replaced.
            trees: by name, pytrees of numpy arrays, jax arrays that are whole on this host, and
                typed random keys. Names are single path components.
            meta: anything that JSON holds.
        Raises:
            CheckpointError: the disk is full or not writable; nothing half-written stays.
        """
        leaves = {name: _leaves(name, tree) for name, tree in trees.items()}
        tables = {
            name: {key: _describe(path, leaf) for key, (path, leaf) in table.items()}
            for name, table in leaves.items()
        }
        arrays = {
            name: {key: _host(leaf) for key, (_, leaf) in table.items() if np.size(leaf)}
            for name, table in leaves.items()
        }
        text = json.dumps({"meta": meta, "trees": tables})
        saving, final = self.directory / "saving", self.directory / str(number)
        try:
            self._clear("saving")
            saving.mkdir(parents=True)
            _write_arrays(saving / "trees", arrays)
            (saving / "meta.json").write_text(text)
            files = {
                path.relative_to(saving).as_posix(): _checksum(path) for path in _files(saving)
            }
            (saving / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": files}))
            _sync(saving)
            if final.exists():
                self._remove(number)
            saving.rename(final)
            _sync_path(self.directory)
            older = [n for n in self.numbers() if n <= number]
            for n in self.numbers():
                if n not in older[-self.keep :]:
                    self._remove(n)
        except Exception as error:
            self._clear("saving")
            raise CheckpointError(f"Could not save {final}: {_reason(error)}.") from error
        except BaseException:
            self._clear("saving")
            raise

    def restore(
        self, templates: dict[str, Any], say: Callable[[str], None] = print
    ) -> tuple[int, dict[str, Any], dict]:
        """Reads the newest checkpoint that is whole: (number, trees, meta).

        Args:
            templates: by name, what to restore. A pytree (of arrays or ShapeDtypeStructs) gives
                structure, shapes and dtypes, which must be those saved; None takes the tree
                as it was saved, as nested dicts. Names that are not asked for are not read.
            say: told, in one sentence, of each damaged checkpoint that was passed over.
        Returns:
            Trees of numpy arrays (writable) and, where there were any, typed random keys.
        Raises:
            CheckpointError: there is none, none is whole, or the newest whole one does not fit.
        """
        number = self._newest([*templates], say)
        path = self.directory / str(number)
        content = json.loads((path / "meta.json").read_text())
        for name, template in templates.items():
            if name not in content["trees"]:
                raise CheckpointError(f"{path} holds {[*content['trees']]} but no {name!r}.")
            if template is not None:
                _check_fit(path, content["trees"][name], _leaves(name, template))
        arrays = _read_arrays(path / "trees", [*templates])
        trees = {
            name: _build(name, template, content["trees"][name], arrays.get(name, {}))
            for name, template in templates.items()
        }
        return number, trees, content["meta"]

    def meta(self, number: int | None = None) -> dict:
        """The meta of one checkpoint, or of the newest good one, without its arrays."""
        if number is None:
            number = self._newest([], say=lambda message: None)
        else:
            _verify(self.directory / str(number), [])
        return json.loads((self.directory / str(number) / "meta.json").read_text())["meta"]

    def _newest(self, names: list[str], say: Callable[[str], None]) -> int:
        """The newest checkpoint whose files are whole, as far as they hold meta and `names`."""
        damage: list[str] = []
        for number in reversed(self.numbers()):
            try:
                _verify(self.directory / str(number), names)
            except _Damaged as error:
                damage.append(str(error).rstrip("."))
                continue
            for message in damage:
                say(f"{message}; checkpoint {number} is taken instead.")
            return number
        if damage:
            raise CheckpointError(f"No checkpoint in {self.directory} is whole: {damage[0]}.")
        if not self.directory.is_dir():
            raise CheckpointError(f"There is no folder of checkpoints {self.directory}.")
        others = sorted(path.name for path in self.directory.iterdir())[:3]
        raise CheckpointError(
            f"There is no checkpoint in {self.directory}"
            + (f", only {', '.join(others)}." if others else ", which is empty.")
        )

    def _remove(self, number: int) -> None:
        """Removes a checkpoint; it stops counting at once, whenever this is killed."""
        self._clear("removing")
        (self.directory / str(number)).rename(self.directory / "removing")
        self._clear("removing")

    def _clear(self, name: str) -> None:
        shutil.rmtree(self.directory / name, ignore_errors=True)


def _leaves(name: str, tree: Any) -> dict[str, tuple[list[str], Any]]:
    """The leaves of a tree by 'name/path/to/leaf': (path, leaf).

    Paths are the same for a NamedTuple, a dict with its fields and what Orbax makes of them.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
        key = "/".join([name, *parts])
        if key in leaves:
            raise ValueError(f"Two leaves of the tree {name!r} have the name {key!r}.")
        leaves[key] = (parts, leaf)
    return leaves


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(path: list[str], leaf: Any) -> dict:
    """What the checkpoint remembers of a leaf beside its values."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    about = {"path": path, "shape": list(np.shape(leaf)), "dtype": str(dtype)}
    return about | ({"impl": str(jax.random.key_impl(leaf))} if _is_key(leaf) else {})


def _host(leaf: Any) -> np.ndarray:
    """A leaf as a numpy array, which Orbax restores on any number of devices, in any dtype."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _check_fit(path: Path, saved: dict[str, dict], wanted: dict[str, tuple]) -> None:
    """Raises CheckpointError at the first leaf that differs in place, shape or dtype."""
    for key in [*wanted, *saved]:
        here = "nothing"
        if key in wanted:
            leaf = wanted[key][1]
            dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
            here = f"{dtype}{list(np.shape(leaf))}"
        there = f"{saved[key]['dtype']}{saved[key]['shape']}" if key in saved else "nothing"
        if here != there:
            raise CheckpointError(
                f"{path} was saved by another algorithm or network: "
                f"{key} is {there} in it but {here} here."
            )


def _build(name: str, template: Any, table: dict[str, dict], arrays: dict[str, np.ndarray]) -> Any:
    """The tree of one name from its arrays; nested dicts where there is no template."""
    leaves = {}
    for key, about in table.items():
        # Orbax stores no array without elements, so these are made anew.
        leaf = arrays[key] if key in arrays else np.zeros(about["shape"], about["dtype"])
        leaves[key] = (
            jax.random.wrap_key_data(leaf, impl=about["impl"]) if "impl" in about else leaf
        )
    if template is not None:
        order = _leaves(name, template)
        return jax.tree.unflatten(jax.tree.structure(template), [leaves[key] for key in order])
    tree: dict = {}
    for key, about in table.items():
        node = tree
        for part in about["path"][:-1]:
            node = node.setdefault(part, {})
        node[about["path"][-1]] = leaves[key]
    return tree


def _checkpointer(names) -> ocp.Checkpointer:
    """Orbax for these trees. Saving is synchronous, so the arrays need no protecting copy."""
    numpy_only = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    handlers = {
        name: ocp.PyTreeCheckpointHandler(type_handler_registry=numpy_only) for name in names
    }
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))


def _write_arrays(path: Path, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    arrays = {name: table for name, table in arrays.items() if table}  # Orbax refuses empty trees
    chunked = ocp.SaveArgs(chunk_byte_size=CHUNK)
    items = {
        name: ocp.args.PyTreeSave(table, save_args=dict.fromkeys(table, chunked))
        for name, table in arrays.items()
    }
    with _checkpointer(items) as checkpointer:
        checkpointer.save(path, ocp.args.Composite(**items))


def _read_arrays(path: Path, names: list[str]) -> dict[str, dict[str, np.ndarray]]:
    items = {name: ocp.args.PyTreeRestore() for name in names if (path / name).exists()}
    with _checkpointer(items) as checkpointer:
        return dict(checkpointer.restore(path, ocp.args.Composite(**items)).items())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _checksum(path: Path) -> list[int]:
    """[size in bytes, CRC-32] of a file. CRC-32: 2 GB/s here, four times as fast as BLAKE2b."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _verify(path: Path, names: list[str]) -> None:
    """Raises _Damaged unless the files for meta and the trees `names` are those written."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        files, form = manifest["files"], manifest["format"]
    except FileNotFoundError:
        raise _Damaged(f"{path} has no manifest.json, so rlsys did not write it.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{path / 'manifest.json'} is damaged ({_reason(error)}).") from error
    if form != FORMAT:
        raise _Damaged(f"{path / 'manifest.json'} is of the format {form!r}, not {FORMAT!r}.")
    for file, written in files.items():
        parts = Path(file).parts
        if parts[0] == "trees" and len(parts) > 2 and parts[1] not in names:
            continue
        try:
            found = _checksum(path / file)
        except OSError as error:
            raise _Damaged(f"{path / file} cannot be read ({error.strerror}).") from error
        if found[0] != written[0]:
            raise _Damaged(f"{path / file} has {found[0]} bytes but {written[0]} were written.")
        if found != written:
            raise _Damaged(f"{path / file} is damaged: its checksum is not the one written.")


def _sync(folder: Path) -> None:
    """Files, then the folders that name them, go to the disk before the rename can."""
    for path in [*_files(folder), *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _sync_path(path)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The first line of an error, without the full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _not_orbax(record: logging.LogRecord) -> bool:
    """A filter for absl's logger: Orbax warns of what is meant and repeats what is raised."""
    return "orbax" not in Path(record.pathname).parts
