"""Checkpoints on disk: each is whole or not there, and every byte of it is checked when read.

A folder of checkpoints holds one folder per checkpoint, named by its number:

    12/trees/<name>/<path>/...  the arrays, written by Orbax (zarr, compressed)
    12/meta.json                the caller's meta; place, shape and dtype of every leaf
    12/manifest.json            size and CRC-32 of every other file

Orbax restores an array with flipped bits without a word (60 of 60 tries), so each file has its
checksum here; and its CheckpointManager lets a checkpoint count before that could be added. So
Orbax's Checkpointer writes into a folder of another name, which is renamed when it is complete.
"""

from rlsys.running.checkpoint.checkpoints import Checkpoints
from rlsys.running.checkpoint.manifest import CheckpointError

__all__ = ["CheckpointError", "Checkpoints"]
