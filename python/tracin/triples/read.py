"""Triples: files of labels or of ids into rows of ids, and dictionaries made from files of labels."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.triples.dictionaries import argument_of, dictionary_of
from tracin.triples.form import COLUMNS, TRIPLE, Dictionaries, Form, form_of
from tracin.triples.label_table import UNKNOWN, IdRange, LabelTable
from tracin.triples.likeness import difference, unquoted
from tracin.triples.lines import WHOLE, Span, blocks_of, cells_of, columns_of, lines_before, no_lines, share_of
from tracin.triples.parquet import triples_as_lines
from tracin.triples.source import PathLike, Source, source_of

Triple = tuple[int, int, int]  # head, relation, tail
Block = TypeVar("Block")
DictionaryLike = Mapping[str, int] | PathLike | Any  # Any: has an attribute entity_to_id, or relation_to_id

# Blocks are looked up in this many threads; reading the file feeds no more than a few.
THREADS = min(4, os.cpu_count() or 1)

NOT_THE_FIRST = 2  # number of a share's first line until an error needs the right one: counting takes time
MOST_GAPS = 1000  # and as many as ids that occur
HINTED = 1000  # lines that tell whether the columns are in another order
_SWAPPED = str.maketrans("ht", "th")
_FOREIGN = "is this the dictionary the model was trained with? "


class UnknownLabels(UserWarning):
    """Lines of a file that were left out because a dictionary lacks a label of them."""

    def __init__(self, path: PathLike, what: str, skipped: int, lines: int, first: str) -> None:
        super().__init__(f"{path}: {skipped} of {lines} lines left out for unknown {what}s, the first: {first}")
        self.skipped, self.first = skipped, first


def read_triples(
    path: PathLike,
    entity_to_id: DictionaryLike,
    relation_to_id: DictionaryLike,
    skip_unknown: bool = False,
    numeric: bool | None = None,
    columns: str = "hrt",
) -> Tensor:  # [n, 3] int64
    """Reads `head<TAB>relation<TAB>tail` lines, in file order with duplicates kept: row i is line i + 1.

    Lines hold labels, or the ids themselves: where the name ends in .del (LibKGE), where ids follow a header line such
    as head<TAB>relation<TAB>tail (PyKEEN), and where `numeric` says so. A header line has no row. A label in quotation
    marks that the dictionary lacks is the one without them, as PyKEEN reads it.

    Args:
        path: text file, plain or packed by gzip or zstd, or a Parquet file; it may be a pipe.
        entity_to_id: label -> row of the model's entity table; or the path of a dictionary, or what has one as an
            attribute of this name, as PyKEEN's triples factories do.
        relation_to_id: label -> number of the relation; likewise.
        skip_unknown: leave out lines with a label or an id that is in neither dictionary, with one warning that counts
            them; a row number is then no longer a line number.
        numeric: True: ids, with or without a header line; False: labels, without one.
        columns: the order of the first three columns: h, r and t are head, relation and tail. "htr" is that of OpenKE,
            whose first line, the number of triples, has no row.

    Returns:
        [n, 3] int64: head, relation, tail.

    Raises:
        InputError: if the file cannot be read, has no line, a line with fewer than three columns or more than 1 MiB, or
            an unknown label or id (with `skip_unknown`: only such lines).

    Example:
        >>> entities, relations = read_dictionary("node_dict.txt"), read_dictionary("rel_dict.txt")
        >>> read_triples("train.txt", entities, relations)[0].tolist()
        [20, 3, 17]
    """
    part = read_triples_part(path, entity_to_id, relation_to_id, 0, 1, skip_unknown, numeric, columns)
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
    columns: str = "hrt",
) -> list[TripleLine]:
    """Reads the lines of a file one by one by the rules of `read_triples`, so that a wrong one does not stop the rest.

    Args:
        path, entity_to_id, relation_to_id, numeric, columns: as for `read_triples`.
        start: index of the first triple to return.
        count: at most so many; None for all.

    Raises:
        InputError: if the file cannot be read, has no line, or is not UTF-8 text.

    Example:
        >>> [line.labels for line in read_triple_lines("test.txt", entities, relations) if line.error]
        [('aspirin', 'treats', 'an unknown disease')]
    """
    dictionaries = (entity_to_id, relation_to_id)
    source = _lines_of(path, columns)
    form = form_of(source, None if numeric else dictionaries, numeric, columns)
    tables = _tables(dictionaries, form.numeric)
    chosen, lines = [], 0
    for block, first_line in _blocks_of(source, form):
        for cells, error in cells_of(block, first_line, source, form.columns):
            if start <= lines and (count is None or lines < start + count):
                chosen.append((form.in_order(cells), error))
            lines += 1
    if not lines:
        raise no_lines(source, form.columns)
    texts = pl.DataFrame(
        [cells for cells, error in chosen if not error],
        schema=dict.fromkeys(TRIPLE, pl.String),
        orient="row",
    )
    ids = _ids_of(texts, tables)
    why = _why(form, texts, ids, tables) or _FOREIGN
    labels = [{number: label for label, number in some.items()} for some in dictionaries] if form.numeric else None

    def read(index: int, cells: list[str], ids: list[int]) -> TripleLine:
        named = list(cells)
        if labels is not None:
            named = [labels[column % 2].get(ids[column], f"id {cell}") for column, cell in enumerate(cells)]
        (head, relation, tail), (h, r, t) = named, ids
        if UNKNOWN not in ids:
            return TripleLine(index, (head, relation, tail), (h, r, t))
        unknown, _ = _describe_unknown(source, form.first_line + index, cells, ids, tables)
        reason = (_likeness(cells, ids, tables) or why).rstrip("; ")
        return TripleLine(index, (head, relation, tail), None, f"{unknown}; {reason}")

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
    stated: int | None = None  # of the triples, in the first line of the file
    like: str = ""  # a known label that differs from the first unknown one in little


@dataclass(frozen=True)
class TriplesPart:
    triples: Tensor  # [lines - skipped, 3] int64
    count: PartCount


def read_triples_part(
    path: PathLike,
    entity_to_id: DictionaryLike,
    relation_to_id: DictionaryLike,
    part: int,
    parts: int,
    skip_unknown: bool = False,
    numeric: bool | None = None,
    columns: str = "hrt",
) -> TriplesPart:
    """Reads the triples of one of `parts` shares of a file, cut at line ends; together they are `read_triples`' rows.

    Shares are of as many bytes each, so a share may have no line at all. Of a plain file only the share is read; a gzip
    file is unpacked up to the share's end, once more to find out how long it is.

    Args:
        path, entity_to_id, relation_to_id, skip_unknown, numeric, columns: as for `read_triples`.
        part: which share, from 0.
        parts: how many there are.

    Returns:
        The share's triples and its count; `check_parts` judges the counts of all shares.

    Raises:
        InputError: as `read_triples`, but not for a share without lines or without known labels; for several parts of
            what can be read only once, such as a pipe.

    Example:
        >>> halves = [read_triples_part("train.txt", entities, relations, part, 2).triples for part in range(2)]
        >>> torch.equal(torch.cat(halves), read_triples("train.txt", entities, relations))
        True
    """
    dictionaries = dictionary_of("entity", entity_to_id), dictionary_of("relation", relation_to_id)
    source = _lines_of(path, columns)
    if parts > 1 and source.once:
        raise InputError(f"{source}: a pipe can be read once, and {parts} ranks read this file; name a plain file")
    form = form_of(source, None if numeric else dictionaries, numeric, columns)
    tables = _tables(dictionaries, form.numeric)
    start, stop = share_of(source, part, parts) if parts > 1 else (0, None)
    counted = start == 0 or skip_unknown  # whose warning names a line
    first_line = 1 + lines_before(source, start) if counted else NOT_THE_FIRST
    try:
        return _read_lines(source, tables, form, skip_unknown, Span(start, stop, first_line))
    except InputError:
        if counted:
            raise
    return _read_lines(source, tables, form, skip_unknown, Span(start, stop, 1 + lines_before(source, start)))


def check_parts(path: PathLike, counts: Sequence[PartCount]) -> None:
    """Warns of the lines that were left out in all parts of a file together.

    Raises:
        InputError: if there are no lines, or none is left.
    """
    lines, skipped = (sum(getattr(count, name) for count in counts) for name in ("lines", "skipped"))
    if not lines:
        raise no_lines(path, TRIPLE)
    stated = counts[0].stated
    if stated not in (None, lines):
        raise InputError(f"{path} line 1: {stated} triples, but {lines} lines follow; is the file complete?")
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
    named = "; ".join(filter(None, (first.first_unknown, first.like)))
    warnings.warn(UnknownLabels(path, first.what, skipped, lines, named), stacklevel=3)


def _read_lines(source: Source, tables: Tables, form: Form, skip_unknown: bool, span: Span) -> TriplesPart:
    blocks = [np.empty((0, 3), dtype=np.int32)]  # each [lines, 3]
    lines = 0
    skipped = 0
    first_unknown = ""
    lacking: tuple[str, str] | None = None
    why, like = form.why, ""
    look_up = partial(_ids_of_block, source, tables, form.columns)
    for first_line, labels, ids in _in_threads(look_up, _blocks_of(source, form, span)):
        known = (ids != UNKNOWN).all(1)
        if not known.all() and not first_unknown:
            row = int(known.argmin())
            line = first_line + row
            first_unknown, lacking = _describe_unknown(source, line, labels.row(row), ids[row].tolist(), tables)
            why = _why(form, labels, ids, tables)
            like = _likeness(labels.row(row), ids[row].tolist(), tables).rstrip("; ")
            if not skip_unknown:
                raise InputError(f"{first_unknown}; {why or _FOREIGN}--skip-unknown leaves such lines out", *lacking)
        lines += len(ids)
        blocks.append(ids if known.all() else ids[known])
        skipped += len(ids) - len(blocks[-1])
    triples = np.empty((lines - skipped, 3), dtype=np.int64)
    np.concatenate(blocks, out=triples)
    count = PartCount(lines, skipped, first_unknown, lacking, "id" if form.numeric else "label", why, form.count, like)
    return TriplesPart(torch.from_numpy(triples), count)


def _lines_of(path: PathLike, columns: str) -> Source:
    source = source_of(path)
    return triples_as_lines(source, columns) if columns in COLUMNS and source.is_parquet() else source


def _blocks_of(source: Source, form: Form, span: Span = WHOLE) -> Iterator[tuple[bytes, int]]:
    """`blocks_of` with tabs and without a line 1 that is no triple, which is in one of the shares only."""
    for whole in blocks_of(source, span):
        block, first_line = form.lines(*whole)
        if block:
            yield block, first_line


Tables = tuple[LabelTable | IdRange, LabelTable | IdRange]  # of entities, of relations


def _tables(dictionaries: Dictionaries, numeric: bool) -> Tables:
    if numeric:
        return IdRange(len(dictionaries[0])), IdRange(len(dictionaries[1]))
    tables = []
    for kind, dictionary in zip(("entity", "relation"), dictionaries, strict=True):
        try:
            tables.append(LabelTable(dictionary))
        except (TypeError, ValueError, OverflowError):
            named = argument_of(kind)
            raise InputError(f"{named[1]} is no label -> id; expected text with ids from 0 on", *named) from None
    return tables[0], tables[1]


def make_dictionaries(
    paths: Sequence[PathLike], numeric: bool | None = None, columns: str = "hrt"
) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of the entities and of the relations that occur in files of triples, in the order of their labels.

    Of files of ids, as `read_triples` tells them, all ids from 0 to the greatest, which are their own labels.

    Raises:
        InputError: as `read_triples`, and if some files hold ids and others labels.
    """
    distinct = [pl.Series("label", [], dtype=pl.String)] * 2
    numerics = {}
    for path in paths:
        source = _lines_of(path, columns)
        form = form_of(source, None, numeric, columns)
        numerics[str(path)] = form.numeric
        for block, first_line in _blocks_of(source, form):
            texts = columns_of(block, first_line, source, form.columns)
            head, relation, tail = texts.select(TRIPLE).get_columns()
            distinct = [
                pl.concat([before, *(labels.rename("label") for labels in new)]).unique()
                for before, new in zip(distinct, ((head, tail), (relation,)), strict=True)
            ]
    if len(set(numerics.values())) > 1:
        ids = next(path for path, of_ids in numerics.items() if of_ids)
        labels = next(path for path, of_ids in numerics.items() if not of_ids)
        raise InputError(f"{ids} holds ids and {labels} labels; expected the same in all files of triples")
    if any(numerics.values()):
        return _ids_up_to(distinct[0], "entity"), _ids_up_to(distinct[1], "relation")
    entities, relations = ({label: number for number, label in enumerate(labels.sort())} for labels in distinct)
    return entities, relations


