"""Influences as tables for people, by name."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tracin.errors import printable
from tracin.results.writers import Influences
from tracin.triples.labels import Labels
from tracin.triples.read import Triple

NUMBERS = ("influence", "self-influence", "row")  # columns that are not wrapped


def influence_table(result: Influences, labels: Labels, limit: int | None = None, remark: str = "") -> Table:
    """A test triple and the training triples that speak for it (proponents) and against it (opponents).

    Args:
        result: the training triples, shown in this order.
        labels: what ids are called; a name is shown where there is one.
        limit: rows; None shows all.
        remark: a second line of the title.
    """
    head, relation, tail = _names(result.triple, labels)
    title = Text(f"{head} --{relation}-> {tail}", "bold").append(f"\n{remark}" if remark else "", "not bold")
    table = _table(title, "", "influence", "head", "relation", "tail", *([] if result.indices is None else ["row"]))
    for line, (triple, score) in enumerate(zip(result.train[:limit].tolist(), result.scores.tolist(), strict=False)):
        kind, style = ("for", "green") if score > 0 else ("against", "red") if score < 0 else ("", "")
        place = [] if result.indices is None else [str(int(result.indices[line]))]
        table.add_row(Text(kind, style), Text(f"{score:+.2e}", style), *map(Text, (*_names(triple, labels), *place)))
    return table


def self_influence_table(
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    labels: Labels,
    limit: int,
) -> Table:
    """The training triples of the greatest self-influence."""
    table = _table(Text("greatest self-influence", "bold"), "self-influence", "head", "relation", "tail", "row")
    for index in scores.argsort(descending=True, stable=True)[:limit].tolist():
        table.add_row(f"{scores[index]:.2e}", *map(Text, (*_names(train[index].tolist(), labels), str(index))))
    return table


def _table(title: Text, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        number = name in NUMBERS
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _names(triple: Triple | list[int], labels: Labels) -> tuple[str, str, str]:
    head, relation, tail = triple
    names = labels.entity_name(head), labels.relation_name(relation), labels.entity_name(tail)
    return printable(names[0]), printable(names[1]), printable(names[2])
