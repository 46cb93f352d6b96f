"""Triples, and what their ids are called: files read and written, dictionaries, labels."""

from tracin.triples.dictionaries import read_dictionary
from tracin.triples.labels import Labels
from tracin.triples.read import read_triples, read_triples_part

__all__ = ["Labels", "read_dictionary", "read_triples", "read_triples_part"]
