"""Graphs of triples in plain Python over sets: the definitions that the array code is tested against."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

Triple = tuple[int, int, int]
Neighbours = dict[int, set[int]]


def random_triples(rng: Random, entities: int, count: int) -> list[Triple]:
    """Triples with self-loops, duplicates and edges of several triples; for half of the graphs with hubs."""
    uniform = rng.random() < 0.5

    def entity() -> int:
        return rng.randrange(entities) if uniform else min(int(rng.paretovariate(0.8)) - 1, entities - 1)

    return [(entity(), rng.randrange(3), entity()) for _ in range(count)]


def neighbours_of(triples: list[Triple]) -> Neighbours:
    neighbours: Neighbours = {}
    for head, _, tail in triples:
        neighbours.setdefault(head, set()).add(tail)
        neighbours.setdefault(tail, set()).add(head)
    return neighbours


def distances_from(
    sources: set[int], neighbours: Neighbours, limit: int, without: int | None = None
) -> dict[int, int]:  # entity -> distance, of those within the limit
    distances = dict.fromkeys(sources, 0)
    border = set(sources)
    for step in range(1, limit + 1):
        border = {other for entity in border for other in neighbours.get(entity, ())} - distances.keys() - {without}
        distances |= dict.fromkeys(border, step)
    return distances


def simple_paths(neighbours: Neighbours, path: list[int], tail: int, length: int) -> Iterator[list[int]]:
    """All ways to lead `path` on to `tail` by at most `length` edges without repeating an entity."""
    if path[-1] == tail:
        yield path
    elif length > 0:
        for entity in neighbours.get(path[-1], set()) - set(path):
            yield from simple_paths(neighbours, [*path, entity], tail, length - 1)


def edges_on_paths(neighbours: Neighbours, head: int, tail: int, length: int) -> set[frozenset[int]]:
    """The edges of all simple paths; a path from an entity to itself has none."""
    return {
        frozenset(edge)
        for path in simple_paths(neighbours, [head], tail, length)
        for edge in zip(path, path[1:], strict=False)
    }
