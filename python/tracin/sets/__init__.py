"""Smallest sets of training triples that a prediction hangs on: without which it falls, or that carry it over."""

from tracin.sets.smallest import SetOptions, SmallestSet

__all__ = ["SetOptions", "SmallestSet"]
