"""Exact top-k lists by bounds: most pairs are never scored. Which calls that is for, and which of their tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tracin.influence.memory import TEST_BYTES, available_bytes, used_bytes
from tracin_ext.backends import Backend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.full_float32 import full_float32
from tracin_ext.kept import BLOCK, KeptTriples, kept_bytes
from tracin_ext.ops import OUTCOMES

LEAST_TESTS = 512  # fewer do not repay the factors that are kept
LEAST_SHARE = 256  # of a list's triples in all training triples
TESTS = 2048  # at a time
SAMPLE = 256  # tests that tell whether bounds are of use
# A pass of blocks over the training triples takes as long as the pairs of so many test triples.
PASS_TESTS = 500
MARGIN = 1.25  # of a budget that a sample suggests
ROW_BYTES = 128  # of a training triple in sorted lists


def reason_against(
    backends: Sequence[Backend],  # of the checkpoints
    train: Tensor,  # [n_train, 3]
    tests: int,
    k: int,
    limit: int | None,  # memory of the whole process
    lasting: bool = False,
    there: bool = False,
) -> str | None:
    """Why lists are not to be found by bounds, by what is known beforehand; None if they are.

    `lasting`: the factors of the training triples will serve later calls; `there`: they are in memory already.
    """
    natives = [backend for backend in backends if isinstance(backend, NativeBackend) and backend.keeps_factors]
    if len(natives) < len(backends):
        return "the backend scores no single pairs"
    if any({"entity", "relation"}.isdisjoint(backend.parameters.tracked) for backend in natives):
        return "without entities and relations, bounds tell little"
    if tests < LEAST_TESTS and not (lasting or there):
        return f"fewer than {LEAST_TESTS} test triples"
    if k * LEAST_SHARE > len(train):
        return f"lists are longer than 1/{LEAST_SHARE} of the training triples"
    if there:
        return None
    needed = max(b.triple_bytes for b in natives) * BLOCK + len(natives) * ROW_BYTES * len(train)
    needed += sum(b.test_bytes * min(tests, TESTS) + kept_bytes(b, train) for b in natives)
    cpu = torch.device("cpu")
    free = min(TEST_BYTES, available_bytes(cpu) // 2) if limit is None else limit - used_bytes(cpu)
    if needed > free:
        return f"their factors take {needed >> 20} MiB of memory, of which {max(0, free) >> 20} MiB are free"
    return None


@full_float32()
def keep_factors(
    backends: Sequence[Backend],  # for which `reason_against` has none
    rates: Sequence[float],
    train: Tensor,  # [n_train, 3]
) -> KeptTriples:
    """The factors of the training triples."""
    return KeptTriples([backend for backend in backends if isinstance(backend, NativeBackend)], rates, train)


class Kept(Protocol):
    """Training triples whose lists are found by bounds: `KeptTriples`, or what takes its place."""

    finite: bool  # whether all norms are
    alone: int  # pairs in blocks that take as long as one that is scored alone
    numbers_of_pair: int  # that are read for a score, in most cases

    def __len__(self) -> int: ...

    def serves(self, tests: int) -> bool: ...

    def top_k(self, tests: Tensor, k: int, order: str, budget: int) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass
class Search:
    """Lists of test triples found by bounds so far.

    `give(index of tests, scores, indices of training triples)` takes lists, best first. What is decided does not depend
    on which of them are there already: a call that goes on where another stopped ends as if that one had not.
    """

    kept: Kept
    test: Tensor  # [n_test, 3]
    k: int
    order: str
    rounds: Tensor  # [n_test] int8, changed: in which round of budgets a list was found; 0: in none so far
    give: Callable[[Tensor, Tensor, Tensor], None]
    work: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))  # pairs scored, bounds compared

    def find(
        self,
        unfinished: Tensor,  # [n] index of tests, in order
    ) -> Tensor:  # index of those whose lists are cheaper found in blocks, or whose scores are no finite numbers
        if not self.kept.finite:
            return unfinished
        open_ = torch.zeros(len(self.test), dtype=torch.bool).index_fill_(0, unfinished, True)
        tests = len(self.test)
        most = self._budget(tests)
        sample = torch.arange(0, tests, max(1, tests // SAMPLE))
        found = [*self._lists(sample, most)]
        numbers = torch.cat([numbers for *_, numbers in found])
        budget = best_budget(numbers, self._budget(PASS_TESTS) / 2, PASS_TESTS * len(sample) / tests)
        if not budget:
            return unfinished  # all: blocks take adjacent tests together
        for lists in found:
            self._take(1, open_, *lists)
        last = 2
        self._round(last, open_, budget)
        # A pass of blocks for few tests costs more than their pairs.
        while (left := int(((self.rounds == 0) | (self.rounds > last)).sum())) and self._budget(left) >= 2 * most:
            last, most = last + 1, self._budget(left)
            self._round(last, open_, most)
        return unfinished[self.rounds[unfinished] == 0]

    def _round(self, number: int, open_: Tensor, budget: int) -> None:
        """Looks at what no earlier round has found, always in the same chunks: rounding depends on them."""
        for some in ((self.rounds == 0) | (self.rounds >= number)).nonzero()[:, 0].split(TESTS):
            if ((self.rounds[some] == 0) & open_[some]).any():
                for lists in self._lists(some, budget):
                    self._take(number, open_, *lists)

    def _take(
        self, number: int, open_: Tensor, tests: Tensor, scores: Tensor, indices: Tensor, numbers: Tensor
    ) -> None:
        new = numbers.isfinite() & (self.rounds[tests] == 0) & open_[tests]
        self.rounds[tests[new]] = number
        self.give(tests[new], scores[new], indices[new])

    def _budget(self, tests: int) -> int:
        """Numbers that a test's pairs may take, before blocks are cheaper for so many tests."""
        pairs = len(self.kept) / self.kept.alone * (1 + PASS_TESTS / max(1, tests))
        return int(pairs * self.kept.numbers_of_pair)

    def _lists(
        self,
        tests: Tensor,  # [n] index
        budget: int,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:  # [m] of them, [m, k], [m, k], [m] numbers read
        """Their lists, a few tests at a time; the numbers of a list that was not found are infinite."""
        for some in tests.split(TESTS):
            scores, indices, work = self.kept.top_k(self.test[some], self.k, self.order, budget)
            self.work += work[:, 1:3].sum(0)
            yield (
                some,
                scores,
                indices,
                work[:, 3].double().masked_fill(work[:, 0] != OUTCOMES.index("found"), torch.inf),
            )


def best_budget(
    numbers: Tensor,  # [n] that lists take; infinite: more than is known
    blocks: float,  # numbers that are read while one list is found in blocks
    passes: float,  # lists whose blocks take as long as what blocks cost once, if there is any
) -> int:
    """The budget that costs least if all lists are like these; 0: none by bounds."""
    tried = torch.cat([numbers[numbers.isfinite()], numbers.new_zeros(1)]).unique()
    given_up = numbers > tried[:, None]
    costs = numbers.minimum(tried[:, None]).sum(1) + blocks * (given_up.sum(1) + passes * given_up.any(1))
    return int(tried[costs.argmin()] * MARGIN)
