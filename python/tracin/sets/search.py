"""The search for a smallest set: by size, sets of each size in the order of the sum of their members' scores."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tracin.sets.facts import Fact

Set = tuple[Fact, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a prediction.

    Args:
        ranks: of the answer, by copy or model for one entity, by entity where facts are carried over to several.
        margin: of the answer over the best other, mean.
    """

    ranks: tuple[float, ...]
    margin: float

    @property
    def rank(self) -> float:
        return sum(self.ranks) / len(self.ranks)

    @property
    def first(self) -> int:
        """How often the answer is first."""
        return sum(rank == 1 for rank in self.ranks)

    @property
    def mostly_first(self) -> bool:
        return 2 * self.first > len(self.ranks)


@dataclass(frozen=True)
class Size:
    """What was tried of one size."""

    size: int
    tried: int
    possible: int


@dataclass(frozen=True)
class Search:
    """How a search ended.

    Args:
        chosen: the set that does it, else that of those tried which came nearest; None if none was tried.
        verdict: on it.
        found: whether it does it.
        sizes: what was tried, smallest first.
    """

    chosen: Set | None
    verdict: Verdict | None
    found: bool
    sizes: tuple[Size, ...]

    @property
    def tried(self) -> int:
        return sum(size.tried for size in self.sizes)


def best_first(
    scores: Sequence[float],  # descending
    size: int,
) -> Iterator[tuple[int, ...]]:
    """All sets of so many places, the greatest sums first.

    Example:
        >>> list(best_first([5, 3, 1], 2))
        [(0, 1), (0, 2), (1, 2)]
    """
    if not 1 <= size <= len(scores):
        return

    def entry(places: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return -sum(scores[place] for place in places), places

    first = tuple(range(size))
    waiting, seen = [entry(first)], {first}
    while waiting:
        _, places = heapq.heappop(waiting)
        yield places
        for i, place in enumerate(places):  # one member gives way to the next one
            end = places[i + 1] if i + 1 < size else len(scores)
            after = (*places[:i], place + 1, *places[i + 1 :])
            if place + 1 < end and after not in seen:
                seen.add(after)
                heapq.heappush(waiting, entry(after))


def search(
    candidates: Sequence[Fact],  # those of the greatest scores first
    judge: Callable[[Sequence[Set]], list[Verdict]],
    does_it: Callable[[Verdict], bool],
    nearness: Callable[[Verdict], float],
    *,
    most: int,
    tries: int,
    at_a_time: int = 1,
    advance: Callable[[int], None] = lambda number: None,
) -> Search:
    """Tries sets of 1, 2, ..., `most` candidates until one does it.

    Args:
        candidates: what sets are made of.
        judge: says what becomes of the prediction for some sets.
        does_it, nearness: whether a verdict is what is looked for, and how near it comes, greater is nearer.
        tries: sets of each size.
        at_a_time: sets that are judged together; the first that does it counts.
    """
    nearest: tuple[Set, Verdict] | None = None
    sizes: list[Size] = []
    for size in range(1, min(most, len(candidates)) + 1):
        possible, tried = math.comb(len(candidates), size), 0
        places = islice(best_first([fact.score for fact in candidates], size), tries)
        while sets := [tuple(candidates[place] for place in chosen) for chosen in islice(places, at_a_time)]:
            for one, its in zip(sets, judge(sets), strict=True):
                tried += 1
                if does_it(its):
                    return Search(one, its, True, (*sizes, Size(size, tried, possible)))
                if nearest is None or nearness(its) > nearness(nearest[1]):
                    nearest = one, its
            advance(len(sets))
        sizes.append(Size(size, tried, possible))
    some, verdict = nearest or (None, None)
    return Search(some, verdict, False, tuple(sizes))
