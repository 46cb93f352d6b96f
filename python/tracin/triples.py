"""Readers for triples, dictionaries and names: tab-separated UTF-8 text, plain or gzip, read in blocks of lines.

The same rules hold for every such file: no header, no quoting, no comments; columns are separated by one tab, further
columns are ignored; lines end in LF or CRLF; empty lines are allowed at the end of the file only.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.label_table import UNKNOWN, LabelTable

PathLike = str | os.PathLike[str]
Block = TypeVar("Block")

# 180,000 lines of a biomedical graph, whose arrays stay in cache: blocks of 64 MiB take 1.7 times as long.
BLOCK_BYTES = 1 << 23

# Blocks are looked up in this many threads; reading the file feeds no more than a few.
THREADS = min(4, os.cpu_count() or 1)

SHORT_BYTES = 1 << 16  # read at a time to find one line end

# The number of a share's first line until an error needs the right one: counting the lines before it takes time.
NOT_THE_FIRST = 2

# Ids are int32 until the final copy: half the memory of int64.
MAX_ID = 2**31 - 1

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TRIPLE_COLUMNS = ("head", "relation", "tail")


def read_triples(
    path: PathLike,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    skip_unknown: bool = False,
) -> Tensor:  # [n, 3] int64
    """Reads `head<TAB>relation<TAB>tail` lines of labels, in file order with duplicates kept: row i is line i + 1.

    Args:
        path: text file without header, plain or gzip.
        entity_to_id: label -> row of the model's entity table.
        relation_to_id: label -> number of the relation.
        skip_unknown: leave out lines with a label that is in neither dictionary, with one warning that counts them;
            a row number is then no longer a line number.

    Returns:
        [n, 3] int64: head, relation, tail.

    Raises:
        InputError: if the file cannot be read, has no line, a line with fewer than three columns, or an unknown label
            (with `skip_unknown`: only such lines).

    Example:
        >>> entities, relations = read_dictionary("node_dict.txt"), read_dictionary("rel_dict.txt")
        >>> read_triples("train.txt", entities, relations)[0].tolist()
        [20, 3, 17]
    """
    part = _read_lines(path, (LabelTable(entity_to_id), LabelTable(relation_to_id)), skip_unknown, _Span())
    check_parts(path, [part.count])
    return part.triples


@dataclass(frozen=True)
class PartCount:
    """What became of consecutive lines of a file of triples."""

    lines: int
    skipped: int  # of them, for an unknown label
    first_unknown: str  # names the first such line and label; empty if there is none


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
) -> TriplesPart:
    """Reads the triples of one of `parts` shares of a file, cut at line ends; together they are `read_triples`' rows.

    Shares are of as many bytes each, so a share may have no line at all. Of a plain file only the share is read; a gzip
    file is unpacked up to the share's end, once more to find out how long it is.

    Args:
        path, entity_to_id, relation_to_id, skip_unknown: as for `read_triples`.
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
    tables = LabelTable(entity_to_id), LabelTable(relation_to_id)
    start, stop = _share(path, part, parts) if parts > 1 else (0, None)
    counted = start == 0 or skip_unknown  # whose warning names a line
    first_line = 1 + _lines_before(path, start) if counted else NOT_THE_FIRST
    try:
        return _read_lines(path, tables, skip_unknown, _Span(start, stop, first_line))
    except InputError:
        if counted:
            raise
    return _read_lines(path, tables, skip_unknown, _Span(start, stop, 1 + _lines_before(path, start)))


def check_parts(path: PathLike, counts: Sequence[PartCount]) -> None:
    """Warns of the lines that were left out in all parts of a file together.

    Raises:
        InputError: if there are no lines, or none is left.
    """
    lines, skipped = (sum(getattr(count, name) for count in counts) for name in ("lines", "skipped"))
    first_unknown = next((count.first_unknown for count in counts if count.first_unknown), "")
    if not lines:
        raise _empty(path, _TRIPLE_COLUMNS)
    if skipped == lines:
        raise InputError(
            f"{path}: each of the {lines} lines has an unknown label, the first: {first_unknown}; "
            "are these the dictionaries the model was trained with?"
        )
    if skipped:
        warnings.warn(
            f"{path}: {skipped} of {lines} lines left out for unknown labels, the first: {first_unknown}", stacklevel=3
        )


