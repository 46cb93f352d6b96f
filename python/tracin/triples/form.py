"""What the lines of a file of triples hold, told from the first ones: order of columns, header, ids or labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

from tracin.errors import InputError, quote
from tracin.triples.lines import first_lines_of
from tracin.triples.source import Source

TRIPLE = ("head", "relation", "tail")
COLUMNS = tuple(map("".join, permutations("hrt")))  # orders of the columns, by the first letters
HEADERS = (  # the first is that of PyKEEN's numeric_triples.tsv.gz
    TRIPLE,
    ("subject", "predicate", "object"),
    ("source", "relation", "target"),
    ("h", "r", "t"),
    ("s", "p", "o"),
)
_ID = re.compile(r"\d+")
_NUMBER = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*")
_COUNT = re.compile(rb"\s*\d+\s*")  # the first line of OpenKE's files

Dictionaries = tuple[Mapping[str, int], Mapping[str, int]]  # of entities, of relations


@dataclass(frozen=True)
class Form:
    """What the lines hold."""

    columns: tuple[str, str, str] = TRIPLE  # as they are in the file
    numeric: bool = False  # ids, not labels
    header: bool = False  # line 1 names the columns, or counts the triples
    spaces: bool = False  # columns are separated by a space each
    count: int | None = None  # of the triples, if line 1 has it
    why: str = ""  # ids are taken for granted, if not asked for

    @property
    def first_line(self) -> int:
        """The number of the line of the first triple."""
        return 2 if self.header else 1

    def in_order(self, cells: list[str]) -> list[str]:  # of a line, to those of head, relation, tail
        """Also for a line with too few."""
        return [cells[self.columns.index(name)] for name in TRIPLE] if len(cells) == len(TRIPLE) else cells

    def lines(self, block: bytes, first_line: int) -> tuple[bytes, int]:
        """A block without line 1 if that is no triple, and with tabs."""
        if self.header and first_line == 1:
            block, first_line = block.partition(b"\n")[2], 2
        return (block.replace(b" ", b"\t") if self.spaces else block), first_line


def form_of(source: Source, dictionaries: Dictionaries | None, numeric: bool | None, columns: str) -> Form:
    """Args:
        dictionaries: None: there are none yet, and a line of names that headers have is one.
        numeric, columns: as for `read_triples`.

    Raises:
        InputError: for other `columns`, and where the first lines contradict them.
    """
    if columns not in COLUMNS:
        raise InputError(f"columns is {quote(columns)}; expected one of {', '.join(COLUMNS)}", "columns")
    order = _named(columns)
    first, second = first_lines_of(source, 2)
    cells = [cell.decode("utf-8", "replace") for cell in first.split(b"\t")][:3]
    ids_follow = _are_ids(second)
    if numeric is not False and _COUNT.fullmatch(first) and ids_follow:
        if columns == "hrt":
            raise InputError(
                f"{source} line 1: one number, and ids on the next lines: this looks like a file of OpenKE, whose "
                'columns are head, tail, relation; --columns htr (columns="htr") reads it'
            )
        why = "its first line, a count as in OpenKE's files, says that it holds ids; "
        return Form(order, True, True, b"\t" not in second, int(first), why)
    header = numeric is not False and _header(source, cells, order, columns, dictionaries)
    labels_follow = header and _are_labels(second, order)
    why = ""
    if numeric is None:
        named = str(source).removesuffix(".gz").removesuffix(".zst").endswith(".del")
        if header and not labels_follow:
            numeric, why = True, "its header line says that it holds ids: remove that line if it holds labels; "
        elif named:
            numeric, why = True, "its name, *.del, says that it holds ids: rename it if it holds labels; "
    spaces = bool(numeric) and ids_follow and b"\t" not in second and (header or _are_ids(first))
    return Form(order, bool(numeric), header, spaces, None, why)


def _named(columns: str) -> tuple[str, str, str]:
    head, relation, tail = ({"h": "head", "r": "relation", "t": "tail"}[letter] for letter in columns)
    return head, relation, tail


def _header(
    source: Source, cells: list[str], order: tuple[str, str, str], columns: str, dictionaries: Dictionaries | None
) -> bool:
    """Whether line 1 names the columns: words of HEADERS, of which a dictionary lacks some."""
    names = [cell.strip().strip('"').lower() for cell in cells]
    words = next((words for words in HEADERS if sorted(words) == sorted(names)), None)
    if words is None:
        return False
    if dictionaries is not None and all(
        cell in dictionaries[name == "relation"] for cell, name in zip(cells, order, strict=True)
    ):
        return False
    told = "".join("hrt"[words.index(name)] for name in names)
    if told != columns:
        raise InputError(
            f"{source} line 1: the header names the columns {', '.join(names)}, not in the order {columns}; "
            f'--columns {told} (columns="{told}") reads them'
        )
    return True


def _are_ids(line: bytes) -> bool:
    cells = line.decode("utf-8", "replace").split("\t")
    cells = cells if len(cells) > 1 else line.decode("utf-8", "replace").split(" ")
    return len(cells) >= 3 and all(_ID.fullmatch(cell) for cell in cells[:3])


def _are_labels(line: bytes, order: tuple[str, str, str]) -> bool:
    """Whether a line under a header holds labels, some of which may be numbers, not ids, one of which may be wrong."""
    cells = line.decode("utf-8", "replace").split("\t")[:3]
    numbers = [_NUMBER.fullmatch(cell) is not None for cell in cells]
    return len(cells) == 3 and (sum(numbers) < 2 or not numbers[order.index("relation")])
