"""Which training triples are near a test triple in the graph."""

from tracin.proximity.filter import METHODS, ProximityFilter, ProximityOptions

__all__ = ["METHODS", "ProximityFilter", "ProximityOptions"]
