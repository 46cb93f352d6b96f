"""Exact top-k lists by bounds: most pairs are never scored. Which calls that is for, and which of their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
# A pair that is scored alone takes as long as this many in blocks; a pass of blocks over the training triples takes as
# long as the pairs of so many test triples.
ALONE, PASS_TESTS = 72, 500
MARGIN = 1.25  # of a budget that a sample suggests
ROW_BYTES = 128  # of a training triple in sorted lists


def reason_against(
    backends: Sequence[Backend],  # of the checkpoints
    train: Tensor,  # [n_train, 3]
    tests: int,
    k: int,
    limit: int | None,  # memory of the whole process
) -> str | None:
    """Why lists are not to be found by bounds, by what is known beforehand; None if they are."""
    natives = [backend for backend in backends if isinstance(backend, NativeBackend) and backend.keeps_factors]
    if len(natives) < len(backends):
        return "the backend scores no single pairs"
    if any(backend.mixed for backend in natives):
        return "the precision is mixed"
    if any({"entity", "relation"}.isdisjoint(backend.parameters.tracked) for backend in natives):
        return "without entities and relations, bounds tell little"
    if tests < LEAST_TESTS:
        return f"fewer than {LEAST_TESTS} test triples"
    if k * LEAST_SHARE > len(train):
        return f"lists are longer than 1/{LEAST_SHARE} of the training triples"
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


@dataclass
class Search:
    """Lists of test triples found by bounds so far.

    `give(index of tests, scores, indices of training triples)` takes lists, best first.
    """

    kept: KeptTriples
    test: Tensor  # [n_test, 3]
    k: int
    order: str
    give: Callable[[Tensor, Tensor, Tensor], None]
    work: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))  # pairs scored, bounds compared

    def find(
        self,
        unfinished: Tensor,  # [n] index of tests
    ) -> Tensor:  # index of those whose lists are cheaper found in blocks, or whose scores are no finite numbers
        if not self.kept.finite:
            return unfinished
        most = self._budget(len(unfinished))
        sample = unfinished[:: max(1, len(unfinished) // SAMPLE)]
        held: list[tuple[Tensor, Tensor, Tensor]] = []
        left, numbers = self._find(sample, most, lambda *lists: held.append(lists))
        budget = best_budget(numbers, self._budget(PASS_TESTS) / 2, PASS_TESTS * len(sample) / len(unfinished))
        if not budget:
            return unfinished  # all: blocks take adjacent tests together
        for lists in held:
            self.give(*lists)
        rest = unfinished[~torch.isin(unfinished, sample)]
        left = torch.cat([left, self._find(rest, budget, self.give)[0]])
        while len(left) and self._budget(len(left)) >= 2 * most:  # a pass of blocks for so few costs more than pairs
            most = self._budget(len(left))
            left = self._find(left, most, self.give)[0]
        return left.sort().values

    def _budget(self, tests: int) -> int:
        """Numbers that a test's pairs may take, before blocks are cheaper for so many tests."""
        pairs = len(self.kept.lists.numbers) / ALONE * (1 + PASS_TESTS / max(1, tests))
        return int(pairs * self.kept.numbers_of_pair)

    def _find(
        self,
        tests: Tensor,  # [n] index
        budget: int,
        give: Callable[[Tensor, Tensor, Tensor], None],
    ) -> tuple[Tensor, Tensor]:  # index of those not found; [n] numbers read for each, infinite if it was not found
        left, numbers = [tests[:0]], [torch.empty(0, dtype=torch.float64)]
        for some in tests.split(TESTS):
            scores, indices, work = self.kept.top_k(self.test[some], self.k, self.order, budget)
            found = work[:, 0] == OUTCOMES.index("found")
            self.work += work[:, 1:3].sum(0)
            left.append(some[~found])
            numbers.append(work[:, 3].double().masked_fill(~found, torch.inf))
            give(some[found], scores[found], indices[found])
        return torch.cat(left), torch.cat(numbers)


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
