"""Parquet files of triples and dictionaries, as the lines that all readers take."""

from __future__ import annotations

import tempfile
from typing import IO, cast

import polars as pl

from tracin.errors import InputError, quote
from tracin.triples.form import HEADERS, TRIPLE
from tracin.triples.source import Source

ROWS = 1 << 20  # written at a time


def triples_as_lines(source: Source, columns: str) -> Source:
    """The columns that are named as HEADERS are, else the first three, with a header where they are ids."""
    frame = _read(source)
    by_name = {name.lower(): name for name in frame.columns}
    words = next((words for words in HEADERS if set(words) <= set(by_name)), None)
    if words is not None:
        of = dict(zip(TRIPLE, (by_name[word] for word in words), strict=True))
        chosen = [of[name] for letter in columns for name in TRIPLE if name.startswith(letter)]
    else:
        chosen = frame.columns[:3]
    if len(chosen) < len(TRIPLE):
        raise InputError(f"{source}: {frame.width} columns; expected head, relation and tail")
    numeric = all(frame.schema[name].is_integer() for name in chosen)
    names = [name for letter in columns for name in TRIPLE if name.startswith(letter)]
    return _lines(source, frame.select(chosen), "\t".join(names) + "\n" if numeric else "")


def dictionary_as_lines(source: Source) -> Source:
    """A column of labels and one of ids."""
    frame = _read(source)
    ids = [name for name in frame.columns if frame.schema[name].is_integer()]
    labels = [name for name in frame.columns if frame.schema[name] == pl.String]
    if len(ids) != 1 or len(labels) != 1:
        raise InputError(f"{source}: columns {quote(frame.schema)}; expected one of text and one of integers")
    return _lines(source, frame.select(labels[0], ids[0]), "")


def _read(source: Source) -> pl.DataFrame:
    with source.opened() as stream:
        try:
            return pl.read_parquet(stream)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = quote(str(error))
            raise InputError(f"{source}: the Parquet file cannot be read ({reason}); write it again") from None


def _lines(source: Source, frame: pl.DataFrame, header: str) -> Source:
    for name, kind in frame.schema.items():
        if not (kind.is_integer() or kind in (pl.String, pl.Categorical)):
            raise InputError(f"{source}: column {name!r} is of {kind}; expected text or integers")
    frame = frame.cast(pl.String)
    for column in frame.get_columns():
        wrong = column.is_null() | column.str.contains(r"[\t\n]|\r$").fill_null(True)
        if wrong.any():
            row = int(wrong.arg_true()[0])
            raise InputError(
                f"{source} row {row}: {column.name} {quote(column[row])}; expected a label without tabs and line ends"
            )
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the source
    copy.write(header.encode())
    for some in frame.iter_slices(ROWS):
        some.write_csv(copy, include_header=False, separator="\t", quote_style="never")
    copy.seek(0)
    return Source(source.path, cast(IO[bytes], copy))