def _ids_up_to(texts: pl.Series, kind: str) -> dict[str, int]:
    numbers = texts.cast(pl.Int64, strict=False)
    wrong = numbers.is_null() | (numbers < 0)
    if wrong.any():
        raise InputError(f"{kind} {quote(texts.filter(wrong)[0])} is not an id; expected ids from 0 on in all lines")
    greatest = int(numbers.max() or 0)  # type: ignore[arg-type]
    if greatest > 2 * len(numbers) + MOST_GAPS:
        raise InputError(f"the {kind} id {greatest} is far above the number of ids, {len(numbers)}; name a dictionary")
    return {str(number): number for number in range(1 + greatest)}


def _ids_of_block(
    path: PathLike,
    tables: Tables,
    columns: tuple[str, str, str],  # in the file
    block: bytes,  # whole lines
    first_line: int,
) -> tuple[int, pl.DataFrame, np.ndarray]:  # first line, labels of head, relation, tail [n], their ids [n, 3] int32
    labels = columns_of(block, first_line, path, columns).select(TRIPLE)
    return first_line, labels, _ids_of(labels, tables)


def _ids_of(
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    tables: Tables,
) -> np.ndarray:  # [n, 3] int32, UNKNOWN where there is none
    ids = np.empty((labels.height, 3), dtype=np.int32)
    for column, (name, table) in enumerate(zip(TRIPLE, (tables[0], tables[1], tables[0]), strict=True)):
        ids[:, column] = table.look_up(labels[name])
        unknown = np.flatnonzero(ids[:, column] == UNKNOWN)
        if len(unknown) and isinstance(table, LabelTable):
            ids[unknown, column] = table.look_up(unquoted(labels[name][unknown]))
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
    came = f"{path} line {line}: {TRIPLE[column]} {quote(cells[column])}"
    size = f"{table.size} {entries}"
    lacking = argument_of(kind)
    if isinstance(table, IdRange):
        return f"{came} is not an id from 0 to {table.size - 1} (the {kind} dictionary has {size})", lacking
    return f"{came} is not in the {kind} dictionary ({size})", lacking


