"""The necessary protocol: which sets are removed, that searches are kept, and what a damaged file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.samples.planted_effects import RECIPE, small_graph
from tracin.evaluation.deletion import delete
from tracin.evaluation.models import trained
from tracin.evaluation.scores import Model, Score
from tracin.sets import protocol
from tracin.sets.protocol import FIRST, SMALLEST, Chooser, padded, remove
from tracin.sets.smallest import SetOptions

GRAPH = small_graph()
QUERIES = GRAPH.test[:3]
OPTIONS = SetOptions(max_size=2, candidates=3, tries=2, copies=1)


def chooser(folder: Path) -> Chooser:
    model = Model(trained(GRAPH, RECIPE, folder / "models", seed=0))
    return Chooser(GRAPH, RECIPE, model, OPTIONS, folder / "sets", progress=False)


def test_sets_are_filled_up_with_their_own() -> None:
    assert padded([(3, 4, 5), (7,), ()], spare=9).tolist() == [[3, 4, 5], [7, 7, 7], [9, 9, 9]]
    assert padded([(), ()], spare=2).tolist() == [[2], [2]]


def test_facts_of_the_head_by_score_and_smallest_sets(tmp_path: Path) -> None:
    score = Score.named("accurate")
    one = chooser(tmp_path)
    found = one.choose("accurate", score, QUERIES, (1, 2), searched=True)
    assert list(found) == [(FIRST, 1), (FIRST, 2), (SMALLEST, 1), (SMALLEST, 2)]
    scores = score.of(GRAPH, one.model, QUERIES)
    for query, own, first, smallest in zip(QUERIES, scores, found[FIRST, 2].sets, found[SMALLEST, 2].sets, strict=True):
        held = ((GRAPH.train[:, [0, 2]] == query[0]).any(1)).nonzero()[:, 0]
        best = held[own[held].argsort(descending=True)]
        assert list(first) == best[:2].tolist()
        assert set(smallest) <= set(best[:3].tolist()) and 1 <= len(smallest) <= 2
    assert found[FIRST, 2].found is None and found[SMALLEST, 2].found is not None


def test_what_was_searched_is_kept_and_what_is_damaged_is_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score = Score.named("two-rules")
    whole = chooser(tmp_path).choose("two-rules", score, QUERIES, (1, 2), searched=True)
    files = sorted((tmp_path / "sets").glob("set_*.json"))
    assert len(files) == len(QUERIES)
    searched: list[Any] = []
    search = protocol.search
    monkeypatch.setattr(protocol, "search", lambda *given, **named: searched.append(1) or search(*given, **named))
    files[0].write_text(files[0].read_text()[:-5])
    files[1].unlink()
    assert chooser(tmp_path).choose("two-rules", score, QUERIES, (1, 2), searched=True) == whole
    assert len(searched) == 4  # two predictions, two sizes
    assert "is damaged; that set is searched again" in capsys.readouterr().err


def test_sets_are_removed_together(tmp_path: Path) -> None:
    sets = {"a": {(FIRST, 1): protocol.Chosen([(0,), (1,), (5, 6)], 4 / 3, None)}}
    (found,) = remove(GRAPH, RECIPE, tmp_path, sets, QUERIES, bootstrap=10)["a"][FIRST].values()
    tops = {"b": torch.tensor([[0, 1], [1, 5], [5, 6]])}
    own = delete(GRAPH, RECIPE, tmp_path, tops, QUERIES, ks=(2,), together=True, bootstrap=10)["b"][2]
    assert (found.removed, found.changes) == (4, own.changes)
    assert remove(GRAPH, RECIPE, tmp_path, {"a": {(FIRST, 1): protocol.Chosen([()], 0, None)}}, QUERIES) == {}
