"""A triple by labels, names and ids; what none of them is."""

from __future__ import annotations

import json

import pytest

from tracin.errors import InputError
from tracin.triples.labels import Labels
from tracin.triples.named import named_triple

ENTITIES = {"CHEBI:1": 0, "CHEBI:2": 1, "3": 2, "MONDO:4": 3}
RELATIONS = {"p:0": 0, json.dumps({"predicate": "affects", "part": "x"}): 1, "p:2": 2}
LABELS = Labels(
    {number: label for label, number in ENTITIES.items()},
    {number: label for label, number in RELATIONS.items()},
    {0: "aspirin", 1: "aspirin", 2: "pain", 3: "headache"},
    {"p:0": "treats"},
)


@pytest.mark.parametrize(
    ("texts", "triple"),
    [
        (("CHEBI:1", "p:0", "MONDO:4"), (0, 0, 3)),
        (("headache", "treats", "pain"), (3, 0, 2)),
        (("0", "2", "1"), (0, 2, 1)),
        (("3", "affects", "3"), (2, 1, 2)),  # a label before an id
        (("headache", list(RELATIONS)[1], "2"), (3, 1, 2)),
    ],
)
def test_labels_names_and_ids(texts: tuple[str, str, str], triple: tuple[int, int, int]) -> None:
    assert named_triple(texts, ENTITIES, RELATIONS, LABELS) == triple


def test_ids_only() -> None:
    assert named_triple(("3", "0", "3"), ENTITIES, RELATIONS, LABELS, numeric=True) == (3, 0, 3)
    with pytest.raises(InputError, match="^it: tail '4' is not an id from 0 to 3 of the entity dictionary$"):
        named_triple(("3", "0", "4"), ENTITIES, RELATIONS, LABELS, True, "it")
    with pytest.raises(InputError, match="relation 'p:0' is not an id from 0 to 2 of the relation dictionary"):
        named_triple(("3", "p:0", "4"), ENTITIES, RELATIONS, LABELS, True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ("aspirin", "p:0", "3"),
            "triple: head 'aspirin' is the name of 2, 'CHEBI:1' and others; give the label of one",
        ),
        (
            ("3", "p:0", "mondo:4"),
            "triple: tail 'mondo:4' is not in the entity dictionary (4 labels), nor the name of one, nor an id from 0 "
            "to 3; it has 'MONDO:4', which differs in upper and lower case",
        ),
        (
            ("3", "9" * 5000, "3"),
            " is not in the relation dictionary (3 labels), nor the name of one, nor an id from 0 to 2",
        ),
        (("-1", "p:0", "3"), "triple: head '-1' is not in the entity dictionary"),
        (("3", "p:0", "4"), "triple: tail '4' is not in the entity dictionary"),
    ],
)
def test_what_is_none_of_them(texts: tuple[str, str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        named_triple(texts, ENTITIES, RELATIONS, LABELS)
    assert message in str(caught.value)


def test_without_names() -> None:
    assert named_triple(("CHEBI:2", "1", "3"), ENTITIES, RELATIONS) == (1, 1, 2)
    with pytest.raises(
        InputError, match=r"'pain' is not in the entity dictionary \(4 labels\), nor an id from 0 to 3$"
    ):
        named_triple(("pain", "1", "3"), ENTITIES, RELATIONS)