def read_dictionary(path: PathLike) -> dict[str, int]:
    """Reads `label<TAB>id` lines. Ids need not be in order; gaps are for the model to judge.

    Raises:
        InputError: if the file cannot be read or has no line, for a line with fewer than two columns, an id that is not
            an integer from 0 on, and a label or an id that comes twice.

    Example:
        >>> read_dictionary("rel_dict.txt")["predicate:1"]
        1
    """
    table = _read_numbered(path, "label")
    ids = dict(zip(table["label"].to_list(), table["id"].to_list(), strict=True))
    if len(ids) < table.height:
        _check_distinct(path, table, "label", "id")
    return ids


def make_dictionaries(paths: Sequence[PathLike]) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of the entities and of the relations that occur in files of triples, in the order of their labels."""
    distinct = [pl.Series("label", [], dtype=pl.String)] * 2
    for path in paths:
        for block, first_line in _blocks(path):
            head, relation, tail = _columns(block, first_line, path, _TRIPLE_COLUMNS).get_columns()
            distinct = [
                pl.concat([before, *(labels.rename("label") for labels in new)]).unique()
                for before, new in zip(distinct, ((head, tail), (relation,)), strict=True)
            ]
    entities, relations = ({label: number for number, label in enumerate(labels.sort())} for labels in distinct)
    return entities, relations


def read_names(path: PathLike) -> dict[int, str]:
    """Reads `human name<TAB>id` lines into id -> name; several ids may share a name.

    Raises:
        InputError: as `read_dictionary`, save that a name may come twice.

    Example:
        >>> read_names("node_name_dict.txt")[2]
        'aspirin'
    """
    table = _read_numbered(path, "name")
    return dict(zip(table["id"].to_list(), table["name"].to_list(), strict=True))


def read_edge_map(path: PathLike) -> dict[str, str]:
    """Reads a JSON object {'{"predicate": "biolink:treats", ...}': "predicate:0", ...} into relation -> predicate.

    Each key is itself JSON text, an object of the predicate and its qualifiers; relations may share a predicate.

    Raises:
        InputError: if the file cannot be read or does not have this form, and for a relation that comes twice.

    Example:
        >>> read_edge_map("edge_map.json")["predicate:0"]
        'biolink:treats'
    """
    expected = 'expected a JSON object {\'{"predicate": "biolink:treats", ...}\': "predicate:0", ...}'
    content = b"".join(_pieces(path)).removeprefix(_BYTE_ORDER_MARK)
    try:
        edge_map = json.loads(_decode(content, 1, path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg}); {expected}") from None
    if not isinstance(edge_map, dict):
        raise InputError(f"{path}: a JSON {type(edge_map).__name__}; {expected}")
    predicates: dict[str, str] = {}
    for key, relation in edge_map.items():
        predicate = _predicate(key)
        if predicate is None or not isinstance(relation, str):
            raise InputError(f"{path}: the entry {_quote(key)}: {_quote(relation)} has another form; {expected}")
        if relation in predicates:
            raise InputError(f"{path}: relation {_quote(relation)} comes twice; {expected}, each relation once")
        predicates[relation] = predicate
    return predicates


def _predicate(key: str) -> str | None:
    """The "predicate" of a key that is JSON text; None if it has none."""
    try:
        qualifiers = json.loads(key)
    except json.JSONDecodeError:
        return None
    predicate = qualifiers.get("predicate") if isinstance(qualifiers, dict) else None
    return predicate if isinstance(predicate, str) else None


@dataclass(frozen=True)
class _Span:
    """Whole lines of a file."""

    start: int = 0  # bytes of the unpacked text
    stop: int | None = None  # None: all that follow, but for empty lines at the end of the file
    first_line: int = 1  # its number; 1 means that a byte order mark may come first


def _read_lines(
    path: PathLike,
    tables: tuple[LabelTable, LabelTable],  # of entities, of relations
    skip_unknown: bool,
    span: _Span,
) -> TriplesPart:
    blocks = [np.empty((0, 3), dtype=np.int32)]  # each [lines, 3]
    lines = 0
    skipped = 0
    first_unknown = ""
    look_up = partial(_ids_of_block, path, tables)
    for first_line, labels, ids in _in_threads(look_up, _blocks(path, span)):
        known = (ids != UNKNOWN).all(1)
        if not known.all() and not first_unknown:
            first_unknown = _describe_unknown(path, first_line, labels, ids, tables)
            if not skip_unknown:
                raise InputError(
                    f"{first_unknown}; is this the dictionary the model was trained with? "
                    "--skip-unknown leaves such lines out"
                )
        lines += len(ids)
        blocks.append(ids if known.all() else ids[known])
        skipped += len(ids) - len(blocks[-1])
    triples = np.empty((lines - skipped, 3), dtype=np.int64)
    np.concatenate(blocks, out=triples)
    return TriplesPart(torch.from_numpy(triples), PartCount(lines, skipped, first_unknown))


def _share(path: PathLike, part: int, parts: int) -> tuple[int, int]:
    """Where a share of the text starts and stops: at the first lines from equally spaced bytes on.

    Empty lines at the end of the file are in no share.
    """
    with _opened(path) as stream:
        packed = isinstance(stream, gzip.GzipFile)
        tail = 0 if packed else max(0, stream.seek(0, os.SEEK_END) - SHORT_BYTES)
        size = _line_start(stream, _content_stop(stream, tail) or _content_stop(stream, 0))
        start, stop = (min(size, _line_start(stream, size * share // parts)) for share in (part, part + 1))
    return start, stop


def _content_stop(stream: IO[bytes], start: int) -> int:
    """Where the text ends, without the line ends at its end; 0 if nothing else follows `start`."""
    stop = 0
    position = stream.seek(start)
    while piece := stream.read(BLOCK_BYTES):
        content = _content_end(piece)
        stop = position + content if content else stop
        position += len(piece)
    return stop


def _line_start(stream: IO[bytes], position: int) -> int:
    """The first start of a line at or after `position`, or the end of the text."""
    if position == 0:
        return 0
    before = stream.seek(position - 1)  # a line end right before `position` counts
    while piece := stream.read(SHORT_BYTES):
        found = piece.find(b"\n")
        if found >= 0:
            return before + found + 1
        before += len(piece)
    return before


def _lines_before(path: PathLike, position: int) -> int:
    return sum(map(_count_lines, _pieces(path, 0, position)))


def _ids_of_block(
    path: PathLike,
    tables: tuple[LabelTable, LabelTable],  # of entities, of relations
    block: bytes,  # whole lines
    first_line: int,
) -> tuple[int, pl.DataFrame, np.ndarray]:  # first line, labels of head, relation, tail [n], their ids [n, 3] int32
    labels = _columns(block, first_line, path, _TRIPLE_COLUMNS)
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
    tables: tuple[LabelTable, LabelTable],
) -> str:
    """Names the first label of a block that has no id."""
    row, column = (int(index[0]) for index in (ids == UNKNOWN).nonzero())
    name = _TRIPLE_COLUMNS[column]
    kind, table, entries = ("relation", tables[1], "relations") if column == 1 else ("entity", tables[0], "entities")
    return (
        f"{path} line {first_line + row}: {name} {_quote(labels[name][row])} is not in the {kind} dictionary "
        f"({table.size} {entries})"
    )


def _read_numbered(
    path: PathLike, first_column: str
) -> pl.DataFrame:  # first_column: String, id: Int64, distinct, 0 <= id <= MAX_ID
    """Reads `first_column<TAB>id` lines; row i is line i + 1."""
    columns = (first_column, "id")
    blocks = [_columns(block, first_line, path, columns) for block, first_line in _blocks(path)]
    if not blocks:
        raise _empty(path, columns)
    texts = pl.concat(blocks)
    table = texts.with_columns(pl.col("id").cast(pl.Int64, strict=False))
    wrong = table["id"].is_null() | ~table["id"].is_between(0, MAX_ID)
    if wrong.any():
        row = _first(wrong)
        raise InputError(
            f"{path} line {row + 1}: id {_quote(texts['id'][row])} is not an integer from 0 to {MAX_ID}; "
            f"expected are lines {first_column}<TAB>id, without a header line"
        )
    _check_distinct(path, table, "id", first_column)
    return table


def _check_distinct(path: PathLike, table: pl.DataFrame, column: str, other: str) -> None:
    """Raises for a value of `column` that comes twice; `other` is the column that tells the two lines apart."""
    distinct = table[column].is_first_distinct()
    if distinct.all():
        return
    row = _first(~distinct)
    value = table[column][row]
    earlier = _first(table[column] == value)
    raise InputError(
        f"{path} line {row + 1}: {column} {_quote(value)} (of {other} {_quote(table[other][row])}) was already on line "
        f"{earlier + 1} (of {other} {_quote(table[other][earlier])}); each {column} may come once"
    )


def _blocks(path: PathLike, span: _Span = _Span()) -> Iterator[tuple[bytes, int]]:
    """Yields (whole lines, number of the first line), without the empty lines at the end of the file.

    Every block ends in LF. The last line that is not empty is held back until more text or the end of the file comes,
    so that empty lines after it can be told from empty lines in the middle. Those that end a share are in the middle.
    """
    rest = b""
    line = span.first_line
    for piece in _pieces(path, span.start, span.stop):
        text = rest + piece
        cut = text.rfind(b"\n", 0, _content_end(text)) + 1
        rest = text[cut:]
        if cut:
            block = text[:cut]
            yield block, line
            line += _count_lines(block)
    content = _content_end(rest)
    if span.stop is not None and rest:
        yield (rest if rest.endswith(b"\n") else rest + b"\n"), line
    elif content:
        end = rest.find(b"\n", content)
        yield (rest + b"\n" if end < 0 else rest[: end + 1]), line


def _content_end(text: bytes) -> int:
    """The length of the text without its line ends at the end."""
    tail = text[-256:].rstrip(b"\r\n")  # the whole text would be copied
    return len(text) - len(text[-256:]) + len(tail) if tail else len(text.rstrip(b"\r\n"))


def _count_lines(block: bytes) -> int:
    """LFs of a block; 4 times as fast as bytes.count."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _pieces(path: PathLike, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yields the content of a file, or the bytes from `start` to `stop` of it, BLOCK_BYTES at a time."""
    with _opened(path) as stream:
        if start:
            stream.seek(start)
        left = sys.maxsize if stop is None else stop - start
        while piece := stream.read(min(BLOCK_BYTES, left)):
            left -= len(piece)
            yield piece


