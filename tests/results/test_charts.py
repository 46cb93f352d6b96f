"""Pictures and pandas data frames of results, and what is said where a library is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch

import tracin
from tests.samples.models import ENTITIES, RELATIONS, pairs_of_triples, random_model
from tests.samples.odd_labels import odd_model
from tests.samples.small_graph import Graph
from tracin import Checkpoint, InputError, TopK, TracIn
from tracin.results.charts import diverging_bars
from tracin.results.frames import as_pandas

LABELLED = Checkpoint(
    random_model(),
    entity_to_id={f"e{i}": i for i in range(ENTITIES)},
    relation_to_id={f"r{i}": i for i in range(RELATIONS)},
)


def bars(figure: Any) -> list[tuple[str, float]]:
    """What a chart shows, from top to bottom."""
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    return list(zip(names, [bar.get_width() for bar in axes.patches], strict=True))


def title(figure: Any) -> str:
    return str(figure.axes[0].get_title(loc="left"))


def test_a_top_k_is_drawn_by_label(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    test, train = pairs_of_triples()
    top = TracIn(LABELLED, device="cpu").top_k(train, test, 3)
    for row in range(len(test)):
        figure = top.plot(train, test, LABELLED, row=row)
        h, r, t = test[row].tolist()
        assert title(figure) == f"e{h} — r{r} — e{t}"
        rows = [(f"e{h} — r{r} — e{t}") for h, r, t in train[top.indices[row]].tolist()]
        assert bars(figure) == list(zip(rows, top.scores[row].tolist(), strict=True))
    assert title(top.plot(train, row=1)) == "test triple 1"
    assert bars(top.plot(train))[0][0] == " — ".join(map(str, train[top.indices[0, 0]].tolist()))
    figure.savefig(tmp_path / "top.png")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    for row in (-1, len(test), True, "0"):
        with pytest.raises(InputError, match=r"row is .*; expected that of a test triple, from 0 to"):
            top.plot(train, test, LABELLED, row=row)
    with pytest.raises(InputError, match="train has other triples"):
        top.plot(train.flip(0))
    with pytest.raises(InputError, match="row is 0"):
        TopK(torch.zeros(0, 3).long(), torch.zeros(0, 3)).plot(train)
    assert bars(TopK(torch.zeros(1, 0).long(), torch.zeros(1, 0)).plot(train, test[:1], LABELLED)) == []


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font", "ignore:Matplotlib currently does not support")
def test_odd_labels_are_drawn_as_they_are(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    checkpoint, train = odd_model()
    top = TracIn(checkpoint, device="cpu").top_k(train, train[:1], 5)
    figure = top.plot(train, train[:1], checkpoint)
    figure.savefig(tmp_path / "odd.svg")
    assert "<script>" not in (tmp_path / "odd.svg").read_text()


def results(graph: Graph) -> dict[str, tuple[Callable[[], pl.DataFrame], Callable[[], Any], Callable[[], Any]]]:
    """to_frame, to_pandas and plot of each kind."""
    top = TracIn(graph.checkpoint, device="cpu").top_k(graph.train, graph.test, 3)
    named = (graph.train, graph.test, graph.checkpoint)
    why = tracin.explain(graph.checkpoint, "entity 1", "relation:0", "entity 2", train=graph.train)
    report = tracin.audit(graph.checkpoint, graph.train, k=5)
    return {
        "TopK": (lambda: top.to_frame(*named), lambda: top.to_pandas(*named), lambda: top.plot(*named)),
        "Explanation": (why.to_frame, why.to_pandas, why.plot),
        "Audit": (report.to_frame, report.to_pandas, report.plot),
    }


def test_pandas_has_the_same(graph: Graph) -> None:
    pandas = pytest.importorskip("pandas")
    for name, (to_frame, to_pandas, _) in results(graph).items():
        frame, other = to_frame(), to_pandas()
        assert isinstance(other, pandas.DataFrame) and list(other.columns) == frame.columns, name
        for column in frame:
            assert [None if value != value else value for value in other[column.name].tolist()] == column.to_list()
    assert as_pandas(pl.DataFrame({"a": []})).shape == (0, 1)


@pytest.mark.parametrize("missing", ["pandas", "matplotlib"])
def test_a_missing_library_is_named(graph: Graph, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    for _, to_pandas, plot in results(graph).values():
        with pytest.raises(InputError, match=f"{missing}, which is not installed: pip install {missing}, or take to_f"):
            (to_pandas if missing == "pandas" else plot)()


def test_the_sides_differ_by_pattern_as_well_as_by_colour() -> None:
    pytest.importorskip("matplotlib")
    one, other = diverging_bars("title", [("a", 1.0), ("b", -0.5)]).axes[0].patches
    assert (one.get_hatch(), other.get_hatch()) == (None, "//")
    assert one.get_facecolor() != other.get_facecolor()
    if hasattr(other, "get_hatchcolor"):  # from matplotlib 3.10 on apart from the edge's
        assert other.get_hatchcolor() == (1.0, 1.0, 1.0, 1.0)
