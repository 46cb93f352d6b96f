"""Triples: files of labels or of ids into rows of ids, and dictionaries made from files of labels."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.label_table import UNKNOWN, LabelTable
from tracin.text_lines import BYTE_ORDER_MARK, PathLike, blocks_of, columns_of, no_lines

Block = TypeVar("Block")

# Blocks are looked up in this many threads; reading the file feeds no more than a few.
THREADS = min(4, os.cpu_count() or 1)

_TRIPLE_COLUMNS = ("head", "relation", "tail")  # also the header line of PyKEEN's numeric_triples.tsv.gz
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
    dictionaries = entity_to_id, relation_to_id
    numeric, why, text = _form(path, dictionaries, numeric)
    tables = _tables(dictionaries, numeric)
    what = "id" if numeric else "label"
    blocks: list[np.ndarray] = []  # each [lines, 3] int32
    lines = 0
    skipped = 0
    first_unknown = ""
    look_up = partial(_ids_of_block, path, tables)
    for first_line, labels, ids in _in_threads(look_up, text):
        known = (ids != UNKNOWN).all(1)
        if not known.all() and not first_unknown:
            first_unknown = _describe_unknown(path, first_line, labels, ids, tables)
            if not numeric and not known.any() and _all_integers(labels):
                why = "the lines hold integers: if these are ids, --numeric-triples (numeric=True) reads them; "
            if not skip_unknown:
                raise InputError(f"{first_unknown}; {why or _FOREIGN}--skip-unknown leaves such lines out")
        lines += len(ids)
        blocks.append(ids if known.all() else ids[known])
        skipped += len(ids) - len(blocks[-1])
    if not lines:
        raise no_lines(path, _TRIPLE_COLUMNS)
    if skipped == lines:
        reason = why.removesuffix("; ") or "are these the dictionaries the model was trained with?"
        raise InputError(
            f"{path}: each of the {lines} lines has an unknown {what}, the first: {first_unknown}; {reason}"
        )
    if skipped:
        warnings.warn(UnknownLabels(path, what, skipped, lines, first_unknown), stacklevel=2)
    triples = np.empty((lines - skipped, 3), dtype=np.int64)
    np.concatenate(blocks, out=triples)
    return torch.from_numpy(triples)


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


def _form(
    path: PathLike, dictionaries: tuple[Mapping[str, int], Mapping[str, int]], numeric: bool | None
) -> tuple[bool, str, Iterator[tuple[bytes, int]]]:  # are they ids; why, if not asked for; blocks without the header
    blocks = blocks_of(path)
    first = next(blocks, None)
    if first is None:
        return bool(numeric), "", blocks
    header, _, rest = first[0].removeprefix(BYTE_ORDER_MARK).partition(b"\n")
    has_header = header.removesuffix(b"\r") == b"\t".join(name.encode() for name in _TRIPLE_COLUMNS)
    why = ""
    if numeric is None:
        known = [name in dictionaries[column % 2] for column, name in enumerate(_TRIPLE_COLUMNS)]
        if has_header and not all(known):
            numeric, why = True, "its header line says that it holds ids: remove that line if it holds labels; "
        elif str(path).removesuffix(".gz").endswith(".del"):
            numeric, why = True, "its name, *.del, says that it holds ids: rename it if it holds labels; "
    if numeric and has_header:
        first = rest, 2
    return bool(numeric), why, chain([first] if first[0] else [], blocks)


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
    ids = np.empty((labels.height, 3), dtype=np.int32)
    for column, (name, table) in enumerate(zip(_TRIPLE_COLUMNS, (tables[0], tables[1], tables[0]), strict=True)):
        ids[:, column] = table.look_up(labels[name])
    return first_line, labels, ids


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
    first_line: int,
    labels: pl.DataFrame,  # [n] head, relation, tail: String
    ids: np.ndarray,  # [n, 3]
    tables: Tables,
) -> str:
    """Names the first label of a block that has no id, or the first id that is none."""
    row, column = (int(index[0]) for index in (ids == UNKNOWN).nonzero())
    name = _TRIPLE_COLUMNS[column]
    kind, table, entries = ("relation", tables[1], "relations") if column == 1 else ("entity", tables[0], "entities")
    came = f"{path} line {first_line + row}: {name} {quote(labels[name][row])}"
    if isinstance(table, IdRange):
        return f"{came} is not an id from 0 to {table.size - 1} (the {kind} dictionary has {table.size} {entries})"
    return f"{came} is not in the {kind} dictionary ({table.size} {entries})"


def _all_integers(labels: pl.DataFrame) -> bool:
    return not any(column.cast(pl.Int64, strict=False).has_nulls() for column in labels.get_columns())
