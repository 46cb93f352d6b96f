"""Explanations as pages for people, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tracin.explanation.reasons import MOST, Side
from tracin.explanation.ties import in_words
from tracin.results.neighbourhood import TALL, WIDE, Edge, picture
from tracin.results.page import column, framed, number_cell, visible
from tracin.results.page import render as render_template
from tracin.results.words import percent

if TYPE_CHECKING:
    from tracin.explanation.answer import Explanation
    from tracin.explanation.answers import Answer
    from tracin.explanation.small_sets import ShownSet

DRAWN = 8  # reasons of each side in the picture
WAYS = 2  # triples of a way that is drawn: longer ones would cross everything
KNOWN = {"training": "in the training set", "given": "known to be true", "": "new"}
HEADINGS = {
    "necessary": "Without which facts does it fall?",
    "sufficient": "Which facts carry it over to others?",
}
MEANS = {
    "tracin": (
        "A score says how far one training step on that triple moves the model towards this answer (for) or away from "
        "it (against), found from the gradients of all its parameters{less}."
    ),
    "accurate": (
        "A score says what that triple did in training for this answer among its rivals (for) or against it (against), "
        "found from the gradients at the embeddings and freed from what the other triples say anyway{less}."
    ),
}
LESS = "; that for the other answer is taken off"
TRUST = {
    "tracin": (
        "Scores tell what this model leans on, not what is true of the world, and less of what training without a "
        "triple would bring than the accurate ones do: read the first few as leads to check."
    ),
    "accurate": (
        "Scores tell what this model leans on, not what is true of the world, and only roughly what training without a "
        "triple would bring: read the first few as leads to check."
    ),
}


def render(explanations: Sequence[Explanation]) -> str:
    """A page of one or several explanations."""
    title = "Why these predictions?" if len(explanations) > 1 else "Why? " + " — ".join(_names(explanations[0]))
    heading = "h1" if len(explanations) == 1 else "h2"
    shown = [values(each, place) for place, each in enumerate(explanations, 1)]
    return render_template("explain.html", title=title, answers=shown, heading=heading)


def fragment(explanation: Explanation) -> str:
    """For a notebook: the page in a frame, whose style and script touch nothing else."""
    return framed("Explanation", explanation.to_html())


def values(explanation: Explanation, number: int = 1) -> dict[str, Any]:
    """What the template shows of one explanation, the `number`th on the page."""
    names = _names(explanation)
    own = (names[0], names[2])
    balance = explanation.balance()
    rival = None if explanation.rival is None else explanation.labels.entity_name(explanation.rival[2])
    eyebrow = {
        "": "Why does the model predict this?",
        "head": f"The model is asked for the head and answers {names[0]}. Why?",
        "tail": f"The model is asked for the tail and answers {names[2]}. Why?",
    }[explanation.open]
    if rival is not None:
        eyebrow = f"Why this, rather than {visible(rival)}?"
    first = len(explanation.pro.reasons)
    return {
        "names": names,
        "own": own,
        "eyebrow": eyebrow,
        "rank": sentence(explanation.rank_words()),
        "presence": explanation.presence.sentence(explanation.triple, explanation.labels),
        "balance": [f"{max(part, 0.004):.4f}" for part in (balance, 1 - balance)],
        "balance_words": [f"{100 * balance:.0f} % speaks for it", f"{100 - 100 * balance:.0f} % against"],
        "sides": [
            _side(explanation, explanation.pro, "for", "Speaks for it", 1),
            _side(explanation, explanation.contra, "against", "Speaks against it", first + 1),
        ],
        "meaning": meaning(explanation),
        "picture": _picture(explanation, number),
        "picture_words": "Numbers are those of the lists above. Blue, solid: for; orange, dashed: against; the "
        "thicker, the stronger. Grey, without a number: the rest of a way from head to tail.",
        "sets": [_set(explanation, one) for one in explanation.sets],
        "paths": [_path(explanation, path) for path in explanation.paths],
        "answers": _answers(explanation),
        "table": _table(explanation),
        "footer": f"Model {explanation.model}; {len(explanation.train):,} training triples; {explanation.method}.",
    }


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def meaning(explanation: Explanation) -> tuple[str, str, str]:
    """What the scores mean and how far to trust them, in three sentences."""
    return (
        MEANS[explanation.kind].format(less="" if explanation.rival is None else LESS),
        f"All {len(explanation.train):,} training triples were scored; the number that count is how many of the "
        f"strongest together make up {MOST:.0%} of their side, so a few large shares mean a clear reason and many "
        "small ones a habit of the model.",
        TRUST[explanation.kind],
    )


def _names(explanation: Explanation) -> tuple[str, str, str]:
    head, relation, tail = explanation.names(explanation.triple)
    return visible(head), visible(relation), visible(tail)


def _side(explanation: Explanation, side: Side, name: str, title: str, first: int) -> dict[str, Any]:
    most = max(abs(reason.score) for reason in explanation.reasons) if explanation.reasons else 1
    return {
        "name": name,
        "title": title,
        "nothing": f"No training triple speaks {name} it.",
        "words": _more(explanation, side, name) if side.reasons else "",
        "bars": [
            {
                "number": number,
                "names": explanation.names(reason.triple),
                "share": percent(reason.share),
                "width": f"{100 * abs(reason.score) / most:.1f}",
                "tie": in_words(reason.tie),
                "score": f"{reason.score:+.3g}",
            }
            for number, reason in enumerate(side.reasons, first)
        ],
    }


def _more(explanation: Explanation, side: Side, name: str) -> str:
    words = sentence(explanation.side_words(side).partition(": ")[2])
    if side.number > len(side.reasons):
        words += f" In all, {side.number:,} training triples lean {name} it, most of them hardly at all."
    return words


def _path(explanation: Explanation, path: Any) -> dict[str, Any]:
    labels, steps = explanation.labels, []
    for row, start, end in zip(path.rows, path.entities, path.entities[1:], strict=False):
        head, relation, _ = explanation.train[row].tolist()
        steps.append(
            {
                "start": labels.entity_name(start),
                "relation": labels.relation_name(relation),
                "back": head != start,
                "end": labels.entity_name(end),
            }
        )
    return {"steps": steps, "share": percent(path.total / explanation.pro.total)}


def _set(explanation: Explanation, one: ShownSet) -> dict[str, Any]:
    return {
        "title": HEADINGS[one.found.kind],
        "words": one.found.sentence(),
        "facts": [(explanation.names(reason.triple), f"{reason.score:+.3g}") for reason in one.reasons],
        "nearest": not one.found.found,
    }


def _picture(explanation: Explanation, number: int) -> Markup | None:
    edges, labels = [], {}
    head, _, tail = explanation.triple
    for entity in (head, tail):
        labels[entity] = visible(explanation.labels.entity_name(entity))
    place = 0
    for side, name in ((explanation.pro, "for"), (explanation.contra, "against")):
        for count, reason in enumerate(side.reasons):
            place += 1
            start, _, end = reason.triple
            if count >= DRAWN or reason.triple == explanation.triple:
                continue
            for entity in (start, end):
                labels[entity] = visible(explanation.labels.entity_name(entity))
            weight = abs(reason.score) / max(abs(other.score) for other in explanation.reasons)
            title = f"{place}: " + " — ".join(map(visible, explanation.names(reason.triple)))
            edges.append(Edge(start, end, place, name, weight, f"{title}, {name}, {percent(reason.share)}"))
    if not edges:
        return None
    edges += _ways(explanation, {(edge.source, edge.target) for edge in edges}, labels)
    told = f"{labels[head]} and {labels[tail]}, and the training triples around them; the lists above say the same"
    drawn = (
        picture(head, tail, labels, edges, shape, f"{kind}{number}", told)
        for kind, shape in (("wide", WIDE), ("tall", TALL))
    )
    return Markup("\n").join(drawn)


def _ways(explanation: Explanation, drawn: set[tuple[int, int]], labels: dict[int, str]) -> list[Edge]:
    """The triples of short ways from head to tail that are not drawn yet; the labels of their entities are added."""
    found = []
    rows = (row for path in explanation.paths if len(path.rows) <= WAYS for row in path.rows)
    for row in dict.fromkeys(rows):
        start, relation, end = explanation.train[row].tolist()
        if (start, end) not in drawn:
            drawn.add((start, end))
            for entity in (start, end):
                labels[entity] = visible(explanation.labels.entity_name(entity))
            title = " — ".join(map(visible, explanation.names((start, relation, end))))
            found.append(Edge(start, end, 0, "way", 0.0, f"{title}, on a way from head to tail"))
    return found


def _answers(explanation: Explanation) -> dict[str, Any]:
    found, place = explanation.answers, "head" if explanation.open == "head" else "tail"
    listed = list(found.first)
    if all(answer.entity != found.asked.entity for answer in listed):
        listed.append(found.asked)
    columns = [
        column("rank", "number", "ascending"),
        column(place, "label"),
        column("score", "number"),
        column("filtered rank", "number"),
        column("known?"),
    ]
    rows = [
        {
            "asked": answer.entity == found.asked.entity,
            "cells": [
                number_cell(answer.rank, f"{answer.rank:,g}"),
                explanation.labels.entity_name(answer.entity),
                number_cell(answer.score, f"{answer.score:.2f}"),
                number_cell(answer.filtered_rank, _filtered(answer, found.asked.entity)),
                KNOWN[answer.known],
            ],
        }
        for answer in listed
    ]
    names = _names(explanation)
    asked = f"? — {names[1]} → {names[2]}" if place == "head" else f"{names[0]} — {names[1]} → ?"
    caption = f"{asked}, of {found.count:,} entities. Filtered: without the others that are known to be true."
    return {
        "title": f"What the model answers: its first {place}s",
        "columns": columns,
        "rows": rows,
        "caption": caption,
    }


def _filtered(answer: Answer, asked: int) -> str:
    """Of another answer that is known to be true it says nothing."""
    return f"{answer.filtered_rank:,g}" if answer.entity == asked or not answer.known else ""


def _table(explanation: Explanation) -> dict[str, Any]:
    reasons = explanation.reasons
    terms = list(reasons[0].terms) if reasons else []
    columns = [
        column("no.", "number", "ascending"),
        column("", ""),
        column("head", "label"),
        column("relation", "label"),
        column("tail", "label"),
        column("score", "number"),
        column("share", "number"),
        *(column(term, "number") for term in terms),
        column("how it relates", "wide"),
        column("two rules", "number"),
        column("row", "number"),
    ]
    columns[1]["name"] = "side"
    rows = [
        {
            "asked": False,
            "cells": [
                number_cell(number, str(number)),
                "for" if reason.score > 0 else "against",
                *explanation.names(reason.triple),
                number_cell(reason.score, f"{reason.score:+.3g}"),
                number_cell(reason.share, percent(reason.share)),
                *(number_cell(reason.terms[term], f"{reason.terms[term]:+.2g}") for term in terms),
                in_words(reason.tie),
                number_cell(reason.two_rules, f"{reason.two_rules:g}"),
                number_cell(reason.row, f"{reason.row:,}"),
            ],
        }
        for number, reason in enumerate(reasons, 1)
    ]
    caption = (
        "Two rules: what is to be seen without any model, 1 for the same relation with the same head or tail, and 1 "
        "for the same two entities. Row: of the training triples, from 0."
    )
    if terms:
        caption += " The columns after the share add up to the score."
    return {"columns": columns, "rows": rows, "caption": caption}


# ---- Markdown ---------------------------------------------------------------------------------------------------


def markdown(explanations: Iterable[Explanation]) -> str:
    """The same in Markdown."""
    return "\n\n".join(_markdown(each) for each in explanations) + "\n"


def _markdown(explanation: Explanation) -> str:
    shown = values(explanation)
    parts = [
        "## " + " — ".join(map(plain_cell, shown["names"])),
        plain_cell(f"{shown['eyebrow']} {shown['rank']} {shown['presence']}"),
        f"{shown['balance_words'][0]}, {shown['balance_words'][1]}.",
        *(plain_cell(sentence(explanation.side_words(side))) for side in (explanation.pro, explanation.contra)),
        markdown_table(shown["table"]),
        *(_markdown_set(one) for one in shown["sets"]),
        " ".join(shown["meaning"]),
        "### " + shown["answers"]["title"],
        markdown_table(shown["answers"]),
        plain_cell(shown["footer"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _markdown_set(one: dict[str, Any]) -> str:
    facts = [f"- {' — '.join(map(plain_cell, names))} ({score})" for names, score in one["facts"]]
    return "\n\n".join(part for part in (f"### {one['title']}", plain_cell(one["words"]), "\n".join(facts)) if part)


def markdown_table(table: dict[str, Any]) -> str:
    if not table["rows"]:
        return ""
    numbers = [column["kind"] == "number" for column in table["columns"]]
    lines = [
        [column["name"] for column in table["columns"]],
        ["--:" if number else ":--" for number in numbers],
        *(
            [cell["text"] if isinstance(cell, dict) else plain_cell(cell) for cell in row["cells"]]
            for row in table["rows"]
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain_cell(text: str) -> str:
    """Text in which Markdown sees no marks of its own."""
    escaped = "".join(f"\\{mark}" if mark in "\\`*_[]<>|#&" else mark for mark in visible(text))
    return escaped
