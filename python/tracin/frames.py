"""Influences as data frames, with PyKEEN's names of columns, and as Parquet files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from torch import Tensor

from tracin.errors import InputError
from tracin.labels import Dictionaries, Labels

ROWS = 1 << 17  # of a row group: 20 MiB in memory, with names
SUFFIX = ".parquet"


class Columns:
    """The columns of triples; the tables of labels are made once, so that millions of rows take a lookup each.

    Args:
        labels: what ids are called, or whatever has dictionaries; None leaves the columns of labels out.
    """

    def __init__(self, labels: Labels | Dictionaries | None) -> None:
        self.tables: dict[str, dict[str, pl.Series]] = {"entity": {}, "relation": {}}  # kind -> column -> [size]
        if labels is None:
            return
        labels = _labels(labels)
        entities, relations = (range(1 + max(ids, default=-1)) for ids in (labels.entities, labels.relations))
        self.tables["entity"]["label"] = _strings(map(labels.entity, entities))
        self.tables["relation"]["label"] = _strings(map(labels.relation, relations))
        if labels.node_names is not None:
            self.tables["entity"]["name"] = _strings(map(labels.entity_name, entities))
        if labels.relation_names is not None:
            self.tables["relation"]["name"] = _strings(map(labels.relation_name, relations))

    def of(
        self,
        triples: Tensor,  # [n, 3]
        prefix: str = "",
    ) -> Iterator[pl.Series]:  # each [n]
        """head_id, head_label, [head_name], relation_id, ..., each after the prefix."""
        for place, ids in zip(("head", "relation", "tail"), triples.unbind(1), strict=True):
            kind = "relation" if place == "relation" else "entity"
            rows = _integers(f"{prefix}{place}_id", ids)
            yield rows
            for column, table in self.tables[kind].items():
                outside = ids[(ids < 0) | (ids >= len(table))]
                if len(outside):
                    raise InputError(
                        f"{kind} id {outside[0]} has no label, the {len(table)} labels are of ids from 0 on; are they "
                        "those of this model?"
                    )
                yield table.gather(rows).alias(f"{prefix}{place}_{column}")


def influence_frame(
    columns: Columns,
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
            *([] if test is None else columns.of(test, "test_")),
            *([] if test_self_influence is None else [_numbers("test_self_influence", test_self_influence)]),
            *([] if train_index is None else [_integers("train_index", train_index)]),
            *columns.of(train),
            _numbers("score", scores),
        ]
    )


def self_influence_frame(
    scores: Tensor,  # [n]
    train: Tensor,  # [n, 3]
    labels: Labels | Dictionaries | None = None,
) -> pl.DataFrame:  # n rows
    """Self-influences as a table, greatest first: train_index, head_id, head_label, ..., tail_label, self_influence.

    Args:
        scores: what `TracIn.self_influence` returned.
        train: the triples it was given.
        labels: what has the dictionaries label -> id, a Checkpoint or a PyKEEN triples factory; None for ids only.

    Raises:
        InputError: if the triples are not those that were scored, or ids have no label.

    Example:
        >>> scores = TracIn(checkpoint).self_influence(train)
        >>> self_influence_frame(scores, train, checkpoint).head(10)
    """
    if scores.shape != train.shape[:1]:
        raise InputError(f"{len(train)} triples for {len(scores)} self-influences; give the triples that were scored")
    order = scores.argsort(descending=True, stable=True)
    return ordered_self_influence_frame(Columns(labels), order, train[order], scores[order])


def ordered_self_influence_frame(
    columns: Columns,
    train_index: Tensor,  # [n]
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
) -> pl.DataFrame:  # n rows
    index, values = _integers("train_index", train_index), _numbers("self_influence", scores)
    return pl.DataFrame([index, *columns.of(train), values])


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX


@contextmanager
def parquet_file(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Gives a function that writes a frame; all of them, of one schema, become one file that takes the place of `path`.

    polars writes a file at once or from a query: each frame is a file until all are copied, in pieces, into one.
    """
    target = path.resolve()  # a link stays a link
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        parts: list[Path] = []

        def write(frame: pl.DataFrame) -> None:
            parts.append(Path(folder) / f"{len(parts)}{SUFFIX}")
            frame.write_parquet(parts[-1])

        yield write
        if not parts:
            raise InputError(f"{path}: there are no rows to write")
        whole = parts[0]
        if len(parts) > 1:
            whole = Path(folder) / f"whole{SUFFIX}"
            pl.scan_parquet(parts).sink_parquet(whole, row_group_size=ROWS)
        os.replace(whole, target)


def _labels(labels: Labels | Dictionaries) -> Labels:
    if isinstance(labels, Labels):
        return labels
    entities, relations = labels.entity_to_id, labels.relation_to_id
    if entities is None or relations is None:
        missing = "entity_to_id" if entities is None else "relation_to_id"
        raise InputError(f"labels has no {missing}; load the checkpoint with it, or leave labels out for ids only")
    by_id = [{number: label for label, number in some.items()} for some in (entities, relations)]
    return Labels(by_id[0], by_id[1])


def _strings(labels: Iterator[str]) -> pl.Series:
    return pl.Series(list(labels), dtype=pl.String)


def _integers(name: str, values: Tensor) -> pl.Series:
    return pl.Series(name, values.numpy(), dtype=pl.Int64)


def _numbers(name: str, values: Tensor) -> pl.Series:
    return pl.Series(name, values.numpy())
