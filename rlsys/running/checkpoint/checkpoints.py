"""A run saves each checkpoint whole or not at all, and restores the newest good one."""

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

from rlsys.running.checkpoint.arrays import SavedTree, describe, read_arrays, to_numpy, write_arrays
from rlsys.running.checkpoint.manifest import (
    FORMAT,
    CheckpointError,
    Damaged,
    checksum,
    sync,
    verify,
)


class Checkpoints:
    """Saves and restores the checkpoints of one run. One process may save, any number may read."""

    def __init__(self, directory: str | os.PathLike, keep: int = 3):
        """Touch nothing on disk. keep: number of the newest checkpoints that stay, at least 1."""
        if keep < 1:
            raise ValueError(f"keep is {keep}, but at least 1 checkpoint must be kept.")
        self.directory = Path(directory).absolute()
        self.keep = keep
        logging.getLogger("absl").addFilter(_not_orbax)

    def numbers(self) -> list[int]:
        """List the numbers of the checkpoints that are there, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def save(self, number: int, trees: dict[str, Any], meta: dict) -> None:
        """Write a checkpoint, then remove those older than the newest `keep`.

        Checkpoints of larger numbers are removed too: they were written before the run went back to
        an older one. A kill at any moment leaves the older checkpoints as they were.

        Args:
            number: number of the checkpoint, at least 0; an older one of this number is replaced.
            trees: by name, pytrees of numpy arrays, typed random keys, and jax arrays of which
                this host has every part.
            meta: anything that JSON can hold.
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
        """Read a checkpoint.

        Args:
            templates: the trees to read, by name; files of other trees are not touched. A pytree of
                arrays or ShapeDtypeStructs gives the structure, shapes and dtypes that must have
                been saved. None reads the tree as it was saved, as nested dicts.
            number: number of the checkpoint, from newest(); the newest whole one if None.
            say: is called with a sentence for each damaged checkpoint that was passed over.
        Returns:
            number, trees and meta. Trees have writable numpy arrays and typed random keys.
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

    def saved_tree(self, name: str, number: int) -> SavedTree:
        """Open one tree of a checkpoint, whose arrays are read when they are asked for.

        Args:
            name: name of the tree.
            number: number of the checkpoint, from newest().
        Raises:
            CheckpointError: it holds no such tree.
        """
        path = self.directory / str(number)
        trees = json.loads((path / "meta.json").read_text())["trees"]
        if name not in trees:
            raise CheckpointError(f"{path} holds {', '.join(trees)}, but no {name}.")
        return SavedTree(path / "trees", trees[name])

    def meta(self, number: int) -> dict:
        """Read the meta of a checkpoint without its arrays."""
        verify(self.directory / str(number), [])
        return json.loads((self.directory / str(number) / "meta.json").read_text())["meta"]

    def newest(
        self, names: list[str], say: Callable[[str], None] = print, at_most: int | None = None
    ) -> int:
        """Find the newest checkpoint whose meta and trees `names` are whole.

        Args:
            names: names of the trees that are needed; one that it does not hold counts as whole.
            say: is called with a sentence for each damaged checkpoint that was passed over.
            at_most: largest number that may be returned.
        Returns:
            the number of the checkpoint.
        Raises:
            CheckpointError: there is no checkpoint, or none is whole.
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
        """Remove a checkpoint; it is renamed first, so that half of it never counts as one."""
        removing = self.directory / f"removing-{time.time_ns()}"
        (self.directory / str(number)).rename(removing)
        shutil.rmtree(removing)

    def _remove_remains(self) -> None:
        """Remove what a failed or killed save has left."""
        for pattern in ("saving-*", "removing-*"):
            for path in self.directory.glob(pattern):
                shutil.rmtree(path)


def _leaves(name: str, tree: Any) -> dict[str, tuple[list[str], Any]]:
    """Map 'name/path/to/leaf' to the path, as a list, and the leaf.

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
    """Build nested dicts from paths and their leaves."""
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
    """Raise CheckpointError at the first leaf that differs in place, shape or dtype."""

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
    """Give the reason of an error: the operating system's if it has one, else its first line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _not_orbax(record: logging.LogRecord) -> bool:
    """Drop Orbax's records from absl's log: it warns of what is meant and logs what it raises."""
    return "orbax" not in Path(record.pathname).parts
