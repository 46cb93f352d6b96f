"""Exact top-k lists from norms alone: the factors of the few triples that bounds leave are computed when asked for.

Sizes: n training triples, Q test triples, K checkpoints, N entities, R relations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracin_ext.grouping import order_by_head_relation
from tracin_ext.kept import Sides, keep, numbers_of_pair, slack_of
from tracin_ext.lists import NormLists
from tracin_ext.ops import DENSE_PARTS, OUTCOMES, FactorTensors, cosines, merge_top_k, pair_scores
from tracin_ext.threads import each_in_a_thread

if TYPE_CHECKING:
    from tracin_ext.backends.native import NativeBackend

FIRST = 64  # triples that are scored before a threshold is known; as many again and more where it leaves them
STRETCH, LONGEST = 1024, 1 << 18  # entries of a list that are looked at together, at first and at most
PAIRS_OF_DIMENSION = 12.5
S, FC, E, E_UN, RELATION, HEAD, TAIL, BIAS = range(8)  # columns of norms


class RecomputedTriples:
    """What `tracin_ext.kept.KeptTriples` is, without factors in memory, for few test triples at a time.

    Args:
        backends: of the checkpoints.
        rates: their learning rates.
        norms: [n, NORM_PARTS] of each checkpoint, all finite, by row.
        signs: [n, ceil(D / 32)] int32 of each checkpoint, as `norms_of` gives them.
        lists: of the rows.
        most: test triples that are found so in less time than computing all factors takes.
    """

    finite = True

    def __init__(
        self,
        backends: Sequence[NativeBackend],
        rates: Sequence[float],
        norms: Sequence[Tensor],  # K of [n, NORM_PARTS]
        signs: Sequence[Tensor],  # K of [n, ceil(D / 32)]
        lists: NormLists,
        most: int,
    ) -> None:
        self.backends, self.rates, self.norms, self.signs = backends, rates, norms, signs
        self.lists, self.most = lists, most
        # Pairs in blocks that take as long as one whose triple's factors are computed for it: 400 of W3, 2,500 of W2.
        self.alone = round(PAIRS_OF_DIMENSION * backends[0].parameters.entity.shape[1])
        self.sides = Sides(backends)
        self.slack, self.numbers_of_pair = slack_of(backends[0]), numbers_of_pair(backends)

    def __len__(self) -> int:
        return len(self.lists.numbers)

    def serves(self, tests: int) -> bool:
        """Whether so many tests are found as fast as may be."""
        return tests <= self.most

    def top_k(
        self,
        tests: Tensor,  # [Q, 3]
        k: int,
        order: str,
        budget: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # scores [Q, k], indices [Q, k], work [Q, 4], as of `bounded_top_k`
        by_head = order_by_head_relation(tests)
        ordered = tests[by_head]
        of_tests = self.sides.of_tests(ordered)
        scores = self.norms[0].new_empty(len(tests), k)
        indices, work = torch.full((len(tests), k), -1), torch.zeros(len(tests), 4, dtype=torch.int64)

        def search(row: int) -> _Search:
            found = _Search(self, of_tests, row, k, order, budget)
            found.find(*ordered[row].tolist())
            return found

        for at, found in zip(by_head.tolist(), each_in_a_thread(search, range(len(tests))), strict=True):
            scores[at], indices[at] = found.best[0], found.best_index[0]
            work[at] = torch.tensor([OUTCOMES.index(found.outcome), found.scored, found.compared, found.numbers])
        return scores, indices, work


class _Directions:
    """Of a test's delta and e: the angles between them and those of training triples, which are E[t] where z > 0."""

    def __init__(self, backend: NativeBackend, of_tests: FactorTensors, row: int) -> None:
        p = backend.parameters
        self.entity, dim = p.entity.contiguous(), p.entity.shape[1]
        scale = backend.model.hidden[4]
        test = p.entity[of_tests.triples[row, 2]] * _masks(of_tests.signs[of_tests.pair[row], None], dim)[0]
        self.scaled = torch.stack([_unit(test * scale) * scale, _unit(test)])  # [2, D]
        self.squares = torch.stack([scale.square(), torch.ones_like(scale)])  # [2, D]

    def cosines(
        self,
        tails: Tensor,  # [m]
        signs: Tensor,  # [m, ceil(D / 32)]
    ) -> Tensor:  # [2, m] absolute, of delta and of e; 1 where they are not known
        found = self.scaled.new_empty(2, len(tails))
        cosines(self.entity, tails.int().contiguous(), signs.contiguous(), self.scaled, self.squares, found)
        return found


