"""The checkpoints of a run: saved whole or not at all, the newest good one restored."""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlsys.running.checkpoint.arrays import describe, read_arrays, to_numpy, write_arrays
from rlsys.running.checkpoint.manifest import (
    FORMAT,
    CheckpointError,
    Damaged,
    checksum,
    sync,
    verify,
)


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
                tables[name][key] = describe(place, leaf)
                arrays[key] = to_numpy(leaf)
        about = {key: leaf for table in tables.values() for key, leaf in table.items()}
        text = json.dumps({"meta": meta, "trees": tables})
        final = self.directory / str(number)
        saving = self.directory / f"saving-{time.time_ns()}"
        try:
            self._remove_remains()
            saving.mkdir(parents=True)
            write_arrays(saving / "trees", arrays, about)
            (saving / "meta.json").write_text(text)
            written = [path for path in saving.rglob("*") if path.is_file()]
            files = {path.relative_to(saving).as_posix(): checksum(path) for path in written}
            (saving / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": files}))
            for path in [*saving.rglob("*"), saving]:
                sync(path)
            if final.exists():
                self._remove(number)
            saving.rename(final)
            sync(self.directory)
            kept = [n for n in self.numbers() if n <= number][-self.keep :]
            for other in set(self.numbers()) - set(kept):
                self._remove(other)
        except BaseException as error:
            shutil.rmtree(saving, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            raise CheckpointError(f"{final} could not be saved: {_reason(error)}.") from error

    def restore(
        self,
        templates: dict[str, Any],
        number: int | None = None,
        say: Callable[[str], None] = print,
    ) -> tuple[int, dict[str, Any], dict]:
        """Reads a checkpoint: (number, trees, meta).

        Args:
            templates: by name, what to read; the files of other names are not touched. A pytree
                of arrays or ShapeDtypeStructs gives the structure, shapes and dtypes that must
                have been saved. None takes a tree as it is there, as nested dicts.
            number: of the checkpoint, as newest gave it; the newest whole one if None.
            say: is told, in one sentence, of each damaged checkpoint that was passed over.
        Returns:
            Trees of numpy arrays, writable, and of typed random keys.
        Raises:
            CheckpointError: there is no checkpoint, none is whole, or the newest does not fit.
        """
        number = self.newest([*templates], say) if number is None else number
        path = self.directory / str(number)
        content = json.loads((path / "meta.json").read_text())
        for name, template in templates.items():
            if name not in content["trees"]:
                raise CheckpointError(f"{path} holds {', '.join(content['trees'])}, but no {name}.")
            if template is not None:
                _check_fit(path, content["trees"][name], _leaves(name, template))
        about = {k: a for name in templates for k, a in content["trees"][name].items()}
        leaves = read_arrays(path / "trees", about)
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

    def meta(self, number: int) -> dict:
        """The meta of a checkpoint, read without its arrays."""
        verify(self.directory / str(number), [])
        return json.loads((self.directory / str(number) / "meta.json").read_text())["meta"]

    def newest(
        self, names: list[str], say: Callable[[str], None] = print, at_most: int | None = None
    ) -> int:
        """The newest checkpoint that is whole as far as meta and the trees `names` go.

        Args:
            at_most: those of larger numbers are passed over.
            say: is told, in one sentence, of each damaged one that was passed over.
        Raises:
            CheckpointError: there is none, or none is whole.
        """
        damage: list[str] = []
        for number in reversed(self.numbers()):
            if at_most is not None and number > at_most:
                continue
            try:
                verify(self.directory / str(number), names)
            except Damaged as error:
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


def _check_fit(path: Path, saved: dict[str, dict], wanted: dict[str, tuple]) -> None:
    """Raises CheckpointError at the first leaf that differs in place, shape or dtype."""

    def text(about):
        return f"{about['dtype']}{about['shape']}"

    for key in wanted | saved:
        there = text(saved[key]) if key in saved else "not there"
        here = text(describe(*wanted[key])) if key in wanted else "not there"
        if here != there:
            raise CheckpointError(
                f"{path} does not fit this run's algorithm, network or environments: "
                f"{key} is {there} in it, but {here} in this run."
            )


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
