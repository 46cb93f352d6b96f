"""ProximityFilter against its definition in plain Python, and against filtered files of the original scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.samples.plain_graph import Triple, distances_from, edges_on_paths, neighbours_of, random_triples
from tracin import InputError, read_dictionary, read_triples
from tracin.proximity.filter import METHODS, ProximityFilter, ProximityOptions

GRAPHS = 200  # for each method


def as_tensor(triples: list[Triple]) -> Tensor:  # [n, 3]
    return torch.tensor(triples, dtype=torch.int64).reshape(-1, 3)


def near_rows(train: list[Triple], test: list[Triple], options: ProximityOptions) -> list[int]:
    """The definition, row by row."""
    neighbours = neighbours_of(train)
    heads, tails = {head for head, _, _ in test}, {tail for _, _, tail in test}
    from_head, to_tail = (distances_from(ends, neighbours, options.n_hops) for ends in (heads, tails))
    inside = from_head.keys() & to_tail.keys()
    if options.method != "igraph":
        inside |= heads | tails
    edges = {frozenset((head, tail)) for head, _, tail in train}
    if options.method == "pyg":
        edges = {edge for edge in edges if edge <= from_head.keys() or edge <= to_tail.keys()}
    degree = degrees(train, edges, options.method)
    on_path = set[frozenset[int]]()
    if options.path_filtering and options.method != "pyg":
        length = 2 * options.n_hops if options.max_total_path_length is None else options.max_total_path_length
        on_path = on_path.union(*(edges_on_paths(neighbours, head, tail, length) for head in heads for tail in tails))

    def kept(edge: frozenset[int]) -> bool:
        if edge not in edges or not edge <= inside:
            return False
        if options.method == "igraph" and options.strict_path_filtering:
            return edge in on_path
        of_test = options.preserve_test_edges and bool(edge & (heads | tails))
        if not of_test and max(degree[entity] for entity in edge) < options.min_degree:
            return False
        if not options.path_filtering:
            return True
        return on_the_way(edge, from_head, to_tail, options) if options.method == "pyg" else edge in on_path

    return [row for row, (head, _, tail) in enumerate(train) if kept(frozenset((head, tail)))]


def degrees(train: list[Triple], edges: set[frozenset[int]], method: str) -> Counter[int]:
    if method == "pyg":
        return Counter(entity for edge in edges for entity in edge)
    pairs = [tuple(sorted((head, tail))) for head, _, tail in train]
    return Counter(entity for pair in (set(pairs) if method == "networkx" else pairs) for entity in pair)


def on_the_way(
    edge: frozenset[int], from_head: dict[int, int], to_tail: dict[int, int], options: ProximityOptions
) -> bool:
    if not edge <= from_head.keys() & to_tail.keys():
        return False
    limit = options.max_total_path_length
    one, other = min(edge), max(edge)
    return any(
        from_head[a] <= from_head[b]
        and to_tail[b] <= to_tail[a]
        and (limit is None or from_head[a] + to_tail[b] <= limit)
        for a, b in ((one, other), (other, one))
    )


def random_options(rng: Random, method: str) -> ProximityOptions:
    return ProximityOptions(
        method=method,
        n_hops=rng.choice([0, 1, 1, 2, 2, 2, 3]),
        min_degree=rng.choice([0, 1, 2, 2, 3, 5]),
        preserve_test_edges=rng.random() < 0.5,
        strict_hop_constraint=rng.random() < 0.5,
        path_filtering=rng.random() < 0.7,
        max_total_path_length=rng.choice([None, None, 0, 1, 2, 3, 4, 5, 6]),
        strict_path_filtering=rng.random() < 0.3,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_random_graphs(method: str) -> None:
    """Self-loops, duplicates, several test triples, test entities that are unseen or the same; every option matters."""
    matters = Counter[str]()
    for seed in range(GRAPHS):
        rng = Random(f"{method} {seed}")
        entities = rng.randint(2, 12)
        train = random_triples(rng, entities, rng.randint(0, 3 * entities))
        near = ProximityFilter(as_tensor(train))
        for _ in range(3):
            test = random_triples(rng, entities + 1, rng.choice([1, 1, 2, 3]))
            options = random_options(rng, method)
            expected = near_rows(train, test, options)
            assert near.rows(as_tensor(test), options).tolist() == expected, (train, test, options)
            for name, other in vars(random_options(rng, method)).items():
                matters[name] += near_rows(train, test, replace(options, **{name: other})) != expected
    without_effect = {"method", "strict_hop_constraint"} | ({"strict_path_filtering"} if method != "igraph" else set())
    assert {name for name, count in matters.items() if not count} == without_effect


@pytest.mark.parametrize("method", METHODS)
def test_larger_random_graphs(method: str) -> None:
    kept = 0
    for seed in range(20):
        rng = Random(seed)
        train = [(rng.randrange(60), 0, rng.randrange(60)) for _ in range(110)]
        near = ProximityFilter(as_tensor(train), 60)
        for n_hops, path_filtering in ((1, False), (2, False), (2, True), (3, True)):
            options = ProximityOptions(method, n_hops, path_filtering=path_filtering)
            expected = near_rows(train, [(0, 0, 1)], options)
            assert near.rows(as_tensor([(0, 0, 1)]), options).tolist() == expected, seed
            kept += len(expected)
    assert kept > 200


@pytest.mark.parametrize("line", [2, 3])
def test_files_of_the_original_scripts(fixtures_dir: Path, line: int) -> None:
    entities, relations = (read_dictionary(fixtures_dir / name) for name in ("node_dict.txt", "rel_dict.txt"))
    train, test = (read_triples(fixtures_dir / name, entities, relations) for name in ("train.txt", "test.txt"))
    rows = ProximityFilter(train, len(entities)).rows(test[line - 1 : line], ProximityOptions("networkx"))
    (expected,) = (fixtures_dir / "expected" / "batch" / "filtered_training").glob(f"triple_{line - 1:03d}_*")
    lines = (fixtures_dir / "train.txt").read_text().splitlines()
    assert [lines[row] for row in rows] == expected.read_text().splitlines()


def test_rows_are_those_of_the_file() -> None:
    """Every triple of a kept edge: each direction, relation and duplicate."""
    train = [(0, 0, 1), (5, 0, 6), (1, 1, 0), (1, 0, 2), (0, 0, 1), (2, 0, 7)]
    rows = ProximityFilter(as_tensor(train)).rows(as_tensor([(0, 0, 2)]), ProximityOptions(n_hops=1))
    assert rows.dtype == torch.int64
    assert rows.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("method", METHODS)
def test_unseen_test_entity(method: str) -> None:
    """Nothing is near an entity without triples, whether it is a known number or one beyond those of train."""
    near, beyond = ProximityFilter(as_tensor([(0, 0, 1)]), 10), ProximityFilter(as_tensor([(0, 0, 1)]))
    for entity in (5, 9):
        test = as_tensor([(0, 0, entity)])
        assert near.rows(test, ProximityOptions(method)).tolist() == []
        assert beyond.rows(test, ProximityOptions(method)).tolist() == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "dgl"}, "method is 'dgl'; expected one of pyg, networkx, igraph"),
        ({"n_hops": -1}, "n_hops is -1; expected a whole number from 0 on"),
        ({"n_hops": None}, "n_hops is None; expected a whole number from 0 on"),
        ({"n_hops": 1.5}, "n_hops is 1.5; expected a whole number from 0 on"),
        ({"min_degree": -2}, "min_degree is -2; expected a whole number from 0 on"),
        ({"max_total_path_length": True}, "max_total_path_length is True; expected a whole number from 0 on"),
    ],
)
def test_wrong_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ProximityOptions(**wrong)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([(0, 0, 1), (0, 0, 4)], [(0, 0, 1)], "training triples row 1: tail id 4 is outside 0..3; were the"),
        ([(-1, 0, 1)], [(0, 0, 1)], "training triples row 0: head id -1 is outside 0..3; were the"),
        ([(0, 0, 1)], [(0, 0, 1), (0, 0, 7)], "test triples row 1: tail id 7 is outside 0..3; were the"),
    ],
)
def test_wrong_ids(train: list[Triple], test: list[Triple], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        ProximityFilter(as_tensor(train), 4).rows(as_tensor(test), ProximityOptions())


@pytest.mark.parametrize("triples", [torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(0, 2).long()])
def test_wrong_tensors(triples: Tensor) -> None:
    with pytest.raises(InputError, match=r"^training triples are \[.*expected \[n, 3\] of torch.int64$"):
        ProximityFilter(triples)
    with pytest.raises(InputError, match=r"^test triples are \[.*expected \[n, 3\] of torch.int64$"):
        ProximityFilter(as_tensor([(0, 0, 1)])).rows(triples, ProximityOptions())
