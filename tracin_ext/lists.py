"""Training triples by what they share, the largest norms first: the order in which bounds are looked at.

Sizes: n training triples, K checkpoints, N entities, R relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tracin_ext.ops import DENSE_PARTS, ListTensors

TOTALS = 1 << 20  # triples whose norms are in float64 at a time


class NormLists(NamedTuple):
    """Rows are triples ordered by head and relation; norms are those of FactorTensors."""

    triples: Tensor  # [n, 3] integer
    numbers: Tensor  # [n] integer, number of a row's triple
    head_from: Tensor  # [N + 1] int64, where each head's rows begin
    tail_from: Tensor  # [N + 1] int64, in tail_rows
    tail_rows: Tensor  # [n] int32
    relation_from: Tensor  # [R + 1] int64, in relation_rows
    relation_rows: Tensor  # [n] int32, in each relation by relation_totals
    relation_totals: Tensor  # [n] norms of the parts that count for every pair or in one relation, falling
    rows: Tensor  # [n] int32, by totals
    totals: Tensor  # [n] norms of the parts that count for every pair, falling


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
    weighted = torch.cat(
        [abs(rate) ** 0.5 * each[:, :parts].double() for rate, each in zip(rates, norms, strict=True)], 1
    )
    largest = weighted.amax(1, keepdim=True) if weighted.shape[1] else weighted.new_zeros(len(weighted), 1)
    scale = largest.clamp(min=torch.finfo(torch.float64).tiny)  # no square vanishes
    root = (weighted / scale).square().sum(1).sqrt() * scale[:, 0] * (1 + 4 * torch.finfo(norms[0].dtype).eps)
    total = root.to(norms[0].dtype)
    return total.where((total > 0) | (root == 0), torch.finfo(total.dtype).tiny)


def norm_lists_of(
    triples: Tensor,  # [n, 3] ordered by head and relation
    norms: Sequence[Tensor],  # K of [n, NORM_PARTS]
    rates: Sequence[float],
    index: Tensor,  # [n] number of each row's triple
    entities: int,
    relations: int,
) -> NormLists:
    """Rows by what they share, the largest norms first."""
    heads, of_relation, tails = triples.unbind(1)
    totals, relation_totals = total_of(norms, rates, DENSE_PARTS), total_of(norms, rates, DENSE_PARTS + 1)
    rows = totals.argsort(descending=True)
    by_total = relation_totals.argsort(descending=True)
    relation_rows = by_total[of_relation[by_total].argsort(stable=True)]
    return NormLists(
        triples=triples,
        numbers=index.contiguous(),
        head_from=starts(heads, entities),
        tail_from=starts(tails, entities),
        tail_rows=tails.argsort(stable=True).int(),
        relation_from=starts(of_relation, relations),
        relation_rows=relation_rows.int(),
        relation_totals=relation_totals[relation_rows],
        rows=rows.int(),
        totals=totals[rows],
    )


def lists_of(
    lists: NormLists,
    norms: Sequence[Tensor],  # K of [n, NORM_PARTS]
) -> ListTensors:
    """The same, with norms in the order of the lists."""

    def gathered(rows: Tensor, parts: int) -> Tensor:  # [n] -> [K parts, n]
        return torch.cat([each[:, :parts].T.contiguous()[:, rows.long()] for each in norms])

    return ListTensors(
        **{name: getattr(lists, name) for name in NormLists._fields if name != "triples"},
        row_of=lists.numbers.argsort().int(),
        relation_norms=gathered(lists.relation_rows, DENSE_PARTS + 1),
        norms=gathered(lists.rows, DENSE_PARTS),
    )
