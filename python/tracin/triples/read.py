"""Triples: files of labels or of ids into rows of ids, and dictionaries made from files of labels."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.triples.dictionaries import argument_of
from tracin.triples.label_table import UNKNOWN, LabelTable
from tracin.triples.lines import (
    WHOLE,
    PathLike,
    Span,
    blocks_of,
    cells_of,
    columns_of,
    first_line_of,
    lines_before,
    no_lines,
    share_of,
)

Triple = tuple[int, int, int]  # head, relation, tail
Block = TypeVar("Block")

# Blocks are looked up in this many threads; reading the file feeds no more than a few.
THREADS = min(4, os.cpu_count() or 1)

_TRIPLE_COLUMNS = ("head", "relation", "tail")  # also the header line of PyKEEN's numeric_triples.tsv.gz
NOT_THE_FIRST = 2  # number of a share's first line until an error needs the right one: counting takes time
_FOREIGN = "is this the dictionary the model was trained with? "


class UnknownLabels(UserWarning):
    """Lines of a file that were left out because a dictionary lacks a label of them."""

    def __init__(self, path: PathLike, what: str, skipped: int, lines: int, first: str) -> None:
        super().__init__(f"{path}: {skipped} of {lines} lines left out for unknown {what}s, the first: {first}")
        self.skipped, self.first = skipped, first


def read_triples(
    path: PathLike,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    skip_unknown: bool = False,
    numeric: bool | None = None,
) -> Tensor:  # [n, 3] int64
    """Reads `head<TAB>relation<TAB>tail` lines, in file order with duplicates kept: row i is line i + 1.

    Lines hold labels, or the ids themselves: where the name ends in .del (LibKGE) or the first line is the header
    head<TAB>relation<TAB>tail (PyKEEN), which has no row, and where `numeric` says so.

    Args:
        path: text file, plain or gzip.
        entity_to_id: label -> row of the model's entity table.
        relation_to_id: label -> number of the relation.
        skip_unknown: leave out lines with a label or an id that is in neither dictionary, with one warning that counts
            them; a row number is then no longer a line number.
        numeric: True: ids, with or without a header line; False: labels, without one.

    Returns:
        [n, 3] int64: head, relation, tail.

    Raises:
        InputError: if the file cannot be read, has no line, a line with fewer than three columns, or an unknown label
            or id (with `skip_unknown`: only such lines).

    Example:
        >>> entities, relations = read_dictionary("node_dict.txt"), read_dictionary("rel_dict.txt")
        >>> read_triples("train.txt", entities, relations)[0].tolist()
        [20, 3, 17]
    """
    part = read_triples_part(path, entity_to_id, relation_to_id, 0, 1, skip_unknown, numeric)
    check_parts(path, [part.count])
    return part.triples


@dataclass(frozen=True)
class TripleLine:
    """A line of a file of triples, whether or not it holds a triple of the dictionaries."""

    index: int  # of the triple in the file, from 0; a header line has none
    labels: tuple[str, str, str]  # head, relation, tail; empty where the line has too few columns
    triple: Triple | None  # their ids
    error: str = ""  # why there are none

    @property
    def ids(self) -> Triple:
        """Raises InputError where there are none."""
        if self.triple is None:
            raise InputError(self.error)
        return self.triple


def read_triple_lines(
    path: PathLike,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    start: int = 0,
    count: int | None = None,
    numeric: bool | None = None,
) -> list[TripleLine]:
    """Reads the lines of a file one by one by the rules of `read_triples`, so that a wrong one does not stop the rest.

    Args:
        path, entity_to_id, relation_to_id, numeric: as for `read_triples`.
        start: index of the first triple to return.
        count: at most so many; None for all.

    Raises:
        InputError: if the file cannot be read, has no line, or is not UTF-8 text.

    Example:
        >>> [line.labels for line in read_triple_lines("test.txt", entities, relations) if line.error]
        [('aspirin', 'treats', 'an unknown disease')]
    """
    dictionaries = (entity_to_id, relation_to_id)
    form = _form(path, dictionaries, numeric)
    tables = _tables(dictionaries, form.numeric)
    chosen, lines = [], 0
    for block, first_line in _blocks_of(path, form):
        for line in cells_of(block, first_line, path, _TRIPLE_COLUMNS):
            if start <= lines and (count is None or lines < start + count):
                chosen.append(line)
            lines += 1
    if not lines:
        raise no_lines(path, _TRIPLE_COLUMNS)
    texts = pl.DataFrame(
        [cells for cells, error in chosen if not error],
        schema=dict.fromkeys(_TRIPLE_COLUMNS, pl.String),
        orient="row",
    )
    ids = _ids_of(texts, tables)
    why = (_why(form, texts, ids) or _FOREIGN).rstrip("; ")
    labels = [{number: label for label, number in some.items()} for some in dictionaries] if form.numeric else None

    def read(index: int, cells: list[str], ids: list[int]) -> TripleLine:
        named = list(cells)
        if labels is not None:
            named = [labels[column % 2].get(ids[column], f"id {cell}") for column, cell in enumerate(cells)]
        (head, relation, tail), (h, r, t) = named, ids
        if UNKNOWN not in ids:
            return TripleLine(index, (head, relation, tail), (h, r, t))
        unknown, _ = _describe_unknown(path, form.first_line + index, cells, ids, tables)
        return TripleLine(index, (head, relation, tail), None, f"{unknown}; {why}")

    rows = iter(ids.tolist())
    return [
        TripleLine(index, ("", "", ""), None, error) if error else read(index, cells, next(rows))
        for index, (cells, error) in enumerate(chosen, start)
    ]


@dataclass(frozen=True)
class PartCount:
    """What became of consecutive lines of a file of triples."""

    lines: int
    skipped: int  # of them, for an unknown label or id
    first_unknown: str  # names the first such line and label; empty if there is none
    lacking: tuple[str, str] | None  # the argument that is the dictionary without it, and what errors call it
    what: str  # the lines hold: "label" or "id"
    why: str  # the unknown ones may be so; empty where nothing tells


@dataclass(frozen=True)
class TriplesPart:
    triples: Tensor  # [lines - skipped, 3] int64
    count: PartCount


def read_triples_part(
    path: PathLike,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    part: int,
    parts: int,
    skip_unknown: bool = False,
    numeric: bool | None = None,
) -> TriplesPart:
    """Reads the triples of one of `parts` shares of a file, cut at line ends; together they are `read_triples`' rows.

    Shares are of as many bytes each, so a share may have no line at all. Of a plain file only the share is read; a gzip
    file is unpacked up to the share's end, once more to find out how long it is.

    Args:
        path, entity_to_id, relation_to_id, skip_unknown, numeric: as for `read_triples`.
        part: which share, from 0.
        parts: how many there are.

    Returns:
        The share's triples and its count; `check_parts` judges the counts of all shares.

    Raises:
        InputError: as `read_triples`, but not for a share without lines or without known labels.

    Example:
        >>> halves = [read_triples_part("train.txt", entities, relations, part, 2).triples for part in range(2)]
        >>> torch.equal(torch.cat(halves), read_triples("train.txt", entities, relations))
        True
    """
    form = _form(path, (entity_to_id, relation_to_id), numeric)
    tables = _tables((entity_to_id, relation_to_id), form.numeric)
    start, stop = share_of(path, part, parts) if parts > 1 else (0, None)
    counted = start == 0 or skip_unknown  # whose warning names a line
    first_line = 1 + lines_before(path, start) if counted else NOT_THE_FIRST
    try:
        return _read_lines(path, tables, form, skip_unknown, Span(start, stop, first_line))
    except InputError:
        if counted:
            raise
    return _read_lines(path, tables, form, skip_unknown, Span(start, stop, 1 + lines_before(path, start)))


def check_parts(path: PathLike, counts: Sequence[PartCount]) -> None:
    """Warns of the lines that were left out in all parts of a file together.

    Raises:
        InputError: if there are no lines, or none is left.
    """
    lines, skipped = (sum(getattr(count, name) for count in counts) for name in ("lines", "skipped"))
    if not lines:
        raise no_lines(path, _TRIPLE_COLUMNS)
    if not skipped:
        return
    first = next(count for count in counts if count.skipped)
    if skipped == lines:
        reason = first.why.removesuffix("; ") or "are these the dictionaries the model was trained with?"
        raise InputError(
            f"{path}: each of the {lines} lines has an unknown {first.what}, the first: {first.first_unknown}; "
            f"{reason}",
            *first.lacking or (),
        )
    warnings.warn(UnknownLabels(path, first.what, skipped, lines, first.first_unknown), stacklevel=3)


def _read_lines(path: PathLike, tables: Tables, form: Form, skip_unknown: bool, span: Span) -> TriplesPart:
    blocks = [np.empty((0, 3), dtype=np.int32)]  # each [lines, 3]
    lines = 0
    skipped = 0
    first_unknown = ""
    lacking: tuple[str, str] | None = None
    why = form.why
    look_up = partial(_ids_of_block, path, tables)
    for first_line, labels, ids in _in_threads(look_up, _blocks_of(path, form, span)):
        known = (ids != UNKNOWN).all(1)
        if not known.all() and not first_unknown:
            row = int(known.argmin())
            line = first_line + row
            first_unknown, lacking = _describe_unknown(path, line, labels.row(row), ids[row].tolist(), tables)
            why = _why(form, labels, ids)
            if not skip_unknown:
                raise InputError(f"{first_unknown}; {why or _FOREIGN}--skip-unknown leaves such lines out", *lacking)
        lines += len(ids)
        blocks.append(ids if known.all() else ids[known])
        skipped += len(ids) - len(blocks[-1])
    triples = np.empty((lines - skipped, 3), dtype=np.int64)
    np.concatenate(blocks, out=triples)
    count = PartCount(lines, skipped, first_unknown, lacking, "id" if form.numeric else "label", why)
    return TriplesPart(torch.from_numpy(triples), count)


def _blocks_of(path: PathLike, form: Form, span: Span = WHOLE) -> Iterator[tuple[bytes, int]]:
    """`blocks_of` without the header, line 1, which is in one of the shares only."""
    for block, first_line in blocks_of(path, span):
        if form.header and first_line == 1:
            block, first_line = block.partition(b"\n")[2], 2
        if block:
            yield block, first_line


class IdRange:
    """Ids 0 to size - 1 as text; stands for a LabelTable where the labels are the ids."""

    def __init__(self, size: int) -> None:
        self.size = size

    def look_up(
        self,
        labels: pl.Series,  # [n] String, no nulls
    ) -> np.ndarray:  # [n] int32, UNKNOWN where the text is no such id
        numbers = labels.cast(pl.Int64, strict=False).fill_null(UNKNOWN).to_numpy()
        return np.where((numbers >= 0) & (numbers < self.size), numbers, UNKNOWN).astype(np.int32)


Tables = tuple[LabelTable | IdRange, LabelTable | IdRange]  # of entities, of relations


def _tables(dictionaries: tuple[Mapping[str, int], Mapping[str, int]], numeric: bool) -> Tables:
    entities, relations = dictionaries
    if numeric:
        return IdRange(len(entities)), IdRange(len(relations))
    return LabelTable(entities), LabelTable(relations)


@dataclass(frozen=True)
class Form:
    """What the lines of a file of triples hold."""

    numeric: bool  # ids, not labels
    header: bool  # line 1 names the columns
    why: str  # ids are taken for granted, if not asked for

    @property
    def first_line(self) -> int:
        """The number of the line of the first triple."""
        return 2 if self.header else 1


def _form(path: PathLike, dictionaries: tuple[Mapping[str, int], Mapping[str, int]], numeric: bool | None) -> Form:
    has_header = first_line_of(path) == b"\t".join(name.encode() for name in _TRIPLE_COLUMNS)
    why = ""
    if numeric is None:
        known = [name in dictionaries[column % 2] for column, name in enumerate(_TRIPLE_COLUMNS)]
        if has_header and not all(known):
            numeric, why = True, "its header line says that it holds ids: remove that line if it holds labels; "
        elif str(path).removesuffix(".gz").endswith(".del"):
            numeric, why = True, "its name, *.del, says that it holds ids: rename it if it holds labels; "
    return Form(bool(numeric), bool(numeric) and has_header, why)


def make_dictionaries(paths: Sequence[PathLike]) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of the entities and of the relations that occur in files of triples, in the order of their labels."""
    distinct = [pl.Series("label", [], dtype=pl.String)] * 2
    for path in paths:
        for block, first_line in blocks_of(path):
            head, relation, tail = columns_of(block, first_line, path, _TRIPLE_COLUMNS).get_columns()
            distinct = [
                pl.concat([before, *(labels.rename("label") for labels in new)]).unique()
                for before, new in zip(distinct, ((head, tail), (relation,)), strict=True)
            ]
    entities, relations = ({label: number for number, label in enumerate(labels.sort())} for labels in distinct)
    return entities, relations


