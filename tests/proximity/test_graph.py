"""EntityGraph against plain Python over sets."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest

from tests.samples.plain_graph import Triple, distances_from, neighbours_of, random_triples
from tracin.proximity.graph import FAR, EntityGraph


def graph_of(triples: list[Triple], entities: int) -> EntityGraph:
    heads, tails = (np.array([triple[column] for triple in triples], np.int64) for column in (0, 2))
    return EntityGraph(heads, tails, entities)


@pytest.mark.parametrize("count", [0, 1, 10, 60])
@pytest.mark.parametrize("seed", range(10))
def test_edges_and_degrees(seed: int, count: int) -> None:
    triples = random_triples(Random(seed), 12, count)
    graph = graph_of(triples, 12)
    pairs = [tuple(sorted((head, tail))) for head, _, tail in triples]
    edges = list(zip(graph.lower.tolist(), graph.upper.tolist(), strict=True))
    assert edges == sorted(set(pairs))
    assert [edges[edge] for edge in graph.edge_of_row] == pairs
    of_edges, of_triples = (Counter(end for pair in ends for end in pair) for ends in (set(pairs), pairs))
    assert graph.simple_degree.tolist() == [of_edges[entity] for entity in range(12)]
    assert graph.triple_degree.tolist() == [of_triples[entity] for entity in range(12)]
    which = np.arange(len(edges)) % 3 == 0
    within = Counter(end for pair in edges[::3] for end in set(pair))
    assert graph.degree_within(which).tolist() == [within[entity] for entity in range(12)]


@pytest.mark.parametrize("count", [0, 5, 20, 60])  # from frontiers of few edges to frontiers of most
@pytest.mark.parametrize("seed", range(20))
def test_distances(seed: int, count: int) -> None:
    rng = Random(seed)
    triples = random_triples(rng, 20, count)
    graph, neighbours = graph_of(triples, 20), neighbours_of(triples)
    for limit in (0, 1, 2, 3, 20):
        *sources, without = rng.sample(range(20), 3)
        for left_out in (None, without):
            expected = distances_from(set(sources), neighbours, limit, left_out)
            found = graph.distances(np.array(sources), limit, left_out)
            assert found.tolist() == [expected.get(entity, FAR) for entity in range(20)]


def test_no_sources() -> None:
    graph = graph_of([(0, 0, 1)], 3)
    assert graph.distances(np.array([], np.int64), 5).tolist() == [FAR] * 3
