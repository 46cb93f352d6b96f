"""Factors of triples kept in memory, from which single pairs are scored: exact top-k lists by bounds.

Sizes: n training triples, Q test triples, K checkpoints, N entities, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracin_ext.grouping import order_by_head_relation
from tracin_ext.ops import (
    DENSE_PARTS,
    NORM_PARTS,
    FactorTensors,
    ListTensors,
    PairTensors,
    bounded_top_k,
    factor_block,
)

if TYPE_CHECKING:
    from tracin_ext.backends.native import NativeBackend

BLOCK = 8192  # triples whose factors are computed together


def part_sizes(backend: NativeBackend) -> tuple[int, int]:
    """Features of the head's half and of the middle."""
    channels = backend.parameters.conv_weight.shape[0]
    head_half, middle, _ = backend.parts
    return channels * len(head_half.positions), channels * len(middle.positions)


def kept_bytes(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3]
) -> int:
    """What `keep` takes of memory."""
    p, (head_columns, middle_columns) = backend.parameters, part_sizes(backend)
    dim, size_S = p.entity.shape[1], backend.size_S * (p.M is not None)
    heads = len(triples[:, 0].unique())
    pairs = len((triples[:, 0] * (int(triples[:, 1].max()) + 1) + triples[:, 1]).unique()) if len(triples) else 0
    triple = size_S + dim * (("entity" in p.tracked) + ("relation" in p.tracked)) + NORM_PARTS + 8
    size = p.conv_weight.element_size()
    return size * (len(triples) * triple + pairs * (2 * dim + middle_columns) + heads * head_columns)


