"""Checkpoint files of every framework as a `Checkpoint` with its ConvE."""

from tracin.checkpoints.load import Checkpoint, load_checkpoint, load_model
from tracin.checkpoints.save import save_checkpoint

__all__ = ["Checkpoint", "load_checkpoint", "load_model", "save_checkpoint"]
