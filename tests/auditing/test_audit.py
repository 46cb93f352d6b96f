"""The audit of a training set: what looks wrong, what is there twice, against definitions row by row."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import tracin
from tests.samples.odd_labels import odd_model
from tests.samples.pykeen_examples import pykeen_model
from tests.samples.small_graph import Graph
from tracin.auditing.repeats import find_repeats
from tracin.auditing.suspects import losses_of
from tracin.cli.demo import one_thread
from tracin.errors import InputError
from tracin.subject import open_subject, scorer
from tracin.training.unusual import estimated_wrong, unusual
from tracin.triples.read import make_dictionaries, read_triples
from tracin.triples.twins import relation_twins

pytestmark = pytest.mark.filterwarnings("ignore:using the factored backend")


def test_losses_are_those_of_the_model(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        expected = softplus(-graph.checkpoint.model(graph.train).double())
    for block in (1, 3, 2048):
        monkeypatch.setattr("tracin.auditing.suspects.BLOCK", block)
        assert torch.allclose(losses_of(open_subject(graph.checkpoint, graph.train)), expected, atol=1e-6)


def test_losses_of_a_model_that_is_no_conve() -> None:
    model = tracin.from_pykeen(pykeen_model("DistMult")).model
    train = torch.tensor([[0, 0, 1], [3, 1, 2], [0, 0, 2]])
    with torch.no_grad():
        expected = softplus(-model(train).double())
    assert torch.allclose(losses_of(open_subject(model, train)), expected)


def test_unusual_is_by_the_relation() -> None:
    losses = torch.tensor([1.0, 1.1, 0.9, 1.0, 5.0, 1.05] * 20).double()
    relations = torch.tensor([0] * 60 + [1] * 60)
    losses[60:] += 10  # a hard relation: nothing in it stands out for that
    strange = unusual(losses, relations)
    assert strange[:60].argmax() % 6 == strange[60:].argmax() % 6 == 4
    assert strange[4] > 1 > strange[5].abs()
    assert strange[65] < strange[4]  # 11.05 in a relation where 11 is usual
    assert unusual(torch.ones(3).double(), torch.zeros(3, dtype=torch.int64)).tolist() == [0, 0, 0]
    assert unusual(torch.ones(1).double(), torch.zeros(1, dtype=torch.int64)).tolist() == [0]


def test_the_estimate_counts_what_lies_far_below() -> None:
    generator = np.random.default_rng(0)
    right = generator.normal(2, 1, 10_000)
    assert estimated_wrong(softplus(-torch.from_numpy(right))) < 10
    scores = torch.from_numpy(np.concatenate([right, generator.normal(-8, 1, 500)]))
    assert abs(estimated_wrong(softplus(-scores)) - 500) < 25
    assert estimated_wrong(torch.zeros(0).double()) == 0
    assert estimated_wrong(torch.ones(1).double()) == 0
    assert estimated_wrong(torch.tensor([0.0, 1e4, 1e-300, 1.0]).double()) >= 0


def by_definition(train: list[list[int]]) -> dict[tuple[int, int, bool], float]:
    """Share of a relation's pairs that another has, as they are or turned round."""
    pairs: dict[int, set[tuple[int, int]]] = {}
    for head, relation, tail in train:
        if head != tail:
            pairs.setdefault(relation, set()).add((head, tail))
    found = {}
    for relation, own in pairs.items():
        for other, theirs in pairs.items():
            for turned in (False, True):
                shared = len(own & ({(tail, head) for head, tail in theirs} if turned else theirs))
                if shared and (turned or other != relation):
                    found[relation, other, turned] = shared / len(own)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_twins_are_shares_of_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    train = torch.stack([torch.randint(bound, (40,), generator=generator) for bound in (5, 3, 5)], 1)
    table = relation_twins(train)
    found = {(row["relation"], row["other"], row["turned"]): row["share"] for row in table.iter_rows(named=True)}
    assert found == pytest.approx(by_definition(train.tolist()))
    one = relation_twins(train, 1)
    assert one.drop("share").equals(table.filter(pl.col("relation") == 1).drop("share"))


