"""Explanations against the influences that they are made of, from whatever people have, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

import tracin
import tracin_ext
from tests.samples.models import random_triples
from tests.samples.odd_labels import LABELS, RELATIONS, odd_model
from tests.samples.pykeen_examples import factory, pykeen_model
from tests.samples.small_graph import ENTITIES, Graph
from tracin.errors import InputError
from tracin.explanation import Explanation
from tracin.explanation.reasons import counted
from tracin.influence.questions import METHODS
from tracin.results.words import ordinal, percent
from tracin.sets import SetOptions
from tracin.subject import SAMPLES
from tracin.training.ranking import head_ranks, tail_ranks

pytestmark = pytest.mark.filterwarnings("ignore:using the factored backend")


def ask(graph: Graph, *parts: Any, **arguments: Any) -> Explanation:
    return tracin.explain(graph.checkpoint, *parts, train=graph.train, **arguments)


def scores_of(graph: Graph, asked: Tensor, method: str) -> Tensor:  # [m, n]
    own = {"samples": SAMPLES, "known": graph.test} if method == "accurate" else {}
    return tracin.TracIn(graph.checkpoint, method=method, **own).influence(graph.train, asked).double()


@pytest.mark.parametrize("method", METHODS)
def test_reasons_are_the_strongest_influences_and_shares_are_of_all(graph: Graph, method: str) -> None:
    triple = graph.test[0]
    (scores,) = scores_of(graph, triple[None], method)
    why = ask(graph, *triple.tolist(), k=4, known=[graph.test], method=method)
    order = scores.argsort(descending=True, stable=True)
    assert [reason.row for reason in why.pro.reasons] == [row for row in order[:4].tolist() if scores[row] > 0]
    assert [reason.row for reason in why.contra.reasons] == [
        row for row in order.flip(0)[:4].tolist() if scores[row] < 0
    ]
    for side, sign in ((why.pro, 1), (why.contra, -1)):
        total = (scores * sign).clamp_min(0).sum()
        assert side.total == pytest.approx(sign * float(total))
        assert side.number == int((scores * sign > 0).sum())
        for reason in side.reasons:
            assert reason.share == pytest.approx(float(scores[reason.row] * sign / total))
            assert list(reason.triple) == graph.train[reason.row].tolist()
            assert sum(reason.terms.values()) == pytest.approx(reason.score, rel=1e-4, abs=1e-6)
    both = why.pro.total - why.contra.total
    assert why.balance() == pytest.approx(why.pro.total / both)


@pytest.mark.parametrize("method", METHODS)
def test_against_another_tail_takes_the_difference(graph: Graph, method: str) -> None:
    head, relation, tail = graph.test[0].tolist()
    rival = (tail + 1) % ENTITIES
    asked = torch.tensor([[head, relation, tail], [head, relation, rival]])
    scores = scores_of(graph, asked, method)
    why = ask(graph, head, relation, tail, against=rival, k=3, known=[graph.test], method=method)
    for reason in why.reasons:
        difference = float(scores[0, reason.row] - scores[1, reason.row])
        assert reason.score == pytest.approx(difference, rel=1e-3, abs=1e-7)
        assert sum(reason.terms.values()) == pytest.approx(reason.score, rel=1e-3, abs=1e-6)
    assert f"entity {rival}" in why.to_html()


def test_ranks_are_those_of_the_ranking(graph: Graph) -> None:
    triple = graph.test[1]
    why = ask(graph, *triple.tolist(), known=[graph.test])
    known = torch.cat([graph.train, graph.test])
    assert why.answers.asked.filtered_rank == float(tail_ranks(graph.checkpoint.model, triple[None], known)[0])
    assert why.answers.count == ENTITIES
    ranks = [answer.rank for answer in why.answers.first]
    assert ranks == sorted(ranks)


def test_heads_are_ranked_by_the_inverse_relation_where_there_is_one() -> None:
    torch.manual_seed(1)
    model = tracin.ConvE(9, 4, 8, embedding_height=4, embedding_width=2, output_channels=2, kernel_width=2).eval()
    train = torch.tensor([[0, 0, 1], [2, 1, 3], [4, 1, 5]])
    checkpoint = tracin.Checkpoint(model, 1e-3, None, {f"e{i}": i for i in range(9)}, {"a": 0, "b": 1})
    why = tracin.explain(checkpoint, "?", "b", "e3", train=train)
    (rank,) = head_ranks(model, torch.tensor([why.triple]), train).tolist()
    assert (why.answers.asked.filtered_rank, why.open, why.answers.turned) == (rank, "head", True)


def test_heads_are_ranked_by_all_triples_without_inverse_relations(graph: Graph) -> None:
    why = ask(graph, "?", 1, 5)
    heads = torch.arange(ENTITIES)
    triples = torch.stack([heads, torch.ones_like(heads), torch.full_like(heads, 5)], 1)
    with torch.no_grad():
        best = int(graph.checkpoint.model(triples).argmax())
    assert why.answers.first[0].entity == best
    assert not why.answers.turned


def test_an_open_tail_is_the_first_new_answer(graph: Graph) -> None:
    head, relation, _ = graph.train[0].tolist()
    why = ask(graph, head, relation, None, known=[graph.test], tails=ENTITIES)
    new = [answer for answer in why.answers.first if not answer.known]
    assert why.triple == (head, relation, new[0].entity)
    everything = torch.tensor([[head, relation, tail] for tail in range(ENTITIES)])
    why = ask(graph, head, relation, "?", known=[everything])
    assert why.triple[2] == why.answers.first[0].entity  # where nothing is new, the first


@pytest.mark.parametrize("row", [0, 3])
def test_a_training_triple_says_so(graph: Graph, row: int) -> None:
    why = ask(graph, *graph.train[row].tolist())
    rows = [place for place, other in enumerate(graph.train.tolist()) if other == graph.train[row].tolist()]
    assert list(why.presence.rows) == rows
    assert "trained on this very triple" in why.to_html()
    own = [reason for reason in why.reasons if reason.row in rows]
    assert all(reason.tie.words == ("the question itself",) for reason in own)


def test_labels_names_ids_and_near_misses(graph: Graph) -> None:
    names = {number: f"name {number}" for number in range(ENTITIES)}
    by_label = ask(graph, "entity 1", "relation:0", "entity 2")
    by_name = ask(graph, "name 1", "relation:0", "name 2", node_names=names)
    assert by_label.triple == by_name.triple == ask(graph, 1, 0, 2).triple == ask(graph, "1", "0", "2").triple
    assert by_name.names(by_name.triple) == ("name 1", "relation:0", "name 2")
    with pytest.raises(InputError, match=r"tail 'entty 2' is not in the entity dictionary.*is it 'entity 2'"):
        ask(graph, "entity 1", "relation:0", "entty 2")
    with pytest.raises(InputError, match="is it 'name 1'"):
        ask(graph, "nam 1", "relation:0", "entity 2", node_names=names)


@pytest.mark.parametrize(
    ("parts", "arguments", "told"),
    [
        (("?", 0, "?"), {}, "leaves head and tail open"),
        ((1, "?", 2), {}, "leaves the relation open"),
        ((1, 0, 99), {}, "entity id 99 is outside 0..11"),
        ((1, -1, 2), {}, "relation id -1 is outside"),
        ((1.5, 0, 2), {}, "neither a label nor an id"),
        ((1, 0, 2), {"against": 2}, "is the tail itself"),
        ((1, 0, None), {"against": 2}, "needs a whole triple"),
        ((1, 0, 2), {"k": 0}, "k is 0"),
        ((1, 0, 2), {"tails": True}, "tails is True"),
        ((1, 0, 2), {"backend": "nothing"}, "backend 'nothing'"),
    ],
)
def test_what_is_no_question_is_refused(graph: Graph, parts: Any, arguments: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        ask(graph, *parts, **arguments)


def test_models_and_triples_that_are_none_are_refused(graph: Graph) -> None:
    with pytest.raises(InputError, match="without its training triples"):
        tracin.explain(graph.checkpoint, 1, 0, 2)
    with pytest.raises(InputError, match="model is a int"):
        tracin.explain(3, 1, 0, 2, train=graph.train)
    with pytest.raises(InputError, match="train holds no triples"):
        tracin.explain(graph.checkpoint, 1, 0, 2, train=graph.train[:0])
    with pytest.raises(InputError, match="head id 50 is outside"):
        tracin.explain(graph.checkpoint, 1, 0, 2, train=torch.tensor([[50, 0, 1]]))


@pytest.mark.skipif(not tracin_ext.status()["available"], reason="an index needs the native extension")
def test_an_index_has_its_model_and_triples(graph: Graph) -> None:
    folder = graph.folder / "index"
    tracin.index.build(graph.checkpoint, graph.train, folder, progress=False)
    by_path = tracin.explain(folder, "entity 1", "relation:0", "entity 2")
    assert by_path.to_frame().equals(ask(graph, "entity 1", "relation:0", "entity 2").to_frame())
    assert tracin.explain(tracin.Index(folder), 1, 0, 2).triple == (1, 0, 2)


def test_a_bare_model_takes_dictionaries(graph: Graph) -> None:
    entities, relations = graph.checkpoint.entity_to_id, graph.checkpoint.relation_to_id
    assert entities is not None and relations is not None
    rows = [[f"entity {h}", f"relation:{r}", f"entity {t}"] for h, r, t in graph.train.tolist()]
    given = {"train": rows, "entity_to_id": dict(reversed(entities.items())), "relation_to_id": relations}
    why = tracin.explain(graph.checkpoint.model, "entity 1", "relation:0", "entity 2", **given)
    assert why.to_frame().equals(ask(graph, 1, 0, 2).to_frame())


def test_one_triple_one_entity_and_a_loop() -> None:
    model = tracin.ConvE(1, 1, 8, embedding_height=4, embedding_width=2, output_channels=2, kernel_width=2).eval()
    why = tracin.explain(model, 0, 0, 0, train=torch.zeros(1, 3, dtype=torch.int64), tails=5)
    assert (why.answers.count, why.paths, len(why.answers.first)) == (1, (), 1)
    assert why.presence.rows == (0,)
    assert "0 — 0 → 0" not in why.to_html().split("<main>")[0]
    assert why.to_frame().height == len(why.reasons)


@pytest.mark.filterwarnings("ignore:every influence on")
def test_nothing_speaks_where_the_model_is_sure(graph: Graph) -> None:
    model = tracin.ConvE(**graph.checkpoint.model.config).eval()
    model.load_state_dict(graph.checkpoint.model.state_dict())
    with torch.no_grad():
        model.bias += 1e4  # softplus(-score) is 0, and so is its gradient
    with pytest.warns(UserWarning):
        why = tracin.explain(model, 1, 0, 2, train=graph.train, method="tracin")
    assert (why.reasons, why.paths, why.balance()) == ((), (), 0.5)
    assert why.to_frame().height == 0
    assert "No training triple speaks for it." in why.to_html()
    assert json.loads(json.dumps(why.to_dict()))["for"]["reasons"] == []


def test_smallest_sets_of_a_first_answer_and_of_another(graph: Graph) -> None:
    first = ask(graph, 1, 0, "?").answers.first[0].entity
    few = SetOptions(max_size=2, candidates=3, tries=2, copies=2, entities=2)
    why = ask(graph, 1, 0, first, necessary=True, sufficient=True, sets=few)
    assert [one.found.kind for one in why.sets] == ["necessary", "sufficient"]
    for one in why.sets:
        assert [fact.rows[0] for fact in one.found.facts] == [reason.row for reason in one.reasons]
        assert all(1 in (reason.triple[0], reason.triple[2]) for reason in one.reasons)
    assert (
        why.to_frame().drop("found", "rank_before", "rank_after").columns == ask(graph, 1, 0, first).to_frame().columns
    )
    last = ask(graph, 1, 0, "?", tails=ENTITIES).answers.first[-1].entity
    other = ask(graph, 1, 0, last, necessary=True)
    assert "there is nothing to explain away" in other.to_html()
    assert other.to_frame()["side"].is_in(["for", "against"]).all()
    assert json.loads(json.dumps(other.to_dict()))["sets"][0]["facts"] == []
    with pytest.raises(InputError, match="leave out against"):
        ask(graph, 1, 0, first, necessary=True, against=(first + 1) % ENTITIES)
    with pytest.raises(InputError, match="ask for the tail"):
        ask(graph, "?", 0, 3, necessary=True)


def test_smallest_sets_need_a_conve() -> None:
    with pytest.raises(InputError, match="verified on a ConvE; this model is a"):
        tracin.explain(pykeen_model("DistMult"), 1, 0, "?", train=random_triples(20), necessary=True)


def test_files_by_their_endings(graph: Graph, tmp_path: Path) -> None:
    why = ask(graph, 1, 0, 2, k=3)
    for ending in ("html", "json", "csv", "parquet", "md"):
        why.save(tmp_path / f"why.{ending}")
    frame = why.to_frame()
    assert pl.read_parquet(tmp_path / "why.parquet").equals(frame)
    assert pl.read_csv(tmp_path / "why.csv").shape == frame.shape
    assert json.loads((tmp_path / "why.json").read_text()) == why.to_dict()
    assert (tmp_path / "why.html").read_text() == why.to_html()
    assert len(list(tmp_path.iterdir())) >= 5
    with pytest.raises(InputError, match=r"the ending .xlsx; expected"):
        why.save(tmp_path / "why.xlsx")
    with pytest.raises(InputError, match="does not exist"):
        why.save(tmp_path / "nowhere" / "why.html")


def test_frame_has_a_row_for_each_reason(graph: Graph) -> None:
    why = ask(graph, 1, 0, 2, k=3)
    frame = why.to_frame()
    assert frame["train_index"].to_list() == [reason.row for reason in why.reasons]
    assert frame["side"].to_list() == ["for"] * len(why.pro.reasons) + ["against"] * len(why.contra.reasons)
    assert frame["test_tail_label"].unique().to_list() == ["entity 2"]
    assert frame.filter(pl.col("side") == "for")["place"].to_list() == list(range(1, len(why.pro.reasons) + 1))


def test_plot_draws_a_bar_for_each_reason(graph: Graph) -> None:
    pytest.importorskip("matplotlib")
    why = ask(graph, 1, 0, 2, k=3)
    (axes,) = why.plot().axes
    assert [bar.get_width() for bar in axes.patches] == [reason.score for reason in why.reasons]


def test_plot_says_what_is_missing(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        ask(graph, 1, 0, 2).plot()


def test_odd_labels_stay_text() -> None:
    checkpoint, train = odd_model()
    for tail in range(len(LABELS)):
        why = tracin.explain(checkpoint, 0, 0, tail, train=train)
        for text in (why.to_html(), why._repr_html_()):
            assert "<script>document" not in text
            assert "<img" not in text
            assert "<b>r</b>" not in text
            assert "\u202e" not in text
        assert why.to_html().count("<script>") == 1
        lines = why.to_markdown().split("\n")
        tables = [line for line in lines if line.startswith("| ")]
        assert {line.replace("\\|", "").count("|") for line in tables} <= {6, 14}
        assert "[f](" not in why.to_markdown()
    assert why.names((0, 1, 0)) == (LABELS[0], RELATIONS[1], LABELS[0])


@pytest.mark.parametrize("inverse", [False, True])
def test_a_pykeen_model_and_its_factory(inverse: bool) -> None:
    model, triples = pykeen_model("ConvE", inverse), factory(inverse, labels=True)
    why = tracin.explain(model, "e 1", "r 0", "?", train=triples)
    assert why.labels.entity(1) == "e 1"
    assert why.answers.turned is False
    other = factory(labels=True)
    other.entity_to_id.update({"e 0": 1, "e 1": 0})
    result = SimpleNamespace(model=model, training=triples)
    assert tracin.explain(result, "e 1", "r 0", "?").to_frame().equals(why.to_frame())
    for trained in (tracin.from_pykeen(model, triples), result):
        with pytest.raises(InputError, match="other dictionaries than the model"):
            tracin.explain(trained, "e 1", "r 0", "?", train=other)


def test_a_pykeen_model_that_is_no_conve() -> None:
    with pytest.warns(UserWarning, match="using the vectorized backend"):
        why = tracin.explain(pykeen_model("DistMult"), 1, 0, "?", train=random_triples(20))
    assert why.reasons
    assert why.answers.count == why.answers.first[0].rank + why.answers.count - 1


def test_words() -> None:
    assert [ordinal(rank) for rank in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1003, 2.5)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1,003rd", "2.5th",
    ]  # fmt: skip
    assert [percent(share) for share in (0, 0.0004, 0.001, 0.05, 0.0996, 0.31, 1)] == [
        "0.0 %", "<0.1 %", "0.1 %", "5.0 %", "10 %", "31 %", "100 %",
    ]  # fmt: skip
    assert counted(torch.tensor([0.0, 5, 4, 1])) == 2
    assert counted(torch.zeros(3)) == 0
    assert counted(torch.tensor([1.0])) == 1
