"""Triples in every form that people have them give the same rows of ids; what is none says so by its argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.samples.pykeen_examples import factory
from tracin import Checkpoint, InputError
from tracin.triples.given import ids_of
from tracin.triples.labels import Labels

IDS = [[0, 1, 2], [2, 0, 0], [1, 1, 1]]
ENTITIES = {"a": 0, "b": 1, "c": 2}
RELATIONS = {"likes": 0, "knows": 1}
LABELS = [("a", "knows", "c"), ("c", "likes", "a"), ("b", "knows", "b")]
KNOWN = Checkpoint(None, entity_to_id=ENTITIES, relation_to_id=RELATIONS)
EXPECTED = torch.tensor(IDS)
COLUMNS = ("head", "relation", "tail")


def frame(rows: list[Any], suffix: str = "") -> pl.DataFrame:
    columns = zip(COLUMNS, zip(*rows, strict=True), strict=True)
    return pl.DataFrame({"score": [0.1, 0.2, 0.3]} | {f"{name}{suffix}": list(values) for name, values in columns})


FORMS: dict[str, Any] = {
    "tensor": EXPECTED,
    "int32 tensor": EXPECTED.int(),
    "array": np.array(IDS),
    "uint8 array": np.array(IDS, dtype=np.uint8),
    "array of objects": np.array(IDS, dtype=object),
    "lists": IDS,
    "tuples": tuple(map(tuple, IDS)),
    "rows that are tensors": list(EXPECTED),
    "numpy integers": [tuple(np.int64(i) for i in row) for row in IDS],
    "labels": LABELS,
    "array of labels": np.array(LABELS),
    "array of label objects": np.array(LABELS, dtype=object),
    "frame of ids": frame(IDS),
    "frame of labels": frame(LABELS),
    "frame of head_id": frame(IDS, "_id"),
    "frame of head_label": frame(LABELS, "_label"),
    "lazy frame": frame(LABELS).lazy(),
    "frame of categories": frame(LABELS).cast({name: pl.Categorical for name in COLUMNS}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_ids(form: str) -> None:
    found = ids_of(FORMS[form], "train", KNOWN)
    assert found.dtype == torch.int64 and torch.equal(found, EXPECTED)


@pytest.mark.parametrize("rows", [IDS, LABELS], ids=["ids", "labels"])
def test_a_pandas_frame(rows: list[Any]) -> None:
    pandas = pytest.importorskip("pandas")
    for backed in (pandas.DataFrame(rows, columns=COLUMNS), pandas.DataFrame(rows, columns=COLUMNS).convert_dtypes()):
        assert torch.equal(ids_of(backed, "train", KNOWN), EXPECTED)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "train.txt").write_text("".join("\t".join(row) + "\n" for row in LABELS))
    assert torch.equal(ids_of(kind(tmp_path / "train.txt"), "train", KNOWN), EXPECTED)
    with pytest.raises(InputError, match="train is the file .*train.txt', but nothing gives the ids of entity and rel"):
        ids_of(kind(tmp_path / "train.txt"), "train")


def test_one_triple() -> None:
    for one in ((0, 1, 2), [0, 1, 2], EXPECTED[0], np.array(IDS)[0], tuple(EXPECTED[0]), ("a", "knows", "c")):
        assert ids_of(one, "test", KNOWN).tolist() == [[0, 1, 2]]


def test_none_at_all() -> None:
    for empty in ([], (), EXPECTED[:0], np.empty((0, 3), dtype=int), frame(IDS).clear(), frame(LABELS).clear()):
        assert ids_of(empty, "test").shape == (0, 3)


def test_a_tensor_keeps_its_memory() -> None:
    assert ids_of(EXPECTED, "train") is EXPECTED


def test_labels_by_id() -> None:
    labels = Labels({i: label for label, i in ENTITIES.items()}, {i: label for label, i in RELATIONS.items()})
    assert torch.equal(ids_of(LABELS, "train", labels), EXPECTED)


def test_a_factory_and_its_labels() -> None:
    made = factory(labels=True)
    checkpoint = Checkpoint(None, entity_to_id=dict(made.entity_to_id), relation_to_id=dict(made.relation_to_id))
    assert torch.equal(ids_of(made, "train", checkpoint), made.mapped_triples)
    assert torch.equal(ids_of(made.triples, "train", checkpoint), made.mapped_triples)
    with pytest.raises(
        InputError, match="train has other dictionaries than the model: .*make the triples factory with"
    ):
        ids_of(made, "train", KNOWN)


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        (None, "test is None, a NoneType; expected triples"),
        (5, "test is 5, a int"),
        ({(0, 0, 1)}, "a set"),
        (iter(IDS), "iterator"),
        ({"head": [0]}, "a dict"),
        (EXPECTED.double(), "test has dtype torch.float64; expected integer ids"),
        (EXPECTED.bool(), "dtype torch.bool"),
        (EXPECTED[:, :2], r"test is a tensor of shape \(3, 2\)"),
        (torch.zeros(2, 2, 3).long(), r"a tensor of shape \(2, 2, 3\)"),
        (torch.zeros(3, 3).to_sparse(), "a tensor of shape"),
        (np.zeros((2, 3)), "test has a head column of dtype float64; expected integer ids"),
        (np.zeros((2, 4), dtype=int), r"an array of shape \(2, 4\)"),
        ([(0, 0, 1), (1, 2)], r"a list of (shape \(2,\)|unequal)"),
        ([(0, "likes", 1)], "test row 0: relation 'likes' is neither an integer id nor"),
        ([(0, 0, 1), (0, True, 1)], "test row 1: relation True is neither"),
        ([(0, 0, 1.5)], "test row 0: tail 1.5 is neither"),
        ([(0, 0, 2**70)], "test row 0: tail 1180591620717411303424 is neither"),
        ([torch.zeros(3).long(), torch.zeros(2).long()], "tensors of several shapes"),
        ([("a", "likes", "d")], r"test row 0: tail 'd' is not in the entity dictionary \(3 labels\)"),
        ([("a", "hates", "b")], r"test row 0: relation 'hates' is not in the relation dictionary \(2 labels\)"),
        (pl.DataFrame({"subject": ["a"], "predicate": ["likes"]}), "a data frame with the columns subject, predicate"),
        (pl.DataFrame({"head": [0.5], "relation": [0], "tail": [1]}), "test has a head column of dtype float64"),
        (pl.DataFrame({"head": [None, "a"], "relation": ["likes"] * 2, "tail": ["a"] * 2}), "row 0: head None"),
    ],
)
def test_what_is_no_triples_is_named(triples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        ids_of(triples, "test", KNOWN)
    assert raised.value.argument == "test"


def test_labels_need_dictionaries() -> None:
    with pytest.raises(InputError, match="test is labels, but nothing gives the ids of entity and relation labels"):
        ids_of(LABELS, "test")
    half = Checkpoint(None, entity_to_id=ENTITIES)
    with pytest.raises(InputError, match="nothing gives the ids of relation labels"):
        ids_of(LABELS, "test", half)
