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
from tracin_ext.kept import Norms, Sides, keep, numbers_of_pair, slack_of
from tracin_ext.lists import RowLists
from tracin_ext.ops import DENSE_PARTS, OUTCOMES, FactorTensors, RowTensors, merge_top_k, pair_scores, rows_in_reach
from tracin_ext.sketches import sketch_of_test
from tracin_ext.threads import each_in_a_thread

if TYPE_CHECKING:
    from tracin_ext.backends.native import NativeBackend

FIRST = 64  # triples that are scored before a threshold is known; as many again and more where it leaves them
STRETCH, LONGEST = 1024, 1 << 18  # entries of a list that are looked at together, at first and at most
PAIRS_OF_DIMENSION = 12.5
S = 0  # column of norms


class RecomputedTriples:
    """What `tracin_ext.kept.KeptTriples` is, without factors in memory, for few test triples at a time.

    Args:
        backends: of the checkpoints.
        rates: their learning rates.
        known: of each checkpoint, as `norms_of` gives it: all norms finite, by row.
        bases: [size_S, SKETCH_PARTS] or [0, SKETCH_PARTS] of each checkpoint's sketches.
        lists: of the rows.
        most: test triples that are found so in less time than computing all factors takes.
    """

    finite = True

    def __init__(
        self,
        backends: Sequence[NativeBackend],
        rates: Sequence[float],
        known: Sequence[Norms],
        bases: Sequence[Tensor],
        lists: RowLists,
        most: int,
    ) -> None:
        self.backends, self.rates, self.known, self.bases = backends, rates, known, bases
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
        factors = [keep(backend, ordered) for backend in self.backends]
        of_tests = self.sides.with_forms(factors)
        scores = self.known[0].norms.new_empty(len(tests), k)
        indices, work = torch.full((len(tests), k), -1), torch.zeros(len(tests), 4, dtype=torch.int64)

        def search(row: int) -> _Search:
            found = _Search(self, factors, of_tests, row, k, order, budget)
            found.find(ordered[row])
            return found

        for at, found in zip(by_head.tolist(), each_in_a_thread(search, range(len(tests))), strict=True):
            scores[at], indices[at] = found.best[0], found.best_index[0]
            work[at] = torch.tensor([OUTCOMES.index(found.outcome), found.scored, found.compared, found.numbers])
        return scores, indices, work


def _directions(
    backend: NativeBackend, of_tests: FactorTensors, row: int
) -> tuple[Tensor, Tensor]:  # both [2, D]: `scaled` and `squares` of RowTensors
    """Of a test's delta and e; those of training triples are E[t] where z > 0, scaled."""
    p = backend.parameters
    scale = backend.model.hidden[4]
    test = p.entity[of_tests.triples[row, 2]] * _masks(of_tests.signs[of_tests.pair[row], None], p.entity.shape[1])[0]
    scaled = torch.stack([_unit(test * scale) * scale, _unit(test)])
    return scaled, torch.stack([scale.square(), torch.ones_like(scale)])


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


def _range(start: int, end: int) -> Tensor:  # [end - start] int32
    return torch.arange(start, end, dtype=torch.int32)


