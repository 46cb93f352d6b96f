"""A question about a model: a triple, or one with the head or the tail left open, as people name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracin.errors import InputError, quote
from tracin.subject import Subject
from tracin.triples.form import TRIPLE
from tracin.triples.named import named_triple
from tracin.triples.read import Triple

OPEN = "?"


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        head, relation, tail: ids; None is what the model is asked for.
        against: the id of another entity in the place of the tail: why the tail rather than this?
    """

    head: int | None
    relation: int
    tail: int | None
    against: int | None = None

    @property
    def open(self) -> str:
        """The place that the model is asked for, "head" or "tail": the tail where nothing is left open."""
        return "head" if self.head is None else "tail"

    def filled(self, entity: int) -> Triple:
        """The triple with an entity in the open place."""
        head = entity if self.head is None else self.head
        tail = entity if self.tail is None else self.tail
        return head, self.relation, tail

    def filled_against(self, rival: int) -> Triple:
        """The triple with the rival as its tail."""
        return self.filled(0)[0], self.relation, rival


def read_question(subject: Subject, texts: Sequence[Any], against: Any = None, called: str = "question") -> Question:
    """A question from labels, names or ids, of which head or tail may be None or "?".

    Args:
        subject: the model and its labels.
        texts: head, relation, tail.
        against: the rival of the tail, likewise.
        called: what errors call the question.

    Raises:
        InputError: for a text that names nothing, with those that are like it, and for more than one open place.
    """
    parts = [None if text is None or text == OPEN else text for text in texts]
    if len(parts) != len(TRIPLE):
        raise InputError(
            f"{called} has {len(parts)} parts; expected head, relation and tail, one of them may be {OPEN}"
        )
    if parts[1] is None:
        raise InputError(f"{called} leaves the relation open; name it, and leave head or tail open with {OPEN}")
    if parts[0] is None and parts[2] is None:
        raise InputError(f"{called} leaves head and tail open; name one of them")
    if against is not None and (parts[0] is None or parts[2] is None):
        raise InputError(f"{called}: a rival needs a whole triple that it stands against; name head and tail")
    entities, relations = subject.entity_to_id, subject.relation_to_id

    def ids(head: Any, tail: Any) -> Triple:
        given = (_text(head, subject, 0), _text(parts[1], subject, 1), _text(tail, subject, 0))
        try:
            return named_triple(given, entities, relations, subject.labels, not subject.labelled, called)
        except InputError as error:
            if subject.labelled:
                raise
            raise InputError(
                f"{error}; {subject.name} comes without labels: give its dictionaries, entity_to_id and relation_to_id"
            ) from error

    stand_in = parts[0] if parts[2] is None else parts[2]
    head, relation, tail = ids(stand_in if parts[0] is None else parts[0], stand_in)
    rival = None if against is None else ids(parts[0], against)[2]
    if rival is not None and rival == tail:
        raise InputError(f"{called}: {quote(against)} is the tail itself; name another entity to compare with")
    return Question(None if parts[0] is None else head, relation, None if parts[2] is None else tail, rival)


def _text(part: Any, subject: Subject, kind: int) -> str:
    """The label of an id that is a number, not text."""
    if isinstance(part, str):
        return part
    try:
        number = int(part.__index__())
    except AttributeError as error:
        raise InputError(f"{quote(part)} is neither a label nor an id", "question") from error
    table = subject.labels.relations if kind else subject.labels.entities
    if number not in table:
        what = "relation" if kind else "entity"
        raise InputError(f"{what} id {number} is outside 0..{len(table) - 1}", "question")
    return table[number] if subject.labelled else str(number)
