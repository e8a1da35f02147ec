"""A checkpoint on disk is whole or not there, and every byte of it is checked when it is read.

A folder of checkpoints holds one folder per checkpoint, named by its number:

    12/trees/<name>/<path>/...  the arrays, written by Orbax (zarr, compressed)
    12/meta.json                the caller's meta; path, shape and dtype of every leaf
    12/manifest.json            size and CRC-32 of every other file

Orbax alone restores an array with flipped bits without a word (60 of 60 tries), so the manifest has
a checksum of each file. Orbax's CheckpointManager would count a checkpoint as complete before the
manifest is there. So its Checkpointer writes into a folder of another name, which is renamed when
the checkpoint is complete.
"""

from rlsys.running.checkpoint.checkpoints import Checkpoints
from rlsys.running.checkpoint.manifest import CheckpointError

__all__ = ["CheckpointError", "Checkpoints"]