class _Search:
    """One test triple's list: csrc/cpu/bounded_top_k.cpp, with many rows in place of one."""

    def __init__(
        self,
        kept: RecomputedTriples,
        factors: list[FactorTensors],  # of the tests, of each checkpoint
        of_tests: list[FactorTensors],  # the same with M S for S
        row: int,  # of the test
        k: int,
        order: str,
        budget: int,
    ) -> None:
        self.kept, self.lists, self.of_tests, self.row = kept, kept.lists, of_tests, row
        self.k, self.order, self.budget = k, order, budget
        self.norms = [each.norms[row] for each in factors]
        self.checkpoints = [
            RowTensors(
                *(known.norms, backend.parameters.entity.contiguous(), known.signs, known.sketches),
                abs(rate) * own.norms[row],
                sketch_of_test(basis, own.S[row], own.norms[row, S]),
                *_directions(backend, own, row),
            )
            for backend, rate, known, basis, own in zip(
                kept.backends, kept.rates, kept.known, kept.bases, factors, strict=True
            )
        ]
        self.best = kept.known[0].norms.new_zeros(1, k)
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

    def find(
        self,
        test: Tensor,  # [3]
    ) -> None:
        lists, (head, relation, tail) = self.lists, test.tolist()
        self.test = test
        parts = []
        for entity in {head, tail}:
            for from_, rows in ((lists.head_from, lists.head_rows), (lists.tail_from, lists.tail_rows)):
                parts.append(rows[int(from_[entity]) : int(from_[entity + 1])])
        self.visit(torch.cat(parts).unique(), "all")
        of_relation = slice(int(lists.relation_from[relation]), int(lists.relation_from[relation + 1]))
        self.go_through(lists.relation_rows[of_relation], lists.relation_totals[of_relation], "of the relation")
        self.go_through(None, lists.totals, "of others")
        self.fill_up()

    def in_reach(
        self,
        rows: Tensor,  # [m] int32
        which: str,
        threshold: float,
    ) -> tuple[Tensor, Tensor]:  # [l] int32, [l] bounds
        self.compared += len(rows)
        return rows_in_reach(self.checkpoints, self.lists.triples, rows, self.test, which, threshold, self.kept.slack)

    def visit(
        self,
        rows: Tensor,  # [m] int32, distinct, not visited before
        which: str,
    ) -> None:
        """Scores those whose bounds reach the k-th best, the largest first."""
        rows, bounds = self.in_reach(rows, which, self.threshold)
        bounds, by_bound = bounds.sort(descending=True)
        rows = rows[by_bound].long()
        start, size = 0, max(FIRST, self.k)
        while start < len(rows) and self.outcome == "found":
            some = rows[start : start + size][self.reach(bounds[start : start + size])]
            if not len(some):
                return
            self.score(some)
            start, size = start + size, 2 * size

    def score(
        self,
        rows: Tensor,  # [m]
    ) -> None:
        triples = self.lists.triples[rows].long()
        order = order_by_head_relation(triples)
        rows, triples = rows[order], triples[order]
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
        rows: Tensor | None,  # [m] int32; None: all
        totals: Tensor,  # [m] falling
        which: str,
    ) -> None:
        """Triples that share no entity with the test: those of its relation, or those of all others."""
        parts = DENSE_PARTS + (which == "of the relation")
        rates = zip(self.kept.rates, self.norms, strict=True)
        weighted = torch.cat([abs(rate) ** 0.5 * y[:parts].double() for rate, y in rates])
        total = math.hypot(*weighted.tolist()) * (1 + 4 * torch.finfo(self.best.dtype).eps)  # no square vanishes
        start, size = 0, STRETCH
        while total > 0 and start < len(totals) and self.outcome == "found":
            first = totals[start]
            if first == 0 or not self.reach(first * total):
                return
            end = min(start + size, len(totals))
            self.visit(_range(start, end) if rows is None else rows[start:end], which)
            start, size = start + size, min(4 * size, LONGEST)

    def fill_up(self) -> None:
        """Where the k-th best is 0 or worse: triples whose bound is 0, lowest index first."""
        if self.threshold > 0 or self.outcome != "found":
            return
        for start in range(0, len(self.lists.triples), LONGEST):
            rows = _range(start, min(start + LONGEST, len(self.lists.triples)))
            zero = torch.ones(len(rows), dtype=torch.bool)
            zero[self.in_reach(rows, "all", -torch.inf)[0] - start] = False
            numbers = self.lists.numbers[start : start + len(rows)][zero].long().sort().values[: self.k]
            merge_top_k(self.best.new_zeros(1, len(numbers)), numbers, self.order, self.best, self.best_index)
