"""Tab-separated UTF-8 text, plain or packed by gzip or zstd, read in blocks of lines.

The same rules hold for every such file: no quoting, no comments; columns are separated by one tab, further columns are
ignored; lines end in LF or CRLF and have at most LONGEST_LINE bytes; empty lines are allowed at the end of the file
only. A path may be a Source, for readers that need several looks at what can be opened once.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import polars as pl

from tracin.errors import InputError, quote
from tracin.triples.source import LONGEST_LINE, PathLike, long_line, source_of

# 180,000 lines of a biomedical graph, whose arrays stay in cache: blocks of 64 MiB take 1.7 times as long.
BLOCK_BYTES = 1 << 23

SHORT_BYTES = 1 << 16  # read at a time to find one line end
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_COLUMNS = 1000  # that polars is given: each takes 600 bytes


@dataclass(frozen=True)
class Span:
    """Whole lines of a file."""

    start: int = 0  # bytes of the unpacked text
    stop: int | None = None  # None: all that follow, but for empty lines at the end of the file
    first_line: int = 1  # its number; 1 means that a byte order mark may come first


WHOLE = Span()


def blocks_of(path: PathLike, span: Span = WHOLE) -> Iterator[tuple[bytes, int]]:
    """Yields (whole lines, number of the first line), without the empty lines at the end of the file.

    Every block ends in LF; a byte order mark is no part of the first one. The last line that is not empty is held back
    until more text or the end of the file comes, so that empty lines after it can be told from empty lines in the
    middle. Those that end a share are in the middle.
    """
    line = span.first_line
    for block in _whole_lines(path, span):
        yield (block.removeprefix(BYTE_ORDER_MARK) if line == 1 else block), line
        line += _count_lines(block)


def _whole_lines(path: PathLike, span: Span) -> Iterator[bytes]:
    rest = b""
    done = span.start
    for piece in pieces_of(path, span.start, span.stop):
        text = rest + piece
        cut = text.rfind(b"\n", 0, _content_end(text)) + 1
        rest = text[cut:]
        long = long_line(text)
        if long is not None:
            raise InputError(
                f"{path} line {1 + lines_before(path, done + long)}: longer than {LONGEST_LINE:,} bytes, the most that "
                "a line may have; is this a text file with a line end after each line?"
            )
        if cut:
            yield text[:cut]
        done += cut
        if len(rest) > 2 * LONGEST_LINE:
            line = 1 + lines_before(path, done) + bool(_content_end(rest))
            raise InputError(f"{path} line {line}: more than {LONGEST_LINE:,} bytes of empty lines; remove them")
    content = _content_end(rest)
    if span.stop is not None and rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"
    elif content:
        end = rest.find(b"\n", content)
        yield rest + b"\n" if end < 0 else rest[: end + 1]


def share_of(path: PathLike, part: int, parts: int) -> tuple[int, int]:
    """Where one of `parts` shares of the text starts and stops: at the first lines from equally spaced bytes on.

    Empty lines at the end of the file are in no share.
    """
    with source_of(path).opened() as stream:
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


def lines_before(path: PathLike, position: int) -> int:
    return sum(map(_count_lines, pieces_of(path, 0, position)))


def first_lines_of(path: PathLike, count: int) -> list[bytes]:  # [count], empty where there are fewer
    """The first lines, without a byte order mark and their line ends."""
    with source_of(path).opened() as stream:
        lines = [stream.readline(SHORT_BYTES) for _ in range(count)]
    lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
    return [line.rstrip(b"\r\n") for line in lines]


def _content_end(text: bytes) -> int:
    """The length of the text without its line ends at the end."""
    tail = text[-256:].rstrip(b"\r\n")  # the whole text would be copied
    return len(text) - len(text[-256:]) + len(tail) if tail else len(text.rstrip(b"\r\n"))


def _count_lines(block: bytes) -> int:
    """LFs of a block; 4 times as fast as bytes.count."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def pieces_of(path: PathLike, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yields the content of a file, or the bytes from `start` to `stop` of it, BLOCK_BYTES at a time."""
    with source_of(path).opened() as stream:
        if start:
            stream.seek(start)
        left = sys.maxsize if stop is None else stop - start
        while piece := stream.read(min(BLOCK_BYTES, left)):
            left -= len(piece)
            yield piece


def columns_of(
    block: bytes,  # whole lines, the last one ends in LF
    first_line: int,
    path: PathLike,
    columns: Sequence[str],
) -> pl.DataFrame:  # one String column per name, one row per line, no nulls
    """Splits lines at tabs and keeps the first columns.

    polars splits 2 million lines in 0.4 s. Where its result may differ from the rules of this module (an empty label
    or a missing column, both null to polars; a start that it takes for a byte order mark or a packed file), where the
    first line has thousands of columns, and to find the line of an error, the plain split below decides.
    """
    first_end = block.find(b"\n")
    if block.startswith(BYTE_ORDER_MARK) or block.count(b"\t", 0, first_end) >= MOST_COLUMNS:
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
    """The plain definition of `columns_of`; names the first line with too few columns."""
    lines = []
    for cells, error in cells_of(block, first_line, path, columns):
        if error:
            raise InputError(error)
        lines.append(cells)
    return pl.DataFrame(list(zip(*lines, strict=True)), schema=dict.fromkeys(columns, pl.String), orient="col")


def cells_of(
    block: bytes,  # whole lines, the last one ends in LF
    first_line: int,
    path: PathLike,
    columns: Sequence[str],
) -> Iterator[tuple[list[str], str]]:
    """Of each line the first columns, and what is wrong with it if it has too few."""
    width = len(columns)
    for number, line in enumerate(decode(block, first_line, path).removesuffix("\n").split("\n"), first_line):
        text = line.removesuffix("\r")
        cells = text.split("\t", width)
        error = ""
        if len(cells) < width:
            found = f"{len(cells)} of {width} columns in {quote(text)}" if text.strip() else "an empty line"
            error = (
                f"{path} line {number}: {found}; expected {'<TAB>'.join(columns)}, separated by tabs; "
                "mend or remove this line"
            )
        yield cells[:width], error


def decode(content: bytes, first_line: int, path: PathLike) -> str:
    """The text of UTF-8 bytes; an error names the line of the first byte that is not."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise InputError(
            f"{path} line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8 text, "
            "and check that it is a text file"
        ) from None


def no_lines(path: PathLike, columns: Sequence[str]) -> InputError:
    return InputError(f"{path}: the file has no lines; expected lines {'<TAB>'.join(columns)}")