def _why(
    form: Form,
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    ids: np.ndarray,  # [n, 3]
    tables: Tables,
) -> str:
    """What tells why lines may be unknown; empty if nothing does."""
    known = (ids != UNKNOWN).all(1)
    if known.all():
        return form.why
    first = int(known.argmin())
    likeness = _likeness(labels.row(first), ids[first].tolist(), tables)
    order = _other_order(form, labels.slice(first, HINTED), tables)
    if likeness:
        return likeness
    if order:
        place = ("first", "second", "third")[order.index("r")]
        return (
            f'relations look to be in the {place} column: --columns {order} (columns="{order}") reads them so, or '
            f"{order.translate(_SWAPPED)} if tails come before heads; "
        )
    if form.numeric and _all_match(labels, r"^[0-9]+\.0*$"):
        return "the ids are written as floating-point numbers: write them as integers; "
    if form.numeric or known.any() or not _all_match(labels, r"^[0-9]+$"):
        return form.why
    return "the lines hold integers: if these are ids, --numeric-triples (numeric=True) reads them; "


def _likeness(cells: Sequence[Any], ids: Sequence[int], tables: Tables) -> str:
    """Names a label of the dictionary that differs from the first unknown one in little."""
    column = ids.index(UNKNOWN)
    table = tables[column % 2]
    other = table.like(cells[column]) if isinstance(table, LabelTable) else None
    if other is None:
        return ""
    return f"it has {quote(other)}, which differs {difference(cells[column], other)}: write both the same; "


def _other_order(
    form: Form,
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    tables: Tables,
) -> str:
    """The order of the file's columns in which all lines are known, or none; heads and tails look alike."""
    for order in ("hrt", "htr", "rht"):
        names = [form.columns[order.index(letter)] for letter in "hrt"]
        if (_ids_of(labels.select(names).rename(dict(zip(names, TRIPLE, strict=True))), tables) != UNKNOWN).all():
            return order
    return ""


def _all_match(labels: pl.DataFrame, pattern: str) -> bool:
    return all(column.str.contains(pattern).all() for column in labels.get_columns())
