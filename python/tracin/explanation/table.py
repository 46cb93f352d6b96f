"""Explanations on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from tracin.errors import printable
from tracin.explanation.page import HEADINGS, KNOWN, sentence
from tracin.explanation.ties import in_words
from tracin.results.tables import TRIPLE, LabelTable, arrowed
from tracin.results.words import percent

if TYPE_CHECKING:
    from tracin.explanation.answer import Explanation
    from tracin.explanation.small_sets import ShownSet

PATHS = 3


def drawn(explanation: Explanation, tails: int) -> Group:
    """What rich draws: the question, the model's first answers, both sides, the ways from head to tail."""
    return Group(*_parts(explanation, tails))


def _parts(explanation: Explanation, tails: int) -> Iterator[Any]:
    yield Text(arrowed(*explanation.names(explanation.triple)), "bold")
    if explanation.rival is not None:
        yield Text(f"rather than {printable(explanation.labels.entity_name(explanation.rival[2]))}", "bold")
    told = explanation.presence.sentence(explanation.triple, explanation.labels)
    yield Text(printable(f"{sentence(explanation.rank_words())} {told}"))
    if explanation.reasons:
        yield Text(f"Of all that speaks for or against it, {explanation.balance():.0%} speaks for it.")
        yield reasons(explanation)
    for side in (explanation.pro, explanation.contra):
        yield Text(explanation.side_words(side))
    for one in explanation.sets:
        yield from smallest(explanation, one)
    if explanation.paths:
        yield Text("\nways from head to tail, with their share of what speaks for it", "bold")
    for path in explanation.paths[:PATHS]:
        parts = [explanation.labels.entity_name(path.entities[0])]
        for row, start, end in zip(path.rows, path.entities, path.entities[1:], strict=False):
            head, relation, _ = explanation.train[row].tolist()
            name = explanation.labels.relation_name(relation)
            arrow = f"--{name}->" if head == start else f"<-{name}--"
            parts += [arrow, explanation.labels.entity_name(end)]
        yield Text(printable(f"{percent(path.total / explanation.pro.total):>6}  {' '.join(parts)}"))
    yield Text("")
    yield answers(explanation, tails)


def smallest(explanation: Explanation, one: ShownSet) -> Iterator[Text]:
    """A smallest set: what it does, and its facts."""
    yield Text(f"\n{HEADINGS[one.found.kind]}", "bold")
    yield Text(one.found.sentence())
    for reason in one.reasons:
        yield Text(
            printable(f"  {arrowed(*explanation.names(reason.triple))}  ({reason.score:+.3g}, row {reason.row})")
        )


def reasons(explanation: Explanation) -> LabelTable:
    rows: list[tuple[Text, ...]] = []
    for reason in explanation.reasons:
        kind, style = ("for", "green") if reason.score > 0 else ("against", "red")
        triple = Text(arrowed(*explanation.names(reason.triple))).append(f"\n{in_words(reason.tie)}", "dim")
        figures = (f"{reason.score:+.3g}", f"{reason.two_rules:g}", str(reason.row))
        score, rules, row = map(Text, figures)
        rows.append((Text(kind, style), Text(percent(reason.share), style), triple, score, rules, row))
    return LabelTable(Text(""), ("", "share", TRIPLE, "score", "two rules", "row"), rows)


def answers(explanation: Explanation, tails: int) -> LabelTable:
    found, place = explanation.answers, "head" if explanation.open == "head" else "tail"
    listed = list(found.first[:tails])
    if found.asked not in listed:
        listed.append(found.asked)
    rows: list[tuple[Text, ...]] = []
    for answer in listed:
        style = "bold" if answer.entity == found.asked.entity else ""
        texts = (
            f"{answer.rank:g}",
            printable(explanation.labels.entity_name(answer.entity)),
            f"{answer.score:.2f}",
            KNOWN[answer.known],
        )
        rows.append(tuple(Text(text, style) for text in texts))
    return LabelTable(
        Text(f"what the model answers, of {found.count:,}", "bold"), ("rank", place, "score", "known?"), rows
    )
