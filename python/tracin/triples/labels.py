"""What ids are called, in every output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol

import polars as pl

from tracin.errors import InputError
from tracin.triples.dictionaries import predicate_of


class Dictionaries(Protocol):
    """Whatever has two dictionaries label -> id: a `tracin.Checkpoint`, or a PyKEEN triples factory.

    The result of a PyKEEN pipeline is taken in their place: it holds the factory, see `dictionaries_in`.
    """

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

    @cached_property
    def entity_columns(self) -> dict[str, pl.Series]:
        """Label, and name where there are names, of all ids from 0 on: millions of rows then take a lookup each."""
        ids = range(1 + max(self.entities, default=-1))
        names = {} if self.node_names is None else {"name": _strings(map(self.entity_name, ids))}
        return {"label": _strings(map(self.entity, ids)), **names}

    @cached_property
    def relation_columns(self) -> dict[str, pl.Series]:
        ids = range(1 + max(self.relations, default=-1))
        names = {} if self.relation_names is None else {"name": _strings(map(self.relation_name, ids))}
        return {"label": _strings(map(self.relation, ids)), **names}


def dictionaries_in(source: Any) -> Any:
    """What has the dictionaries: of the result of a PyKEEN pipeline the factory that the model was trained with."""
    training = getattr(source, "training", None)
    return training if not hasattr(source, "entity_to_id") and hasattr(training, "entity_to_id") else source


def labels_of(source: Labels | Dictionaries | None) -> Labels | None:
    """Labels as they are, those of two dictionaries, or None; InputError where a dictionary is missing."""
    if source is None or isinstance(source, Labels):
        return source
    source = dictionaries_in(source)
    entities, relations = (getattr(source, f"{kind}_to_id", None) for kind in ("entity", "relation"))
    if entities is None or relations is None:
        missing = "entity_to_id" if entities is None else "relation_to_id"
        raise InputError(f"labels has no {missing}; load the checkpoint with it, or leave labels out for ids only")
    by_id = [{number: label for label, number in some.items()} for some in (entities, relations)]
    return Labels(by_id[0], by_id[1])


def _strings(labels: Iterable[str]) -> pl.Series:
    return pl.Series(list(labels), dtype=pl.String)


@cache
def _predicate_or_label(label: str) -> str:
    return (label.startswith("{") and predicate_of(label)) or label
