"""What a training set says twice, and what it says once: copies, twin relations, test leaks, self-loops, rare ids."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from tracin.triples.twins import SURE, relation_twins

RARE = 0.01  # share of a relation's triples up to which self-loops are not its habit


@dataclass(frozen=True)
class Twins:
    """A relation that another one says again."""

    relation: int
    other: int
    turned: bool  # the other says it from tail to head
    shared: int  # pairs of entities
    share: float  # of the relation's pairs


@dataclass(frozen=True)
class Leak:
    """A test triple that the training set tells."""

    test_row: int
    row: int  # of the training triple
    kind: str  # "same", "inverse" (head and tail swapped) or "duplicate" (another relation, a twin)


@dataclass(frozen=True)
class Repeats:
    """Args:
    copies: rows that repeat an earlier row, with it.
    twins: relations that another one says again, of SURE of their pairs or more.
    repeated: how many training triples have their twin in the training set.
    leaks: test triples that the training set tells; `tests` were looked up.
    loops: rows of self-loops in relations that have none else, or next to none.
    single_entities, single_relations: ids in one training triple only.
    unseen: entities and relations of the test triples that the training set lacks.
    """

    copies: tuple[tuple[int, int], ...]
    twins: tuple[Twins, ...]
    repeated: int
    leaks: tuple[Leak, ...]
    tests: int
    loops: tuple[int, ...]
    single_entities: tuple[int, ...]
    single_relations: tuple[int, ...]
    unseen: tuple[int, int]


def find_repeats(
    train: Tensor,  # [n, 3]
    test: Tensor,  # [m, 3]
) -> Repeats:
    table = relation_twins(train).filter(pl.col("share") >= SURE)
    twins = tuple(
        Twins(relation, other, turned, shared, share)
        for relation, other, turned, shared, share in table.select(
            "relation", "other", "turned", "shared", "share"
        ).iter_rows()
    )
    frame = _frame(train).with_row_index("row")
    copies = (
        frame.with_columns(first=pl.col("row").min().over("head", "relation", "tail"))
        .filter(pl.col("row") != pl.col("first"))
        .select("first", "row")
        .sort("row")
    )
    told = _told(frame, table, frame.rename({"row": "test_row"}))
    others = told.filter((pl.col("row") != pl.col("test_row")) & (pl.col("kind") != "same"))
    seen_entities = torch.bincount(torch.cat([train[:, 0], train[:, 2][train[:, 2] != train[:, 0]]]))
    seen_relations = torch.bincount(train[:, 1])
    leaks = _told(frame, table, _frame(test).with_row_index("test_row"))
    rank = pl.col("kind").replace_strict({"same": 0, "inverse": 1, "duplicate": 2}, return_dtype=pl.Int64)
    leaks = leaks.sort("test_row", rank, "row").unique("test_row", keep="first", maintain_order=True)
    return Repeats(
        tuple((first, row) for first, row in copies.iter_rows()),
        twins,
        others["test_row"].n_unique(),
        tuple(Leak(test_row, row, kind) for test_row, row, kind in leaks.iter_rows()),
        len(test),
        tuple(_odd_loops(train)),
        tuple((seen_entities == 1).nonzero()[:, 0].tolist()),
        tuple((seen_relations == 1).nonzero()[:, 0].tolist()),
        (_unseen(test[:, [0, 2]], seen_entities), _unseen(test[:, 1], seen_relations)),
    )


def _frame(triples: Tensor) -> pl.DataFrame:
    return pl.DataFrame(
        {name: column.numpy() for name, column in zip(("head", "relation", "tail"), triples.unbind(1), strict=True)}
    )


def _told(train: pl.DataFrame, twins: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Which triples the training set tells: as they are, by a twin relation, or by one turned round."""
    same = asked.join(train, on=["head", "relation", "tail"]).with_columns(kind=pl.lit("same"))
    found = [same.select("test_row", "row", "kind")]
    for turned, kind in ((True, "inverse"), (False, "duplicate")):
        pairs = twins.filter(pl.col("turned") == turned).select("relation", "other")
        ends = ["tail", "head"] if turned else ["head", "tail"]
        others = asked.join(pairs, on="relation").join(
            train.rename({"relation": "other"}),
            left_on=["head", "other", "tail"],
            right_on=[ends[0], "other", ends[1]],
        )
        found.append(others.with_columns(kind=pl.lit(kind)).select("test_row", "row", "kind"))
    return pl.concat(found)


def _odd_loops(train: Tensor) -> list[int]:
    """Rows of self-loops in relations in which they are rare."""
    loop = train[:, 0] == train[:, 2]
    sizes = torch.bincount(train[:, 1])
    loops = torch.bincount(train[loop, 1], minlength=len(sizes))
    rare = loops <= torch.clamp(RARE * sizes, min=1)
    rare &= loops < sizes
    return (loop & rare[train[:, 1]]).nonzero()[:, 0].tolist()


def _unseen(ids: Tensor, seen: Tensor) -> int:
    distinct = ids.unique()
    return int((distinct >= len(seen)).sum() + (seen[distinct[distinct < len(seen)]] == 0).sum())
