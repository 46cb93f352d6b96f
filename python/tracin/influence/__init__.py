"""TracIn: the influence of training triples on test triples."""

from tracin.influence.top_k import TopK
from tracin.influence.tracin import TracIn

__all__ = ["TopK", "TracIn"]