@contextmanager
def _opened(path: PathLike) -> Iterator[IO[bytes]]:
    """A plain or gzip file, told by its first bytes, not by its name."""
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: this is a folder, expected a text file; name a file inside it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); copy or pack it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path and its rights") from None


def _columns(
    block: bytes,  # whole lines, the last one ends in LF
    first_line: int,
    path: PathLike,
    columns: Sequence[str],
) -> pl.DataFrame:  # one String column per name, one row per line, no nulls
    """Splits lines at tabs and keeps the first columns.

    polars splits 2 million lines in 0.4 s. Where its result may differ from the rules of this module (an empty label
    or a missing column, both null to polars; a start that it takes for a byte order mark or a packed file), and to
    find the line of an error, the plain split below decides.
    """
    if first_line == 1:
        block = block.removeprefix(_BYTE_ORDER_MARK)
    if block.startswith(_BYTE_ORDER_MARK):
        return _split_lines(block, first_line, path, columns)
    try:
        frame = pl.read_csv(
            block,
            has_header=False,
            separator="\t",
            quote_char=None,
            columns=list(range(len(columns))),
            infer_schema_length=0,
            truncate_ragged_lines=True,
        )
    except (pl.exceptions.PolarsError, OSError):
        return _split_lines(block, first_line, path, columns)
    if frame.height != _count_lines(block) or sum(frame.null_count().row(0)):
        return _split_lines(block, first_line, path, columns)
    frame.columns = list(columns)
    return frame


