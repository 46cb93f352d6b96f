"""Influences as data frames, with PyKEEN's names of columns, and as Parquet files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from tracin.errors import InputError
from tracin.files import PARQUET, PIECES, replacing_path
from tracin.triples.given import ids_of
from tracin.triples.labels import Dictionaries, Labels, labels_of

ROWS = 1 << 17  # of a row group: 30 MiB in memory, with names


def triple_columns(
    triples: Tensor,  # [n, 3]
    labels: Labels | None,
    prefix: str = "",
) -> Iterator[pl.Series]:  # each [n]
    """head_id, head_label, [head_name], relation_id, ..., each after the prefix; without labels the ids only."""
    for place, ids in zip(("head", "relation", "tail"), triples.unbind(1), strict=True):
        rows = _integers(f"{prefix}{place}_id", ids)
        yield rows
        if labels is None:
            continue
        kind = "relation" if place == "relation" else "entity"
        for column, table in (labels.relation_columns if kind == "relation" else labels.entity_columns).items():
            outside = ids[(ids < 0) | (ids >= len(table))]
            if len(outside):
                raise InputError(
                    f"{kind} id {outside[0]} has no label, the {len(table)} labels are of ids from 0 on; are they "
                    "those of this model?"
                )
            yield table.gather(rows).alias(f"{prefix}{place}_{column}")


def as_pandas(frame: pl.DataFrame) -> Any:
    """The same as a pandas data frame; missing integers become NaN, as there.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError(
            "to_pandas() needs pandas, which is not installed: pip install pandas, or take to_frame(), which is polars"
        ) from error
    return pandas.DataFrame({column.name: column.to_numpy() for column in frame})


def influence_frame(
    labels: Labels | None,
    test_index: Tensor,  # [n]
    test: Tensor | None,  # [n, 3]
    test_self_influence: Tensor | None,  # [n]
    train_index: Tensor | None,  # [n]
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
) -> pl.DataFrame:  # n rows
    """A row for each test triple and training triple; what is None has no columns."""
    return pl.DataFrame(
        [
            _integers("test_index", test_index),
            *([] if test is None else triple_columns(test, labels, "test_")),
            *([] if test_self_influence is None else [_numbers("test_self_influence", test_self_influence)]),
            *([] if train_index is None else [_integers("train_index", train_index)]),
            *triple_columns(train, labels),
            _numbers("score", scores),
        ]
    )


def self_influence_frame(
    scores: Tensor,  # [n]
    train: Any,  # [n, 3]
    labels: Labels | Dictionaries | None = None,
) -> pl.DataFrame:  # n rows
    """Self-influences as a table, greatest first: train_index, head_id, head_label, ..., tail_label, self_influence.

    Args:
        scores: what `TracIn.self_influence` returned.
        train: the triples it was given, in any form that it takes.
        labels: what has the dictionaries label -> id, a Checkpoint, a PyKEEN triples factory or the result of a PyKEEN
            pipeline; None for ids only.

    Returns:
        n rows; train_index is the row of the triple in `train`.

    Raises:
        InputError: if the triples are not those that were scored, or ids have no label.

    Example:
        >>> scores = TracIn(checkpoint).self_influence(train)
        >>> self_influence_frame(scores, train, checkpoint).head(10)
    """
    train = ids_of(train, "train", labels)
    if scores.shape != train.shape[:1]:
        raise InputError(f"{len(train)} triples for {len(scores)} self-influences; give the triples that were scored")
    order = scores.argsort(descending=True, stable=True)
    return ordered_self_influence_frame(labels_of(labels), order, train[order], scores[order])


def ordered_self_influence_frame(
    labels: Labels | None,
    train_index: Tensor,  # [n]
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
) -> pl.DataFrame:  # n rows
    index, values = _integers("train_index", train_index), _numbers("self_influence", scores)
    return pl.DataFrame([index, *triple_columns(train, labels), values])


@contextmanager
def parquet_file(path: Path, run: Mapping[str, Any] | None = None) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Gives a function that writes a frame; all of them, of one schema, become one file that takes the place of `path`.

    What made the file is JSON text in its metadata, under the key "run".
    polars writes a file at once or from a query: each frame is a file until all are copied, in pieces, into one.
    """
    metadata: dict[str, str] | None = None if run is None else {"run": json.dumps(run)}
    with replacing_path(path) as whole, _pieces_of(whole) as folder:
        pieces: list[Path] = []

        def write(frame: pl.DataFrame) -> None:
            pieces.append(folder / f"{len(pieces)}{PARQUET}")
            with _full_disk_as_os_error():
                frame.write_parquet(pieces[-1], metadata=metadata)

        yield write
        if not pieces:
            raise InputError(f"{path}: there are no rows to write")
        if len(pieces) > 1:
            with _full_disk_as_os_error():
                pl.scan_parquet(pieces).sink_parquet(whole, row_group_size=ROWS, metadata=metadata)
        else:
            os.replace(pieces[0], whole)


@contextmanager
def _pieces_of(whole: Path) -> Iterator[Path]:
    """A folder for what a file is put together from."""
    folder = whole.with_name(whole.name + PIECES)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _full_disk_as_os_error() -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _integers(name: str, values: Tensor) -> pl.Series:
    return pl.Series(name, values.numpy(), dtype=pl.Int64)


def _numbers(name: str, values: Tensor) -> pl.Series:
    return pl.Series(name, values.numpy())
