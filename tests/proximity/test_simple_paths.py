"""Edges on simple paths against listing all simple paths."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tests.proximity.test_graph import graph_of
from tests.samples.plain_graph import Triple, distances_from, edges_on_paths, neighbours_of, random_triples
from tracin import InputError
from tracin.proximity import simple_paths
from tracin.proximity.simple_paths import edges_on_simple_paths


def found_edges(triples: list[Triple], head: int, tail: int, length: int) -> set[frozenset[int]]:
    graph = graph_of(triples, 1 + max(head, tail, *(max(triple[0], triple[2]) for triple in triples)))
    found = edges_on_simple_paths(graph, head, tail, length, np.ones(len(graph.lower), np.bool_))
    return {frozenset(edge) for edge in zip(graph.lower[found].tolist(), graph.upper[found].tolist(), strict=True)}


def lines(*pairs: str) -> list[Triple]:
    """Edges between entities a to z, "a" as 0."""
    return [(ord(pair[0]) - ord("a"), 0, ord(pair[1]) - ord("a")) for pair in pairs]


def near_edges(triples: list[Triple], head: int, tail: int, length: int) -> set[frozenset[int]]:
    """Edges that the lengths of two routes allow; too many, for the two may share entities."""
    neighbours = neighbours_of(triples)
    from_head = distances_from({head}, neighbours, length, without=tail)
    to_tail = distances_from({tail}, neighbours, length, without=head)
    steps = [ends for a, _, b in triples if a != b for ends in ((a, b), (b, a))]
    return {frozenset((a, b)) for a, b in steps if from_head.get(a, length) + 1 + to_tail.get(b, length) <= length}


@pytest.mark.parametrize("length", range(13))
def test_random_graphs(length: int) -> None:
    """Graphs of 2 to 12 entities, sparse and dense."""
    refused = 0
    for seed in range(60):
        rng = Random(100 * length + seed)
        entities = rng.randint(2, 12 if length < 7 else 9)
        triples = random_triples(rng, entities, rng.randint(1, 3 * entities))
        head, tail = rng.randrange(entities), rng.randrange(entities)
        expected = edges_on_paths(neighbours_of(triples), head, tail, length)
        assert found_edges(triples, head, tail, length) == expected, (seed, head, tail)
        refused += len(near_edges(triples, head, tail, length) - expected) if head != tail else 0
    assert refused > 0 if length > 3 else refused == 0


@pytest.mark.parametrize("length", [4, 5, 6])
def test_long_ways_round(length: int) -> None:
    """40 entities of 3 neighbours each on average: few routes, and long ones."""
    edges = refused = 0
    for seed in range(60):
        rng = Random(1000 * length + seed)
        triples = [(rng.randrange(40), 0, rng.randrange(40)) for _ in range(60)]
        expected = edges_on_paths(neighbours_of(triples), 0, 1, length)
        assert found_edges(triples, 0, 1, length) == expected, seed
        edges += len(expected)
        refused += len(near_edges(triples, 0, 1, length) - expected)
    assert edges > 200 and refused > 0


def test_dead_end_is_on_no_path() -> None:
    """h-x-t with a triangle x-a-b at x: the edges of the triangle are near both ends, but all ways go through x."""
    edges = lines("hx", "xt", "xa", "ab", "bx")
    head, tail = ord("h") - ord("a"), ord("t") - ord("a")
    assert found_edges(edges, head, tail, 8) == {frozenset(edge[::2]) for edge in lines("hx", "xt")}


def test_second_route_avoids_the_first() -> None:
    """a's short ways go through the only entity before t, so the edge a-b needs h's other way to a."""
    edges = lines("hx", "xa", "hy", "yz", "za", "ab", "bx", "xt")
    head, tail = ord("h") - ord("a"), ord("t") - ord("a")
    a_b = frozenset((0, 1))
    assert a_b not in found_edges(edges, head, tail, 5)
    assert a_b in found_edges(edges, head, tail, 6)  # h-y-z-a-b-x-t


def test_long_chain() -> None:
    """Long paths are no work where there are few."""
    chain = [(entity, 0, entity + 1) for entity in range(25)] + [(10, 0, 26)]
    assert found_edges(chain, 0, 25, 24) == set()
    for length in (25, 30, 10**12):
        assert found_edges(chain, 0, 25, length) == {frozenset((entity, entity + 1)) for entity in range(25)}


def test_only_wanted_edges() -> None:
    graph = graph_of([(0, 0, 1), (1, 0, 2)], 3)
    wanted = np.array([False, True])
    assert edges_on_simple_paths(graph, 0, 2, 2, wanted).tolist() == [False, True]


@pytest.mark.parametrize(
    ("bound", "value", "message"),
    [("MOST_COMPARISONS", 1_000_000, r"1e\+06 comparisons"), ("MOST_STORED", 2_000, r"2e\+03 entities in memory")],
)
def test_too_much_work(monkeypatch: pytest.MonkeyPatch, bound: str, value: int, message: str) -> None:
    monkeypatch.setattr(simple_paths, bound, value)
    monkeypatch.setattr(simple_paths, "MOST_PAIRS", 1000)
    grid = [(8 * row + column, 0, 8 * row + column + way) for row in range(7) for column in range(7) for way in (1, 8)]
    assert found_edges(grid, 0, 18, 5)
    with pytest.raises(InputError, match=f"paths of 13 edges .* more than {message}; lower max_total_path_length"):
        found_edges(grid, 0, 18, 13)


@pytest.mark.parametrize("length", [7, 8, 9])
@pytest.mark.slow
def test_long_paths_by_routes_and_edge_by_edge(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [Random(seed) for seed in range(4)]
    triples = [[(rng.randrange(14), 0, rng.randrange(14)) for _ in range(26)] for rng in graphs]
    by_edge = [found_edges(some, 0, 1, length) for some in triples]
    monkeypatch.setattr(simple_paths, "MOST_PAIRS", 0)
    assert any(by_edge) and [found_edges(some, 0, 1, length) for some in triples] == by_edge


def test_any_length_through_a_small_dense_graph() -> None:
    """Every edge of a complete graph is on a path through all of its entities; a pendant edge is on none."""
    entities = 30
    complete = [(one, 0, other) for one in range(entities) for other in range(one)]
    for length in (10, 12, 40):
        found = found_edges([*complete, (5, 0, entities)], 0, 1, length)
        assert found == {frozenset((one, other)) for one, _, other in complete}