def _split_lines(block: bytes, first_line: int, path: PathLike, columns: Sequence[str]) -> pl.DataFrame:
    """The plain definition of `_columns`; names the first line with too few columns."""
    width = len(columns)
    cells: list[list[str]] = [[] for _ in columns]
    for number, line in enumerate(_decode(block, first_line, path).removesuffix("\n").split("\n"), first_line):
        text = line.removesuffix("\r")
        fields = text.split("\t")
        if len(fields) < width:
            found = f"{len(fields)} of {width} columns in {_quote(text)}" if text.strip() else "an empty line"
            raise InputError(
                f"{path} line {number}: {found}; expected {'<TAB>'.join(columns)}, separated by tabs; "
                "mend or remove this line"
            )
        for column, field in zip(cells, fields, strict=False):
            column.append(field)
    return pl.DataFrame(dict(zip(columns, cells, strict=True)), schema=dict.fromkeys(columns, pl.String))


def _decode(content: bytes, first_line: int, path: PathLike) -> str:
    """The text of UTF-8 bytes; an error names the line of the first byte that is not."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise InputError(
            f"{path} line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 text, "
            "and check that it is a text file"
        ) from None


def _empty(path: PathLike, columns: Sequence[str]) -> InputError:
    return InputError(f"{path}: the file has no lines; expected lines {'<TAB>'.join(columns)}")


def _first(mask: pl.Series) -> int:
    """The row of the first true value."""
    return cast(int, mask.arg_true()[0])


def _quote(value: object) -> str:
    """The value as it would be written in Python, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