def _masks(
    signs: Tensor,  # [m, ceil(D / 32)]
    dim: int,
) -> Tensor:  # [m, D] bool
    bits = (signs[:, :, None] >> torch.arange(32, dtype=torch.int32)) & 1
    return bits.flatten(1)[:, :dim].bool()


def _unit(
    x: Tensor,  # [D]
) -> Tensor:  # [D]
    """Of length 1, or zero."""
    largest = x.abs().amax()
    return torch.zeros_like(x) if largest == 0 else (x / largest) / (x / largest).norm()


class _Search:
    """One test triple's list: csrc/cpu/bounded_top_k.cpp, with many rows in place of one."""

    def __init__(
        self, kept: RecomputedTriples, of_tests: list[FactorTensors], row: int, k: int, order: str, budget: int
    ) -> None:
        self.kept, self.lists, self.of_tests, self.row = kept, kept.lists, of_tests, row
        self.k, self.order, self.budget = k, order, budget
        self.norms = [each.norms[row] for each in of_tests]
        self.directions = [
            _Directions(*each) for each in zip(kept.backends, of_tests, [row] * len(of_tests), strict=True)
        ]
        self.best = kept.norms[0].new_zeros(1, k)
        self.best_index = torch.full((1, k), -1)
        self.outcome, self.scored, self.compared = "found", 0, 0

    @property
    def numbers(self) -> int:
        return self.scored * self.kept.numbers_of_pair

    @property
    def threshold(self) -> float:
        """The k-th best so far."""
        if self.best_index[0, -1] < 0:
            return -torch.inf
        last = float(self.best[0, -1])
        return abs(last) if self.order == "absolute" else last if self.order == "proponents" else -last

    def reach(
        self,
        bounds: Tensor,  # [m]
    ) -> Tensor:  # [m] bool
        return ~(bounds + self.kept.slack * bounds < self.threshold)

    def find(self, head: int, relation: int, tail: int) -> None:
        lists = self.lists
        self.triple = (head, relation, tail)
        parts = []
        for entity in {head, tail}:
            parts.append(torch.arange(int(lists.head_from[entity]), int(lists.head_from[entity + 1])))
            parts.append(lists.tail_rows[int(lists.tail_from[entity]) : int(lists.tail_from[entity + 1])].long())
        rows = torch.cat(parts).unique()
        ids = lists.triples[rows]
        self.visit(rows, ids, self.bounds(rows, ids))
        of_relation = slice(int(lists.relation_from[relation]), int(lists.relation_from[relation + 1]))
        self.go_through(lists.relation_rows[of_relation], lists.relation_totals[of_relation], DENSE_PARTS + 1, True)
        self.go_through(lists.rows, lists.totals, DENSE_PARTS, False)
        self.fill_up()

    def bounds(
        self,
        rows: Tensor,  # [m]
        ids: Tensor,  # [m, 3] theirs
    ) -> Tensor:  # [m]
        """The most that absolute influences may be."""
        self.compared += len(rows)
        head, relation, tail = self.triple
        same_head, same_relation, same_tail = ids[:, 0] == head, ids[:, 1] == relation, ids[:, 2] == tail
        head_is_tail, tail_is_head = ids[:, 0] == tail, ids[:, 2] == head
        total = self.best.new_zeros(len(rows))
        for rate, norms, y in zip(self.kept.rates, self.kept.norms, self.norms, strict=True):
            x = norms[rows]
            part = x[:, :DENSE_PARTS] @ y[:DENSE_PARTS]
            part += same_relation * x[:, RELATION] * y[RELATION]
            part += same_head * x[:, HEAD] * y[HEAD] + same_tail * (x[:, TAIL] * y[TAIL] + x[:, BIAS] * y[BIAS])
            part += head_is_tail * x[:, HEAD] * y[TAIL] + tail_is_head * x[:, TAIL] * y[HEAD]
            total += abs(rate) * part
        return total

    def bounds_apart(
        self,
        rows: Tensor,  # [m] that share no entity with the test
        parts: int,  # that count
    ) -> Tensor:  # [m]
        self.compared += len(rows)
        total = self.best.new_zeros(len(rows))
        for rate, norms, y in zip(self.kept.rates, self.kept.norms, self.norms, strict=True):
            counted = torch.cat([y[:parts], y.new_zeros(len(y) - parts)])
            total += abs(rate) * (norms.index_select(0, rows) @ counted)
        return total

    def visit(
        self,
        rows: Tensor,  # [m] distinct, not visited before
        ids: Tensor,  # [m, 3] theirs
        bounds: Tensor,  # [m] theirs
    ) -> None:
        """Scores those whose bounds reach the k-th best, the largest first."""
        wanted = (self.reach(bounds) & (bounds != 0)).nonzero()[:, 0]
        if len(wanted) > FIRST:
            rows, ids, bounds = rows[wanted], ids[wanted], bounds[wanted]
            bounds -= self.excess(rows, ids[:, 2])
            wanted = self.reach(bounds).nonzero()[:, 0]
        bounds, by_bound = bounds[wanted].sort(descending=True)
        rows = rows[wanted][by_bound]
        start, size = 0, max(FIRST, self.k)
        while start < len(rows) and self.outcome == "found":
            some = rows[start : start + size][self.reach(bounds[start : start + size])]
            if not len(some):
                return
            self.score(some)
            start, size = start + size, 2 * size

    def excess(
        self,
        rows: Tensor,  # [m]
        tails: Tensor,  # [m]
    ) -> Tensor:  # [m] >= 0
        """What bounds may be lowered by, as the angles between e, and between delta, are known."""
        less = self.best.new_zeros(len(rows))
        for i, of_test in enumerate(self.directions):
            angles = of_test.cosines(tails, self.kept.signs[i][rows])
            x, y = self.kept.norms[i][rows], self.norms[i]
            share = (1 - self.kept.slack - angles).clamp_(min=0)
            less += abs(self.kept.rates[i]) * (share[0] * x[:, FC] * y[FC] + share[1] * x[:, E] * y[E])
        return less

    def score(
        self,
        rows: Tensor,  # [m]
    ) -> None:
        rows = rows.sort().values
        triples = self.lists.triples[rows].long()
        of_rows = [keep(backend, triples) for backend in self.kept.backends]
        scores = self.best.new_empty(len(rows))
        pairs = torch.stack([torch.full_like(rows, self.row), torch.arange(len(rows))], 1)
        sides = self.kept.sides
        rates = torch.tensor(self.kept.rates, dtype=torch.float64)
        pair_scores(sides.joined(of_rows, self.of_tests), sides.tracked, rates, pairs, scores)
        self.scored += len(rows)
        if not scores.isfinite().all():
            self.outcome = "not finite"
        elif self.numbers > self.budget:
            self.outcome = "too many"
        merge_top_k(scores[None], self.lists.numbers[rows].long(), self.order, self.best, self.best_index)

    def go_through(
        self,
        rows: Tensor,  # [m]
        totals: Tensor,  # [m] falling
        parts: int,
        of_relation: bool,
    ) -> None:
        """Triples that share no entity with the test: those of its relation, or those of all others."""
        rates = zip(self.kept.rates, self.norms, strict=True)
        weighted = torch.cat([abs(rate) ** 0.5 * y[:parts].double() for rate, y in rates])
        total = math.hypot(*weighted.tolist()) * (1 + 4 * torch.finfo(self.best.dtype).eps)  # no square vanishes
        head, relation, tail = self.triple
        start, size = 0, STRETCH
        while total > 0 and start < len(rows) and self.outcome == "found":
            first = totals[start]
            if first == 0 or not self.reach(first * total):
                return
            some = rows[start : start + size].long()
            some = some[self.reach(bounds := self.bounds_apart(some, parts)).logical_and_(bounds != 0)]
            ids = self.lists.triples.index_select(0, some)
            heads, relations, tails = ids.unbind(1)
            shared = (heads == head) | (heads == tail) | (tails == head) | (tails == tail)
            apart = (~shared & ((relations == relation) == of_relation)).nonzero()[:, 0]
            self.visit(some[apart], ids[apart], self.bounds_apart(some[apart], parts))
            start, size = start + size, min(4 * size, LONGEST)

    def fill_up(self) -> None:
        """Where the k-th best is 0 or worse: triples whose bound is 0, lowest index first."""
        if self.threshold > 0 or self.outcome != "found":
            return
        for start in range(0, len(self.lists.triples), LONGEST):
            ids = self.lists.triples[start : start + LONGEST]
            rows = torch.arange(start, start + len(ids))
            numbers = self.lists.numbers[rows[self.bounds(rows, ids) == 0]].long().sort().values[: self.k]
            merge_top_k(self.best.new_zeros(1, len(numbers)), numbers, self.order, self.best, self.best_index)
