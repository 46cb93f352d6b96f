"""What ids are called, in every output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from tracin.triples import predicate_of


class Dictionaries(Protocol):
    """Whatever has two dictionaries label -> id: a `tracin.Checkpoint`, or a PyKEEN triples factory."""

    @property
    def entity_to_id(self) -> Mapping[str, int] | None: ...

    @property
    def relation_to_id(self) -> Mapping[str, int] | None: ...


@dataclass(frozen=True)
class Labels:
    """What ids are called: a label always, a name for people where a map of names was given.

    Args:
        entities, relations: label of each id.
        node_names: name of each entity id.
        relation_names: name of each relation label.
    """

    entities: Mapping[int, str]
    relations: Mapping[int, str]
    node_names: Mapping[int, str] | None = None
    relation_names: Mapping[str, str] | None = None

    def entity(self, index: int) -> str:
        return self.entities.get(index, f"UNKNOWN_{index}")

    def relation(self, index: int) -> str:
        return self.relations.get(index, f"UNKNOWN_{index}")

    def entity_name(self, index: int) -> str:
        label = self.entity(index)
        return label if self.node_names is None else self.node_names.get(index, label)

    def relation_name(self, index: int) -> str:
        """The name; without one the label, of which only the predicate where it is JSON text of one with qualifiers."""
        label = self.relation(index)
        name = None if self.relation_names is None else self.relation_names.get(label)
        return _predicate_or_label(label) if name is None else name


@cache
def _predicate_or_label(label: str) -> str:
    return (label.startswith("{") and predicate_of(label)) or label
