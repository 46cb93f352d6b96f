"""An index that holds gradients at the embeddings answers by the accurate method as if it had computed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tracin
import tracin_ext
from tests.influence.test_fisher import setting
from tracin import Checkpoint, InputError
from tracin.index.contents import Contents
from tracin.subject import Subject, open_subject, scorer

pytestmark = pytest.mark.skipif(not tracin_ext.status()["available"], reason="an index needs the native extension")


def made(folder: Path, variant: str, reciprocal: bool, **options: Any) -> tuple[Checkpoint, Tensor, Tensor, Subject]:
    model, train, test = setting(variant, reciprocal)
    relations = model.relation.num_embeddings // 2 if reciprocal else model.num_relations
    named = {f"e{i}": i for i in range(model.num_entities)}, {f"r{i}": i for i in range(max(1, relations))}
    checkpoint = Checkpoint(model, 0.5, entity_to_id=named[0], relation_to_id=named[1])
    tracin.index.build(checkpoint, train, folder, accurate=True, progress=False, **options)
    return checkpoint, train, test, open_subject(folder)


@pytest.mark.parametrize("store", ["compact", "norms"])
@pytest.mark.parametrize(("variant", "reciprocal"), [("plain", True), ("plain", False), ("no entity bias", True)])
def test_scores_are_those_without_an_index(variant: str, reciprocal: bool, store: str, tmp_path: Path) -> None:
    checkpoint, train, test, subject = made(tmp_path / "index", variant, reciprocal, store=store)
    assert subject.gradients is not None
    assert subject.gradients[1] == ("both" if reciprocal else "forward")
    for options in ({}, {"samples": 5}, {"samples": 0, "normalize": "none"}, {"normalize": "cosine"}, {"query": "bce"}):
        found = scorer(subject, **options)
        expected = tracin.TracIn(checkpoint, method="accurate", **({"samples": 1024} | options))
        torch.testing.assert_close(
            found.influence(subject.train, test), expected.influence(train, test), rtol=1e-5, atol=1e-7
        )
        assert found._answers is not None and found._answers._blocks is not None
        assert found._answers._blocks[0] is subject.gradients[0]


@pytest.mark.parametrize(
    "options",
    [{"direction": "inverse"}, {"precision": "float64"}, {"loss": "ce"}, {"method": "tracin"}, {"layers": "entity"}],
)
def test_what_else_is_asked_is_computed(options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint, train, test, subject = made(tmp_path / "index", "plain", True)
    expected = tracin.TracIn(checkpoint, **({"method": "accurate", "samples": 1024} | options))
    torch.testing.assert_close(
        scorer(subject, **options).influence(subject.train, test), expected.influence(train, test), rtol=1e-5, atol=1e-7
    )


def test_other_triples_are_computed(tmp_path: Path) -> None:
    checkpoint, train, test, subject = made(tmp_path / "index", "plain", True)
    other = open_subject(tmp_path / "index", train=train[3:])
    assert other.gradients is None
    ti = scorer(subject)
    expected = tracin.TracIn(checkpoint, method="accurate", samples=1024)
    for some in (train, train[3:], train):
        torch.testing.assert_close(ti.influence(some, test), expected.influence(some, test), rtol=1e-5, atol=1e-7)


def test_explain_says_the_same(tmp_path: Path) -> None:
    checkpoint, train, test, _ = made(tmp_path / "index", "plain", True)
    triple = test[0].tolist()
    found, expected = (
        tracin.explain(model, *triple, train=given)
        for model, given in ((tmp_path / "index", None), (checkpoint, train))
    )
    names = [name for name in found.to_frame().columns if found.to_frame()[name].dtype.is_numeric()]
    for name in names:
        torch.testing.assert_close(
            torch.tensor(found.to_frame()[name].fill_null(-1).to_list(), dtype=torch.float64),
            torch.tensor(expected.to_frame()[name].fill_null(-1).to_list(), dtype=torch.float64),
            rtol=1e-4,
            atol=1e-6,
        )
    assert found.to_frame().drop(names).equals(expected.to_frame().drop(names))


def test_an_index_without_gradients_has_none(tmp_path: Path) -> None:
    model, train, _ = setting("plain")
    tracin.index.build(model, train, tmp_path / "index", progress=False)
    assert Contents(tmp_path / "index").gradients is None


def test_damaged_gradients_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "index", "plain", True)
    (path,) = tmp_path.rglob("accurate.c.bin")
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="accurate.c.bin is not as it was written"):
        open_subject(tmp_path / "index")


def test_what_has_no_accurate_gradients_is_refused(tmp_path: Path) -> None:
    model, train, _ = setting("plain")
    for given, options in ((model, {"layers": ["entity", "fc"]}), ([model, model], {"learning_rates": 1.0})):
        with pytest.raises(InputError, match="one checkpoint with all its layers"):
            tracin.index.build(given, train, tmp_path / "index", accurate=True, progress=False, **options)
    with pytest.raises(InputError, match="memory_limit is"):
        tracin.index.build(model, train, tmp_path / "index", accurate=True, progress=False, memory_limit="1M")
    assert not (tmp_path / "index").exists()
