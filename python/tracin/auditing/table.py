"""A report on a training set on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from tracin.auditing.page import LEAKS, lead
from tracin.errors import printable
from tracin.results.tables import TRIPLE, LabelTable, arrowed
from tracin.results.words import percent, several

if TYPE_CHECKING:
    from tracin.auditing.audit import Audit

LISTED = 5


def drawn(report: Audit, count: int) -> Group:
    """What rich draws: the first `count` suspects, then what is there twice, once or oddly."""
    return Group(*_parts(report, count))


def _parts(report: Audit, count: int) -> Iterator[Any]:
    yield Text(lead(report), "bold")
    rows: list[tuple[Text, ...]] = []
    for each in report.suspects[:count]:
        triple = Text(arrowed(*report.names(each.triple)))
        for row, _ in each.opponents[:1]:
            triple.append(f"\nagainst it: {arrowed(*report.names_of_row(row))}", "dim")
        texts = (f"{each.unusual:,.1f} x", f"{each.loss:.2f}", f"{each.self_influence:.1e}", str(each.row))
        unusual, loss, own, place = map(Text, texts)
        rows.append((unusual, triple, loss, own, place))
    yield LabelTable(Text(""), ("unusual", TRIPLE, "loss", "self-influence", "row"), rows)
    yield from _repeats(report)


def _repeats(report: Audit) -> Iterator[Text]:
    repeats, labels = report.repeats, report.labels
    copies = several(len(repeats.copies), "exact copy", "exact copies")
    again = several(repeats.repeated, "triple", "triples")
    yield Text(f"{copies}; {again} that a twin relation says again")
    for each in repeats.twins[:LISTED]:
        how = "the other way round" if each.turned else "as well"
        names = labels.relation_name(each.relation), labels.relation_name(each.other)
        yield Text(printable(f"  {percent(each.share)} of {names[0]}: {how} as {names[1]}"))
    if len(repeats.twins) > LISTED:
        yield Text(f"  and {len(repeats.twins) - LISTED:,} more")
    if repeats.tests:
        kinds = {kind: sum(leak.kind == kind for leak in repeats.leaks) for kind in LEAKS}
        told = ", ".join(f"{number:,} {LEAKS[kind]}" for kind, number in kinds.items() if number)
        yield Text(
            f"{len(repeats.leaks):,} of {repeats.tests:,} test triples are told by training ones"
            + (f": {told}" if told else "")
        )
        if any(repeats.unseen):
            yield Text(f"test triples name {repeats.unseen[0]:,} entities and {repeats.unseen[1]:,} relations unseen")
    yield Text(several(len(repeats.loops), "odd self-loop", "odd self-loops"))
    for row in repeats.loops[:LISTED]:
        yield Text(f"  {arrowed(*report.names_of_row(row))}")
    entities = several(len(repeats.single_entities), "entity", "entities")
    relations = several(len(repeats.single_relations), "relation", "relations")
    yield Text(f"seen once: {entities}, {relations}")
