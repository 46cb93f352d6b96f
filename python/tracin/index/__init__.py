"""An index of training triples in a folder, from which single questions are answered at once."""

from tracin.index.builder import build
from tracin.index.query import Index

__all__ = ["Index", "build"]
