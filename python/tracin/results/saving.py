"""Results as files, by the ending of a name: a table as CSV or Parquet, a text as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from tracin.errors import InputError
from tracin.files import check_writable, is_parquet, replacing
from tracin.results.frames import parquet_file
from tracin.results.text import FORMULA

TABLES = (".csv", ".parquet")
STARTS = "^(?:" + "|".join(map(re.escape, FORMULA)) + ")"


def check_saved_as(path: Path, endings: tuple[str, ...], called: str = "path") -> None:
    """Raises InputError unless a file of this name can be written, in a form that its ending names."""
    if path.suffix.lower() not in endings:
        raise InputError(f"{called} {path}: the ending {path.suffix or 'is missing'}; expected {', '.join(endings)}")
    check_writable(path)


def save_as(
    path: Path,
    frame: Callable[[], pl.DataFrame],
    text: Mapping[str, Callable[[], str]],
    csv_safe: bool = False,
) -> None:
    """Writes what the ending of the name says; a file of that name is replaced once the new one is whole.

    Args:
        frame: gives the rows of CSV and Parquet.
        text: what gives the text under each other ending.
        csv_safe: an apostrophe stands before cells that a spreadsheet would take for a formula.
    """
    check_saved_as(path, (*text, *TABLES))
    ending = path.suffix.lower()
    if is_parquet(path):
        with parquet_file(path) as write:
            write(frame())
        return
    content = frame_as_csv(frame(), csv_safe) if ending == ".csv" else text[ending]()
    with replacing(path) as file:
        file.write(content)


def frame_as_csv(frame: pl.DataFrame, csv_safe: bool) -> str:
    if csv_safe:
        strings = pl.col(pl.String)
        frame = frame.with_columns(
            pl.when(strings.str.contains(STARTS)).then(pl.lit("'") + strings).otherwise(strings).name.keep()
        )
    return frame.write_csv()
