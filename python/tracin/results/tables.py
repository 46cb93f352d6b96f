"""Influences as tables for people, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tracin.errors import printable
from tracin.results.writers import Influences
from tracin.triples.labels import Labels
from tracin.triples.read import Triple

NUMBERS = ("influence", "self-influence", "row", "share", "score", "two rules", "rank", "loss", "unusual", "triples")
LABELS = ("head", "relation", "tail")
TRIPLE = "training triple"
YIELDING = (*LABELS, TRIPLE)  # the columns that give way where a table is wider than the terminal
MARK = r"\s_/.,:;|"
BREAKS = re.compile(rf"(?<=[{MARK}])(?![{MARK}])|(?<=\w-)(?=\w)")  # in a label: after marks between its words


@dataclass(frozen=True)
class LabelTable:
    """A table that fits the terminal; lines of labels end between words, unless a single word is too wide."""

    title: Text
    columns: tuple[str, ...]
    rows: list[tuple[Text, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield broken(self.title, options.max_width)
        width = Measurement.get(console, options.update(width=10**6), self._table({})).maximum
        yield self._table({} if width <= options.max_width else self._narrower(width - options.max_width))

    def _narrower(self, excess: int) -> dict[str, int]:
        """Widths of the label columns that take so much less than whole labels would."""
        names = [name for name in self.columns if name in YIELDING]
        cells = [
            [line for row in self.rows for line in row[self.columns.index(name)].plain.split("\n")] for name in names
        ]
        whole = [max(map(cell_len, (name, *texts))) for name, texts in zip(names, cells, strict=True)]
        words = [
            max(cell_len(word.rstrip()) for text in (name, *texts) for word in BREAKS.split(text))
            for name, texts in zip(names, cells, strict=True)
        ]
        return dict(zip(names, fitting(whole, words, sum(whole) - excess), strict=True))

    def _table(self, widths: dict[str, int]) -> Table:
        """`widths`: of the columns whose labels are broken."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.columns:
            number = name in NUMBERS
            table.add_column(
                name,
                justify="right" if number else "left",
                no_wrap=number,
                overflow="fold",
                width=widths.get(name),
            )
        for row in self.rows:
            cells = zip(self.columns, row, strict=True)
            table.add_row(*(broken(cell, widths[name]) if name in widths else cell for name, cell in cells))
        return table


def fitting(whole: Sequence[int], words: Sequence[int], room: int) -> list[int]:
    """The largest widths of columns that fit into `room`: at most `whole`, and no narrower than `words` if possible."""
    for least in (words, [1] * len(words)):
        for most in range(max(whole), 0, -1):
            widths = [max(low, min(high, most)) for low, high in zip(least, whole, strict=True)]
            if sum(widths) <= room:
                return widths
    return [1] * len(words)


def broken(text: Text, width: int) -> Text:
    """The same in lines that end between words and are no wider, unless a single word is."""
    lines = []
    for line in text.split("\n"):
        ends, start = [], 0
        for word in re.finditer(rf".+?(?:{BREAKS.pattern}|$)", line.plain):
            if word.start() > start and cell_len(line.plain[start : word.end()].rstrip()) > width:
                ends.append(word.start())
                start = word.start()
        lines += list(line.divide(ends))
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def arrowed(head: str, relation: str, tail: str) -> str:
    """A triple on the terminal."""
    return printable(f"{head} --{relation}-> {tail}")


def influence_table(result: Influences, labels: Labels, limit: int | None = None, remark: str = "") -> LabelTable:
    """A test triple and the training triples that speak for it (proponents) and against it (opponents).

    Args:
        result: the training triples, shown in this order.
        labels: what ids are called; a name is shown where there is one.
        limit: rows; None shows all.
        remark: a second line of the title.
    """
    head, relation, tail = _names(result.triple, labels)
    title = Text(f"{head} --{relation}-> {tail}", "bold").append(f"\n{remark}" if remark else "", "not bold")
    columns = ("", "influence", *LABELS, *(() if result.indices is None else ("row",)))
    rows = []
    for line, (triple, score) in enumerate(zip(result.train[:limit].tolist(), result.scores.tolist(), strict=False)):
        kind, style = ("for", "green") if score > 0 else ("against", "red") if score < 0 else ("", "")
        place = [] if result.indices is None else [str(int(result.indices[line]))]
        rows.append((Text(kind, style), Text(f"{score:+.2e}", style), *map(Text, (*_names(triple, labels), *place))))
    return LabelTable(title, columns, rows)


def self_influence_table(
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    labels: Labels,
    limit: int,
) -> LabelTable:
    """The training triples of the greatest self-influence."""
    rows = [
        tuple(map(Text, (f"{scores[index]:.2e}", *_names(train[index].tolist(), labels), str(index))))
        for index in scores.argsort(descending=True, stable=True)[:limit].tolist()
    ]
    return LabelTable(Text("greatest self-influence", "bold"), ("self-influence", *LABELS, "row"), rows)


def _names(triple: Triple | list[int], labels: Labels) -> tuple[str, str, str]:
    head, relation, tail = triple
    names = labels.entity_name(head), labels.relation_name(relation), labels.entity_name(tail)
    return printable(names[0]), printable(names[1]), printable(names[2])
