"""Checkpoints: bundles that are whole, verified before use, and never pickled."""

from markovae.checkpoint.manifest import CheckpointError, verify_bundle
from markovae.checkpoint.reading import Checkpoint, load, newest_checkpoint, open_checkpoint, read_checkpoint
from markovae.checkpoint.writing import checkpoint_name, export_weights, prune, save_checkpoint, set_aside

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "checkpoint_name",
    "export_weights",
    "load",
    "newest_checkpoint",
    "open_checkpoint",
    "prune",
    "read_checkpoint",
    "save_checkpoint",
    "set_aside",
    "verify_bundle",
]
