"""Labels that are read when they are asked for."""

from __future__ import annotations

import pytest

from tracin.index.dictionaries import IdOfLabel, LabelOfId, packed_labels

ODD = ["b", "", "a", "aa", "\u00e9", "e\u0301", "\U0001f9ec", "a b\t", "\ud800", "B", "a\0", "\uffff"]


def opened(labels: list[str]) -> tuple[LabelOfId, IdOfLabel]:
    arrays = packed_labels({label: i for i, label in enumerate(labels)})
    by_id = LabelOfId(arrays["text"], arrays["ends"], arrays["sorted"])
    return by_id, IdOfLabel(by_id)


@pytest.mark.parametrize("labels", [[], [""], ["x"], ODD, [str(i) for i in range(1000)]])
def test_labels_and_ids_lead_to_each_other(labels: list[str]) -> None:
    by_id, by_label = opened(labels)
    assert dict(by_id) == dict(enumerate(labels))
    assert dict(by_label) == {label: i for i, label in enumerate(labels)}
    assert len(by_id) == len(by_label) == len(labels)


def test_others_are_unknown() -> None:
    by_id, by_label = opened(ODD)
    for unknown in ("c", "a\0\0", "\u00c9", "zz", " ", 3, None):
        assert unknown not in by_label
    for number in (-1, len(ODD)):
        assert number not in by_id
    assert by_id.get(-1, "none") == "none"
