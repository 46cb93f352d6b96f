"""TopK knows what it was scored on; people's forms of triples; what objects say of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

import tracin
from tests.samples.models import ENTITIES, RELATIONS, pairs_of_triples, random_model, random_triples
from tests.samples.pykeen_examples import factory
from tracin import Checkpoint, InputError, TopK, TracIn
from tracin.distributed import sharded_top_k, share_out
from tracin.distributed.ranks import Ranks
from tracin.results.saving import save_as

LABELLED = Checkpoint(
    random_model(),
    0.5,
    entity_to_id={f"e{i}": i for i in range(ENTITIES)},
    relation_to_id={f"r{i}": i for i in range(RELATIONS)},
)


def labels(triples: Tensor) -> list[tuple[str, str, str]]:  # [n, 3]
    return [(f"e{h}", f"r{r}", f"e{t}") for h, r, t in triples.tolist()]


def tops() -> list[tuple[str, TopK]]:
    test, train = pairs_of_triples()
    ti = TracIn(LABELLED, device="cpu")
    sharded = sharded_top_k(ti, train, torch.arange(len(train)), test, 4, ranks=Ranks())
    assert sharded is not None
    return [
        ("top_k", ti.top_k(train, test, 4)),
        ("sharded", sharded),
        ("shared out", share_out(ti, train, Ranks()).top_k(test, 4, "absolute")),
    ]


@pytest.mark.parametrize(("kind", "top"), tops(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_frame_takes_only_what_was_scored(kind: str, top: TopK) -> None:
    test, train = pairs_of_triples()
    expected = top.to_frame(train, test, LABELLED)
    for same in (
        labels(train),
        train.tolist(),
        train.numpy(),
        pl.DataFrame(labels(train), ["head", "relation", "tail"], orient="row"),
    ):
        assert top.to_frame(same, labels(test), LABELLED).equals(expected)
    assert top.to_frame(train.tolist(), test.numpy()).equals(top.to_frame(train, test))
    with pytest.raises(InputError, match="train has other triples.*give the triples that were scored"):
        top.to_frame(train.flip(0), test)
    with pytest.raises(InputError, match="test has other triples.*in another order"):
        top.to_frame(train, test.flip(0))
    with pytest.raises(InputError, match="test has 1 triples for influences on"):
        top.to_frame(train, test[0])
    with pytest.raises(InputError, match=r"train has 3 triples, but row \d+ is among"):
        top.to_frame(train[:3], test)
    with pytest.raises(InputError, match="train is labels, but nothing gives the ids"):
        top.to_frame(labels(train), test)


def test_a_top_k_of_ones_own_has_nothing_to_compare() -> None:
    test, train = pairs_of_triples()
    scored = TracIn(LABELLED, device="cpu").top_k(train, test, 4)
    own = TopK(scored.indices, scored.scores)
    assert own.to_frame(train, test).equals(scored.to_frame(train, test))


def test_every_method_takes_what_people_have() -> None:
    test, train = pairs_of_triples()
    ti = TracIn(LABELLED, precision="float64", device="cpu")
    scores = ti.influence(train, test)
    for some, others in ((labels(train), labels(test)), (train.numpy(), test.tolist())):
        assert torch.equal(ti.influence(some, others), scores)
        assert torch.equal(ti.top_k(some, others, 3).indices, ti.top_k(train, test, 3).indices)
        assert torch.equal(ti.self_influence(some), ti.self_influence(train))
    one = ti.influence(train, ("e3", "r1", "e3"))
    assert torch.allclose(one, ti.influence(train, torch.tensor([[3, 1, 3]])), rtol=1e-9)


def test_a_factory_with_other_ids_is_refused() -> None:
    made = factory(labels=True)
    ours = Checkpoint(random_model(), entity_to_id=made.entity_to_id, relation_to_id=made.relation_to_id)
    from pykeen.triples import TriplesFactory

    anew = TriplesFactory.from_labeled_triples(made.triples[1:20])
    subset = TriplesFactory(made.mapped_triples[:5], dict(made.entity_to_id), dict(made.relation_to_id))
    ti = TracIn(ours, device="cpu")
    assert torch.equal(ti.influence(made, subset), ti.influence(made.mapped_triples, made.mapped_triples[:5]))
    for known in (ti, TracIn(ours.model, device="cpu")):
        with pytest.raises(InputError, match="test (has other dictionaries than|is a triples factory of)"):
            known.influence(made, anew)
    with pytest.raises(InputError, match="train (has other dictionaries than the model|is a triples factory of)"):
        ti.self_influence(anew)


def test_checkpoints_of_other_dictionaries_are_refused() -> None:
    other = Checkpoint(random_model(), 0.5, entity_to_id={f"e{(i + 1) % ENTITIES}": i for i in range(ENTITIES)})
    with pytest.raises(
        InputError, match="checkpoint 1 has other dictionaries than checkpoint 0: the entity 'e1' has id"
    ):
        TracIn([LABELLED, other], device="cpu")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (TracIn(LABELLED, device="cpu"), "TracIn(ConvE, 12 entities, 4 relations: "),
        (LABELLED, "Checkpoint(in memory, ConvE of 12 entities, 4 relations, learning rate 0.5, entity labels, rel"),
        (
            Checkpoint(LABELLED.model, path="a<b>.pt", epoch=3),
            "Checkpoint(a<b>.pt, ConvE of 12 entities, 4 relations, ep",
        ),
        (
            TracIn(LABELLED, device="cpu").top_k(random_triples(20), random_triples(3), 4),
            "TopK(3 test triples, 4 influences on each)",
        ),
        (TopK(torch.zeros(1, 0).long(), torch.zeros(1, 0)), "TopK(1 test triple, 0 influences on each)"),
    ],
    ids=["TracIn", "Checkpoint", "Checkpoint of a file", "TopK", "empty TopK"],
)
def test_what_objects_say_of_themselves(shown: Any, text: str) -> None:
    assert repr(shown).startswith(text) and len(repr(shown)) < 200 and "\n" not in repr(shown)
    page = shown._repr_html_()
    assert page.count("<table") == page.count("</table>") == 1 and "<b>" not in page


def test_dir_shows_the_public_names() -> None:
    assert dir(tracin) == sorted([*tracin.__all__, "__version__"])


def test_a_list_is_saved_by_the_ending_of_a_name(tmp_path: Path) -> None:
    test, train = pairs_of_triples()
    top = TracIn(LABELLED, device="cpu").top_k(train, test, 3)
    for ending in ("csv", "parquet", "json"):
        top.save(tmp_path / f"top.{ending}", train, test, LABELLED)
    frame = top.to_frame(train, test, LABELLED)
    assert pl.read_parquet(tmp_path / "top.parquet").equals(frame)
    assert pl.read_csv(tmp_path / "top.csv").shape == frame.shape
    assert json.loads((tmp_path / "top.json").read_text()) == json.loads(frame.write_json())
    with pytest.raises(InputError, match="the ending .html"):
        top.save(tmp_path / "top.html", train)
    with pytest.raises(InputError, match="other triples"):
        top.save(tmp_path / "other.csv", train.flip(0))
    assert not (tmp_path / "other.csv").exists()


def test_formulas_are_made_harmless_in_csv(tmp_path: Path) -> None:
    frame = pl.DataFrame({"label": ["=1+1", "plain", "-x", "@a", "it's"], "score": [-1.0, 2.0, 3.0, 4.0, 5.0]})
    save_as(tmp_path / "a.csv", lambda: frame, {}, csv_safe=True)
    assert pl.read_csv(tmp_path / "a.csv")["label"].to_list() == ["'=1+1", "plain", "'-x", "'@a", "it's"]
    assert pl.read_csv(tmp_path / "a.csv")["score"].to_list() == frame["score"].to_list()
