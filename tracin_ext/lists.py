"""Training triples by what they share, the largest norms first: the order in which bounds are looked at.

Sizes: n training triples, K checkpoints, N entities, R relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracin_ext.grouping import stable_argsort
from tracin_ext.ops import DENSE_PARTS, ListTensors

TOTALS = 1 << 20  # triples whose norms are in float64 at a time
SQUARES = 1e-100, 1e100  # rates by which no square of float32 vanishes or overflows in float64


class RowLists(NamedTuple):
    """Rows are triples by `totals`, so that bounds of all are looked at from the first row on."""

    triples: Tensor  # [n, 3] int32
    numbers: Tensor  # [n] int32, number of a row's triple
    totals: Tensor  # [n] norms of the parts that count for every pair, falling
    head_from: Tensor  # [N + 1] int64, where each head's rows begin in head_rows
    head_rows: Tensor  # [n] int32
    tail_from: Tensor  # [N + 1] int64, in tail_rows
    tail_rows: Tensor  # [n] int32
    relation_from: Tensor  # [R + 1] int64, in relation_rows
    relation_rows: Tensor  # [n] int32, in each relation by relation_totals
    relation_totals: Tensor  # [n] norms of the parts that count for every pair or in one relation, falling


def starts(
    ids: Tensor,  # [n]
    count: int,
) -> Tensor:  # [count + 1] int64
    """Where each id's rows begin once they are sorted by it."""
    return torch.cat([ids.new_zeros(1), ids.bincount(minlength=count).cumsum(0)])


def total_of(
    norms: Sequence[Tensor],  # K of [n, NORM_PARTS]
    rates: Sequence[float],
    parts: int,
) -> Tensor:  # [n]
    """The root of the sum of the squares of the first parts, weighted by the rates and rounded up."""
    if len(norms[0]) > TOTALS:
        blocks = zip(*(each.split(TOTALS) for each in norms), strict=True)
        return torch.cat([total_of(block, rates, parts) for block in blocks])
    eps = torch.finfo(norms[0].dtype).eps
    if norms[0].dtype == torch.float32 and all(SQUARES[0] < abs(rate) < SQUARES[1] for rate in rates):
        counted = [each[:, :parts].numpy() for each in norms]  # torch is slow at sums of few columns
        squares = [
            abs(rate) * np.einsum("np,np->n", x, x, dtype=np.float64) for rate, x in zip(rates, counted, strict=True)
        ]
        return _rounded_up(torch.from_numpy(sum(squares)).sqrt() * (1 + 4 * eps), norms[0].dtype)
    weighted = torch.cat(
        [abs(rate) ** 0.5 * each[:, :parts].double() for rate, each in zip(rates, norms, strict=True)], 1
    )
    largest = weighted.amax(1, keepdim=True) if weighted.shape[1] else weighted.new_zeros(len(weighted), 1)
    scale = largest.clamp(min=torch.finfo(torch.float64).tiny)  # no square vanishes
    return _rounded_up((weighted / scale).square().sum(1).sqrt() * scale[:, 0] * (1 + 4 * eps), norms[0].dtype)


def _rounded_up(
    root: Tensor,  # [n] float64
    dtype: torch.dtype,
) -> Tensor:  # [n]
    total = root.to(dtype)
    return total.where((total > 0) | (root == 0), torch.finfo(total.dtype).tiny)


def falling(
    totals: Tensor,  # [n], none negative
) -> Tensor:  # [n] int64
    """The largest first, equal ones in their order: numbers that are not negative are sorted as their bits are."""
    if totals.dtype != torch.float32:
        return totals.argsort(descending=True, stable=True)
    return stable_argsort(torch.iinfo(torch.int32).max - totals.view(torch.int32))


def row_lists_of(
    triples: Tensor,  # [n, 3] int32 by `totals`
    numbers: Tensor,  # [n] int32
    totals: Tensor,  # [n] of the dense parts, falling
    relation_totals: Tensor,  # [n] of the relation's too
    entities: int,
    relations: int,
) -> RowLists:
    """Rows by what they share."""
    heads, of_relation, tails = triples.unbind(1)
    relation_rows = by_relation(of_relation, relation_totals)
    return RowLists(
        triples=triples,
        numbers=numbers,
        totals=totals,
        head_from=starts(heads, entities),
        head_rows=stable_argsort(heads).int(),
        tail_from=starts(tails, entities),
        tail_rows=stable_argsort(tails).int(),
        relation_from=starts(of_relation, relations),
        relation_rows=relation_rows.int(),
        relation_totals=relation_totals[relation_rows],
    )


def by_relation(
    of_relation: Tensor,  # [n]
    totals: Tensor,  # [n]
) -> Tensor:  # [n] int64, rows of each relation, the largest total first
    by_total = falling(totals)
    return by_total[stable_argsort(of_relation[by_total])]


def lists_of(
    triples: Tensor,  # [n, 3] ordered by head and relation
    norms: Sequence[Tensor],  # K of [n, NORM_PARTS]
    rates: Sequence[float],
    index: Tensor,  # [n] number of each row's triple
    entities: int,
    relations: int,
) -> ListTensors:
    """Rows by what they share, the largest norms first, and norms in the order of the lists."""
    heads, of_relation, tails = triples.unbind(1)
    totals, relation_totals = total_of(norms, rates, DENSE_PARTS), total_of(norms, rates, DENSE_PARTS + 1)
    rows, relation_rows = falling(totals), by_relation(of_relation, relation_totals)

    def gathered(rows: Tensor, parts: int) -> Tensor:  # [n] -> [K parts, n]
        return torch.cat([each[:, :parts].T.contiguous()[:, rows] for each in norms])

    return ListTensors(
        numbers=index.contiguous(),
        row_of=index.argsort().int(),
        head_from=starts(heads, entities),
        tail_from=starts(tails, entities),
        tail_rows=stable_argsort(tails).int(),
        relation_from=starts(of_relation, relations),
        relation_rows=relation_rows.int(),
        relation_totals=relation_totals[relation_rows],
        relation_norms=gathered(relation_rows, DENSE_PARTS + 1),
        rows=rows.int(),
        totals=totals[rows],
        norms=gathered(rows, DENSE_PARTS),
    )
