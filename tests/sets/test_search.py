"""The search: sets in order, an early end, limits, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch

from tracin.sets.facts import Fact
from tracin.sets.search import Search, Set, Size, Verdict, best_first, search

FACTS = [Fact((0, 0, i), (i,), 10.0 - i * i) for i in range(5)]


def looked(wanted: Set | None, most: int = 4, tries: int = 100, at_a_time: int = 1) -> tuple[Search, list[Set]]:
    """A search that ends at a set that is wanted; what was judged, in order. The margin falls by place."""
    judged: list[Set] = []

    def judge(sets: Sequence[Set]) -> list[Verdict]:
        judged.extend(sets)
        return [Verdict((2.0 if some == wanted else 1.0,), float(some[0].rows[0])) for some in sets]

    found = search(
        FACTS,
        judge,
        lambda verdict: not verdict.mostly_first,
        lambda verdict: -verdict.margin,
        most=most,
        tries=tries,
        at_a_time=at_a_time,
    )
    return found, judged


@pytest.mark.parametrize("size", [0, 1, 2, 3, 6, 7])
def test_sets_come_by_the_sum_of_scores_each_once(size: int) -> None:
    scores = torch.rand(6, generator=torch.Generator().manual_seed(size)).sort(descending=True).values.tolist()
    found = list(best_first(scores, size))
    every = list(combinations(range(6), size)) if size else []
    assert sorted(found) == every
    sums = [sum(scores[place] for place in places) for places in found]
    assert sums == sorted(sums, reverse=True)
    assert list(best_first([], 1)) == []


def test_equal_and_negative_scores() -> None:
    assert list(best_first([0.0, 0.0, 0.0], 2)) == [(0, 1), (0, 2), (1, 2)]
    assert list(best_first([1.0, -5.0], 1)) == [(0,), (1,)]


@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_it_ends_at_the_first_set_that_does_it(at_a_time: int) -> None:
    wanted = (FACTS[1], FACTS[2])
    found, judged = looked(wanted, at_a_time=at_a_time)
    assert (found.found, found.chosen) == (True, wanted)
    assert found.sizes[0] == Size(1, 5, 5)
    order = [(0, 1), (0, 2), (1, 2)]
    assert found.sizes[1] == Size(2, order.index((1, 2)) + 1, 10)
    assert judged[:5] == [(fact,) for fact in FACTS]
    assert max(map(len, judged)) == 2


def test_none_is_told_with_the_nearest_and_what_was_tried() -> None:
    found, judged = looked(None, most=3, tries=4)
    assert not found.found
    assert found.sizes == (Size(1, 4, 5), Size(2, 4, 10), Size(3, 4, 10))
    assert found.tried == len(judged) == 12
    assert found.chosen == (FACTS[0],)  # the smallest margin, and of equal ones the first


def test_more_than_there_are_facts() -> None:
    found, _ = looked(None, most=9)
    assert [size.possible for size in found.sizes] == [5, 10, 10, 5, 1]
    nothing = search([], lambda sets: [], lambda verdict: True, lambda verdict: 0.0, most=4, tries=5)
    assert (nothing.chosen, nothing.verdict, nothing.found, nothing.tried) == (None, None, False, 0)


def test_most_is_more_than_half() -> None:
    assert [Verdict(ranks, 0.0).mostly_first for ranks in ((1.0,), (1.0, 2.0), (1.0, 1.0, 9.0), (1.5,))] == [
        True, False, True, False,
    ]  # fmt: skip
    assert Verdict((1.0, 2.0), 0.0).rank == 1.5
