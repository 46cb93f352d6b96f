"""Influences as files, data frames and tables."""

from tracin.results.frames import influence_frame, self_influence_frame
from tracin.results.writers import Influences

__all__ = ["Influences", "influence_frame", "self_influence_frame"]
