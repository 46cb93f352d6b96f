"""A report on a training set as a page for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracin.results.page import column, framed, number_cell
from tracin.results.page import render as render_template
from tracin.results.words import percent

if TYPE_CHECKING:
    from tracin.auditing.audit import Audit

BARS = 12
LISTED = 50  # rows of each list of repeats
LEAKS = {"same": "the very same", "inverse": "the other way round", "duplicate": "by another relation"}


def render(report: Audit) -> str:
    return render_template("audit.html", title=f"Audit of {len(report.train):,} training triples", one=values(report))


def fragment(report: Audit) -> str:
    """For a notebook: the page in a frame, whose style and script touch nothing else."""
    return framed("Audit", report.to_html())


def values(report: Audit) -> dict[str, Any]:
    """What the template shows."""
    repeats, count = report.repeats, len(report.train)
    most = max((each.unusual for each in report.suspects[:1]), default=1.0)
    tiles = [
        _tile(len(repeats.copies), "exact copy", "exact copies"),
        _tile(repeats.repeated, "triple that another one says again", "triples that another one says again"),
        _tile(len(repeats.loops), "odd self-loop", "odd self-loops"),
        _tile(len(repeats.single_entities), "entity seen once", "entities seen once"),
        _tile(len(repeats.single_relations), "relation seen once", "relations seen once"),
    ]
    if repeats.tests:
        told = f"of {repeats.tests:,} test triples are told by training ones"
        tiles.insert(0, (f"{len(repeats.leaks):,}", told))
    return {
        "lead": lead(report),
        "tiles": tiles,
        "bars": [
            {
                "number": place,
                "names": report.names(each.triple),
                "unusual": f"{each.unusual:,.1f} ×",
                "width": f"{100 * max(0.0, each.unusual) / max(most, 1e-9):.1f}",
                "words": f"loss {each.loss:.2f}, row {each.row:,}",
            }
            for place, each in enumerate(report.suspects[:BARS], 1)
        ],
        "meaning": meaning(report),
        "suspects": _suspects(report),
        "sections": [section for section in _sections(report) if section["rows"]],
        "relations": _relations(report),
        "footer": f"Model {report.model}; {count:,} training triples; {report.method}.",
    }


def _tile(number: int, one: str, more: str) -> tuple[str, str]:
    return f"{number:,}", one if number == 1 else more


def lead(report: Audit) -> str:
    count, estimate = len(report.train), report.estimate
    share = percent(estimate / count)
    told = f"About {estimate:,} of {count:,} training triples ({share}) look wrong to the model that learned them."
    return (
        told if estimate else f"Hardly any of {count:,} training triples looks wrong; these were the hardest to learn."
    )


def meaning(report: Audit) -> tuple[str, str, str]:
    """What the figures mean and how far to trust them, in three sentences."""
    return (
        "A triple looks wrong when the model, which was trained on it, still gives it a far higher loss than is usual "
        "for its relation; the figure before the × says how many times the usual spread.",
        "The number of wrong triples counts the scores that lie more than four deviations below the median and have no "
        "counterpart above it: right but hard triples are in it, wrong ones that were learned by heart are not, and of "
        "a model that fits a large graph loosely it is far too low.",
        "Where 5 % of the triples of UMLS, Kinship and FB15k-237 had been made wrong, 86 to 100 of the first hundred "
        "were such; so read from the top, look at what opposes a triple, and decide by what you know of the matter.",
    )


def _suspects(report: Audit) -> dict[str, Any]:
    columns = [
        column("no.", "number", "ascending"),
        column("triple", "triples"),
        column("unusual", "number"),
        column("loss", "number"),
        column("self-influence", "number"),
        column("row", "number"),
        column("opposed most by", "triples"),
    ]
    rows = [
        {
            "asked": False,
            "cells": [
                number_cell(place, str(place)),
                [report.names(each.triple)],
                number_cell(each.unusual, f"{each.unusual:,.1f} ×"),
                number_cell(each.loss, f"{each.loss:.2f}"),
                number_cell(each.self_influence, f"{each.self_influence:.2e}"),
                number_cell(each.row, f"{each.row:,}"),
                [report.names_of_row(row) for row, _ in each.opponents],
            ],
        }
        for place, each in enumerate(report.suspects, 1)
    ]
    return {"columns": columns, "rows": rows}


def _sections(report: Audit) -> list[dict[str, Any]]:
    """The lists of what is there twice, once, or oddly."""
    labels, repeats = report.labels, report.repeats
    row, triple = column("row", "number"), column("triple", "triples")
    twins = [
        [
            labels.relation_name(each.relation),
            labels.relation_name(each.other),
            "from tail to head" if each.turned else "from head to tail",
            number_cell(each.share, percent(each.share)),
            number_cell(each.shared, f"{each.shared:,}"),
        ]
        for each in repeats.twins
    ]
    leaks = [
        [
            number_cell(leak.test_row, f"{leak.test_row:,}"),
            [_names(report, report.test[leak.test_row].tolist())],
            LEAKS[leak.kind],
            [report.names_of_row(leak.row)],
            number_cell(leak.row, f"{leak.row:,}"),
        ]
        for leak in repeats.leaks[:LISTED]
    ]
    copies = [
        [number_cell(later, f"{later:,}"), number_cell(first, f"{first:,}"), [report.names_of_row(first)]]
        for first, later in repeats.copies[:LISTED]
    ]
    loops = [[number_cell(place, f"{place:,}"), [report.names_of_row(place)]] for place in repeats.loops[:LISTED]]
    twin_columns = [column("relation", "label"), column("is said again by", "label"), column("how"),
                    column("of its pairs", "number"), column("pairs", "number")]  # fmt: skip
    leak_columns = [column("test row", "number"), column("test triple", "triples"), column("told"),
                    column("training triple", "triples"), row]  # fmt: skip
    return [
        _listed("Relations that say the same", len(twins), twin_columns, twins[:LISTED],
                "A twin has at least 80 % of the other's pairs of entities: it gives answers away."),
        _listed("Test triples that the training set tells", len(repeats.leaks), leak_columns, leaks,
                "They flatter a model that has learned to look them up."),
        _listed("Exact copies", len(repeats.copies), [row, column("first in row", "number"), triple], copies,
                "The same triple again: it counts twice in training."),
        _listed("Odd self-loops", len(repeats.loops), [row, triple], loops,
                "A thing related to itself, in relations where that hardly occurs."),
    ]  # fmt: skip


def _names(report: Audit, triple: list[int]) -> tuple[str, str, str]:
    head, relation, tail = triple
    return report.names((head, relation, tail))


def _listed(title: str, count: int, columns: list[Any], rows: list[Any], hint: str) -> dict[str, Any]:
    more = f" The first {len(rows):,} are shown." if len(rows) < count else ""
    return {
        "title": f"{title}: {count:,}",
        "hint": hint + more,
        "columns": columns,
        "rows": [{"asked": False, "cells": cells} for cells in rows],
    }


def _relations(report: Audit) -> dict[str, Any]:
    columns = [
        column("relation", "label"),
        column("triples", "number", "descending"),
        column("median loss", "number"),
        column("standing out", "number"),
        column("self-loops", "number"),
    ]
    rows = [
        {
            "asked": False,
            "cells": [
                report.labels.relation_name(row["relation_id"]),
                number_cell(row["triples"], f"{row['triples']:,}"),
                number_cell(row["median_loss"], f"{row['median_loss']:.3f}"),
                number_cell(row["standing_out"], f"{row['standing_out']:,}"),
                number_cell(row["self_loops"], f"{row['self_loops']:,}"),
            ],
        }
        for row in report.relations.iter_rows(named=True)
    ]
    return {"columns": columns, "rows": rows}