def triples(*rows: tuple[int, int, int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def test_copies_twins_loops_and_what_is_seen_once() -> None:
    train = triples((0, 0, 1), (1, 1, 0), (2, 0, 3), (3, 1, 2), (0, 0, 1), (4, 2, 4), (0, 2, 5), (6, 3, 7))
    test = triples((1, 1, 0), (0, 1, 9), (3, 0, 2), (7, 3, 6), (0, 4, 1))
    found = find_repeats(train, test)
    assert found.copies == ((0, 4),)
    assert {(twins.relation, twins.other, twins.turned) for twins in found.twins} == {(0, 1, True), (1, 0, True)}
    assert found.repeated == 5  # rows 0 to 4
    assert [(leak.test_row, leak.row, leak.kind) for leak in found.leaks] == [(0, 1, "same")]
    assert found.loops == (5,)
    assert found.single_entities == (4, 5, 6, 7)
    assert found.single_relations == (3,)
    assert found.unseen == (1, 1)


def test_leaks_by_a_twin() -> None:
    pairs = [(2 * i, 2 * i + 1) for i in range(10)]
    train = triples(*((h, 0, t) for h, t in pairs[:9]), *((t, 1, h) for h, t in pairs), *((h, 2, t) for h, t in pairs))
    found = find_repeats(train, triples((18, 0, 19), (18, 1, 19)))
    assert [(leak.test_row, leak.kind) for leak in found.leaks] == [(0, "inverse")]
    assert found.repeated == len(train)


def test_loops_that_are_a_habit_are_not_odd() -> None:
    train = triples(*((i, 0, i) for i in range(5)), *((i, 1, i + 1) for i in range(5)), (2, 1, 2))
    assert find_repeats(train, triples()).loops == (10,)


def test_nothing_is_found_in_one_triple() -> None:
    found = find_repeats(triples((0, 0, 1)), triples())
    assert (found.copies, found.twins, found.repeated, found.leaks, found.loops) == ((), (), 0, (), ())
    assert (found.single_entities, found.single_relations, found.unseen) == ((0, 1), (0,), (0, 0))


def test_suspects_with_what_opposes_them(graph: Graph) -> None:
    report = tracin.audit(graph.checkpoint, graph.train, graph.test, k=5, opponents=2)
    strange = unusual(losses_of(open_subject(graph.checkpoint, graph.train)), graph.train[:, 1])
    rows = strange.argsort(descending=True, stable=True)[:5]
    assert [each.row for each in report.suspects] == rows.tolist()
    own = tracin.TracIn(graph.checkpoint, device="cpu").self_influence(graph.train)
    subject = open_subject(graph.checkpoint, graph.train, [graph.test])
    influences = scorer(subject).influence(graph.train, graph.train[rows])
    for each, scores in zip(report.suspects, influences, strict=True):
        assert each.self_influence == pytest.approx(float(own[each.row]), rel=1e-5)
        expected = [(row, float(scores[row])) for row in scores.argsort(stable=True)[:2].tolist() if scores[row] < 0]
        assert [row for row, _ in each.opponents] == [row for row, _ in expected]
        assert [score for _, score in each.opponents] == pytest.approx([score for _, score in expected], rel=1e-3)
    assert report.relations["triples"].sum() == len(graph.train)


def test_files_frames_and_what_is_refused(graph: Graph, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in graph.folder.iterdir() if path.is_file()}
    report = tracin.audit(graph.folder / "model.pt", graph.folder / "train.txt", graph.folder / "test.txt", k=100)
    folder = tmp_path / "out"
    folder.mkdir()
    for ending in ("html", "json", "csv", "parquet"):
        report.save(folder / f"audit.{ending}")
    assert {path.name: path.read_bytes() for path in graph.folder.iterdir() if path.is_file()} == before
    frame = report.to_frame()
    assert frame.height == len(graph.train)
    assert pl.read_parquet(folder / "audit.parquet").equals(frame)
    assert json.loads((folder / "audit.json").read_text()) == json.loads(json.dumps(report.to_dict()))
    assert "Audit(40 training triples" in repr(report)
    assert "srcdoc" in report._repr_html_()
    with pytest.raises(InputError, match="the ending .md"):
        report.save(folder / "audit.md")
    with pytest.raises(InputError, match="k is 0"):
        tracin.audit(graph.checkpoint, graph.train, k=0)
    with pytest.raises(InputError, match="opponents is -1"):
        tracin.audit(graph.checkpoint, graph.train, opponents=-1)
    with pytest.raises(InputError, match="without its training triples"):
        tracin.audit(graph.checkpoint)


def test_no_opponents_and_no_test(graph: Graph) -> None:
    report = tracin.audit(graph.checkpoint, graph.train, k=3, opponents=0)
    assert all(each.opponents == () for each in report.suspects)
    assert report.repeats.tests == 0
    assert "test triples" not in report.to_html()


def test_plot_draws_a_bar_for_each_suspect(graph: Graph) -> None:
    pytest.importorskip("matplotlib")
    report = tracin.audit(graph.checkpoint, graph.train, k=3, opponents=0)
    (axes,) = report.plot().axes
    assert [bar.get_width() for bar in axes.patches] == [each.unusual for each in report.suspects]


def test_odd_labels_stay_text() -> None:
    checkpoint, train = odd_model()
    text = tracin.audit(checkpoint, train, train[:5]).to_html()
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_wrong_triples_of_umls_are_found() -> None:
    """5 % of the triples get a random tail: what the page says of the first hundred holds."""
    file = Path(str(resources.files("tracin") / "data" / "umls" / "train.txt.gz"))
    entities, relations = make_dictionaries([file])
    train = read_triples(file, entities, relations)
    generator = torch.Generator().manual_seed(0)
    count = len(train) // 20
    wrong = torch.zeros(len(train), dtype=torch.bool)
    wrong[torch.randperm(len(train), generator=generator)[:count]] = True
    train[wrong, 2] = torch.randint(len(entities), (count,), generator=generator)
    with one_thread():
        checkpoint = tracin.train(
            train, num_entities=len(entities), num_relations=len(relations), epochs=20, progress=False,
            entity_to_id=entities, relation_to_id=relations,
        )  # fmt: skip
    report = tracin.audit(checkpoint, train, opponents=0)
    found = wrong[[each.row for each in report.suspects]].double().mean()
    assert found >= 0.85
    assert count / 2 < report.estimate < 2.5 * count


def test_inverse_relations_that_were_planted_are_found_with_the_test_triples_that_they_tell() -> None:
    """As in FB15k: facts said twice, by a relation and by its inverse, on both sides of the split."""
    folder = resources.files("tracin") / "data" / "umls"
    paths = [Path(str(folder / f"{name}.txt.gz")) for name in ("train", "test")]
    entities, relations = make_dictionaries(paths)
    train, test = (read_triples(path, entities, relations) for path in paths)
    before = find_repeats(train, test)
    chosen = torch.bincount(train[:, 1]).argsort(descending=True)[:5]
    every = torch.cat([train, test])
    kept = torch.rand(len(every), generator=torch.Generator().manual_seed(0)) < 0.9
    kept &= torch.isin(every[:, 1], chosen)
    heads, kinds, tails = every[kept].unbind(1)
    twin = {int(relation): len(relations) + place for place, relation in enumerate(chosen)}
    inverse = torch.stack([tails, torch.tensor([twin[kind] for kind in kinds.tolist()]), heads], 1)
    found = find_repeats(torch.cat([train, inverse]), test)
    turned = {(each.relation, each.other) for each in found.twins if each.turned}
    assert {*twin.items(), *((other, relation) for relation, other in twin.items())} <= turned
    told = {leak.test_row for leak in found.leaks}
    planted = {row - len(train) for row in kept.nonzero()[:, 0].tolist() if row >= len(train)}
    known = {leak.test_row for leak in before.leaks}
    assert planted <= told and len(planted) > 50
    assert known <= told