def keep(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
) -> FactorTensors:
    """The factors of all of them."""
    p, (head_columns, middle_columns) = backend.parameters, part_sizes(backend)
    dim, n = p.entity.shape[1], len(triples)
    new = p.conv_weight.new_empty
    fresh = (triples[1:, :2] != triples[:-1, :2]).any(1)
    pair = torch.cat([fresh.new_zeros(min(1, n)), fresh]).cumsum(0)
    first = torch.cat([fresh.new_ones(min(1, n)), fresh])
    _, pair_head = triples[first, 0].unique_consecutive(return_inverse=True)
    pairs, heads = len(pair_head), len(pair_head.unique()) if head_columns else 0
    factors = FactorTensors(
        triples=triples.contiguous(),
        pair=pair.int(),
        pair_head=pair_head.int(),
        w=new(n),
        S=new(n, 0 if p.M is None else backend.size_S),
        c=new(n, dim if "entity" in p.tracked else 0),
        q=new(n, dim if "relation" in p.tracked else 0),
        z=new(pairs, dim),
        un=new(pairs, dim),
        signs=torch.empty(pairs, -(-dim // 32), dtype=torch.int32),
        middle_v=new(pairs, middle_columns),
        middle_squares=new(pairs),
        head_v=new(heads, head_columns),
        head_squares=new(heads),
        norms=new(n, NORM_PARTS),
    )
    slack = 0.0 if p.M is None else 2 * backend.size_S * torch.finfo(p.dtype).eps * float(p.M.abs().sum(1).max())
    for start in range(0, n, BLOCK):
        factor_block(
            backend.model,
            backend.sizes,
            backend.packed_M,
            backend.tracked,
            backend.halves,
            factors,
            start,
            min(BLOCK, n - start),
            slack,
        )
    return factors


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
    weighted = torch.cat(
        [abs(rate) ** 0.5 * each[:, :parts].double() for rate, each in zip(rates, norms, strict=True)], 1
    )
    largest = weighted.amax(1, keepdim=True) if weighted.shape[1] else weighted.new_zeros(len(weighted), 1)
    scale = largest.clamp(min=torch.finfo(torch.float64).tiny)  # no square vanishes
    root = (weighted / scale).square().sum(1).sqrt() * scale[:, 0] * (1 + 4 * torch.finfo(norms[0].dtype).eps)
    total = root.to(norms[0].dtype)
    return total.where((total > 0) | (root == 0), torch.finfo(total.dtype).tiny)


def lists_of(
    factors: Sequence[FactorTensors],  # K
    rates: Sequence[float],
    index: Tensor,  # [n] number of each row's triple
    entities: int,
    relations: int,
) -> ListTensors:
    """Rows by what they share, the largest norms first."""
    heads, of_relation, tails = factors[0].triples.unbind(1)
    norms = [each.norms for each in factors]
    totals, relation_totals = total_of(norms, rates, DENSE_PARTS), total_of(norms, rates, DENSE_PARTS + 1)
    rows = totals.argsort(descending=True)
    by_total = relation_totals.argsort(descending=True)
    relation_rows = by_total[of_relation[by_total].argsort(stable=True)]

    def gathered(rows: Tensor, parts: int) -> Tensor:  # [n] -> [K parts, n]
        return torch.cat([each[:, :parts].T.contiguous()[:, rows] for each in norms])

    return ListTensors(
        numbers=index.contiguous(),
        row_of=index.argsort().int(),
        head_from=starts(heads, entities),
        tail_from=starts(tails, entities),
        tail_rows=tails.argsort(stable=True).int(),
        relation_from=starts(of_relation, relations),
        relation_rows=relation_rows.int(),
        relation_totals=relation_totals[relation_rows],
        relation_norms=gathered(relation_rows, DENSE_PARTS + 1),
        rows=rows.int(),
        totals=totals[rows],
        norms=gathered(rows, DENSE_PARTS),
    )


class KeptTriples:
    """Training triples that single pairs are scored with.

    Args:
        backends: of the checkpoints.
        rates: their learning rates.
        triples: [n, 3] training triples.
    """

    def __init__(self, backends: Sequence[NativeBackend], rates: Sequence[float], triples: Tensor) -> None:
        self.backends, self.rates = backends, rates
        order = order_by_head_relation(triples)
        self.factors = [keep(backend, triples[order]) for backend in backends]
        self.finite = all(bool(each.norms.isfinite().all()) for each in self.factors)
        self.grams = [backend.relation_v @ backend.relation_v.T for backend in backends]
        entities, relations = len(backends[0].parameters.entity), backends[0].sizes.relations
        self.lists = lists_of(self.factors, rates, order, entities, relations)

    @property
    def slack(self) -> float:
        """More than rounding adds to a bound: sums of at most this many terms are compared."""
        p = self.backends[0].parameters
        terms = max(*part_sizes(self.backends[0]), self.backends[0].size_S, p.entity.shape[1])
        return min(0.1, 4 * terms * torch.finfo(p.dtype).eps)

    @property
    def numbers_of_pair(self) -> int:
        """Numbers of a training triple that are read for its score with a test triple, in most cases."""
        dim = len(self.backends[0].model.hidden[0])
        return len(self.backends) * (3 * dim + self.factors[0].S.shape[1] + self.factors[0].middle_v.shape[1])

    def pair_tensors(
        self,
        tests: Tensor,  # [Q, 3] ordered by head and relation
    ) -> list[PairTensors]:
        """Both sides, of each checkpoint."""
        sides = []
        for backend, train, gram in zip(self.backends, self.factors, self.grams, strict=True):
            p, of_tests = backend.parameters, keep(backend, tests)
            if p.M is not None:
                of_tests = of_tests._replace(S=of_tests.S @ p.M)
            gram = gram if backend.relation_v.shape[1] else gram.new_empty(0, 0)
            sides.append(PairTensors(backend.model.entity, backend.model.hidden[4].clone(), gram, train, of_tests))
        return sides

    def top_k(
        self,
        tests: Tensor,  # [Q, 3]
        k: int,
        order: str,
        budget: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # scores [Q, k], indices [Q, k], work [Q, 4] of `bounded_top_k`
        by_head = order_by_head_relation(tests)
        scores = self.factors[0].w.new_empty(len(tests), k)
        indices, work = torch.full((len(tests), k), -1), torch.zeros(len(tests), 4, dtype=torch.int64)
        bounded_top_k(
            self.pair_tensors(tests[by_head]),
            [backend.tracked for backend in self.backends],
            torch.tensor(self.rates, dtype=torch.float64),
            self.lists,
            order,
            self.slack,
            budget,
            scores,
            indices,
            work,
        )
        back = by_head.argsort()
        return scores[back], indices[back], work[back]