def _ids_of_block(
    path: PathLike,
    tables: Tables,
    block: bytes,  # whole lines
    first_line: int,
) -> tuple[int, pl.DataFrame, np.ndarray]:  # first line, labels of head, relation, tail [n], their ids [n, 3] int32
    labels = columns_of(block, first_line, path, _TRIPLE_COLUMNS)
    return first_line, labels, _ids_of(labels, tables)


def _ids_of(
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    tables: Tables,
) -> np.ndarray:  # [n, 3] int32, UNKNOWN where there is none
    ids = np.empty((labels.height, 3), dtype=np.int32)
    for column, (name, table) in enumerate(zip(_TRIPLE_COLUMNS, (tables[0], tables[1], tables[0]), strict=True)):
        ids[:, column] = table.look_up(labels[name])
    return ids


def _in_threads(work: Callable[[bytes, int], Block], blocks: Iterator[tuple[bytes, int]]) -> Iterator[Block]:
    """work(*block) of each block, in their order; polars and numpy let other threads run meanwhile."""
    with ThreadPoolExecutor(THREADS) as pool:
        running: deque[Future[Block]] = deque()
        for block, first_line in blocks:
            running.append(pool.submit(work, block, first_line))
            if len(running) > THREADS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _describe_unknown(
    path: PathLike,
    line: int,
    cells: Sequence[str],  # head, relation, tail
    ids: Sequence[int],  # of them
    tables: Tables,
) -> tuple[str, tuple[str, str]]:
    """Names the first label of a line that has no id, or the first id that is none, and the dictionary without it."""
    column = ids.index(UNKNOWN)
    kind, table, entries = ("relation", tables[1], "relations") if column == 1 else ("entity", tables[0], "entities")
    came = f"{path} line {line}: {_TRIPLE_COLUMNS[column]} {quote(cells[column])}"
    size = f"{table.size} {entries}"
    lacking = argument_of(kind)
    if isinstance(table, IdRange):
        return f"{came} is not an id from 0 to {table.size - 1} (the {kind} dictionary has {size})", lacking
    return f"{came} is not in the {kind} dictionary ({size})", lacking


def _why(
    form: Form,
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    ids: np.ndarray,  # [n, 3]
) -> str:
    """What tells why lines may be unknown; empty if nothing does."""
    if form.numeric or (ids != UNKNOWN).all(1).any() or not _all_integers(labels):
        return form.why
    return "the lines hold integers: if these are ids, --numeric-triples (numeric=True) reads them; "


def _all_integers(labels: pl.DataFrame) -> bool:
    return not any(column.cast(pl.Int64, strict=False).has_nulls() for column in labels.get_columns())
