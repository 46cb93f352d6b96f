"""Which training triples lie near a test triple: the choice made before scoring a graph too large to score whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracin.errors import InputError
from tracin.proximity.graph import FAR, EntityGraph, Ids, Mask
from tracin.proximity.simple_paths import edges_on_simple_paths
from tracin.triples.ids import check_ids

METHODS = ("pyg", "networkx", "igraph")
MAX_ENTITIES = 2**31 - 1


@dataclass(frozen=True)
class ProximityOptions:
    """What "near" means. The methods are named after the graph libraries that computed them first.

    Let dh and dt be the distances from the test heads and from the test tails, in edges. A training triple, as an
    undirected edge a-b, is kept if a and b have both distances up to `n_hops` (pyg, networkx: or are test entities) and

    - a or b is a test entity, given `preserve_test_edges`, or has a degree of at least `min_degree`, and
    - given `path_filtering`, the edge is on the way from a test head to a test tail.

    pyg knows only edges whose ends both have dh up to n_hops, or both dt. Degree: neighbours by such edges. On the way:
    both distances of a and b are up to n_hops, and in one direction along the edge dh does not fall and dt not rise.

    networkx: degree: neighbours, a self-loop counts twice. On the way: on a path from head to tail of at most
    `max_total_path_length` edges that does not repeat an entity.

    igraph: degree: triples, a self-loop counts twice. On the way: as networkx.

    Args:
        method: pyg | networkx | igraph.
        max_total_path_length: None is 2 * n_hops. pyg: the most that dh where the edge begins and dt where it ends may
            sum to, which leaves the edge itself out; None is any.
        strict_hop_constraint: takes edges whose ends are within n_hops of a test entity, as all that are kept are; so
            it changes nothing.
        strict_path_filtering: igraph: the path decides alone, without test entities and degrees; without
            `path_filtering` nothing is kept. The other methods do not look at it.

    Raises:
        InputError: for an unknown method and for negative numbers.
    """

    method: str = "pyg"
    n_hops: int = 2
    min_degree: int = 2
    preserve_test_edges: bool = True
    strict_hop_constraint: bool = False
    path_filtering: bool = False
    max_total_path_length: int | None = None
    strict_path_filtering: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method is {self.method!r}; expected one of {', '.join(METHODS)}")
        for name in ("n_hops", "min_degree", "max_total_path_length"):
            value = getattr(self, name)
            if value is None and name == "max_total_path_length":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InputError(f"{name} is {value!r}; expected a whole number from 0 on")


class ProximityFilter:
    """Which training triples lie near a test triple. Built once per graph, asked once per test triple.

    Args:
        train: [n, 3] int64 ids, duplicates allowed.
        num_entities: N, ids are below it; by default as many as train's ids need, and others are unseen entities.

    Raises:
        InputError: for ids that are negative, or not below `num_entities`.

    Example:
        >>> near = ProximityFilter(torch.tensor([[0, 0, 1], [1, 0, 2], [2, 0, 3]]))
        >>> near.rows(torch.tensor([[0, 0, 2]]), ProximityOptions(n_hops=1))
        tensor([0, 1])
    """

    def __init__(
        self,
        train: Tensor,  # [n, 3] int64
        num_entities: int | None = None,
    ) -> None:
        self._num_entities = num_entities
        heads, tails = _ends(train, "training", num_entities)
        if num_entities is None:
            num_entities = 1 + int(max(heads.max(initial=-1), tails.max(initial=-1)))
        self._graph = EntityGraph(heads, tails, num_entities)

    def rows(
        self,
        test: Tensor,  # [m, 3] int64
        options: ProximityOptions,
    ) -> Tensor:  # [k] int64 rows of train, ascending
        """The training triples near one test triple, or near several with their heads and their tails pooled.

        A test entity that no training triple has is nowhere near any.

        Raises:
            InputError: for wrong ids, and where the paths of `path_filtering` are too many to decide.
        """
        graph = self._graph
        heads, tails = (np.unique(ids) for ids in _ends(test, "test", self._num_entities))
        heads, tails = heads[heads < graph.num_entities], tails[tails < graph.num_entities]
        from_head, to_tail = (graph.distances(ends, options.n_hops) for ends in (heads, tails))
        test_entity = np.zeros(graph.num_entities, np.bool_)
        test_entity[heads] = test_entity[tails] = True
        inside = (from_head < FAR) & (to_tail < FAR)
        if options.method != "igraph":
            inside |= test_entity
        edges = np.flatnonzero(inside[graph.lower] & inside[graph.upper])
        if options.method == "pyg":
            in_a_ball = self._in_a_ball(from_head, to_tail)
            edges = edges[in_a_ball[edges]]
            degree = graph.degree_within(in_a_ball)
        else:
            degree = graph.simple_degree if options.method == "networkx" else graph.triple_degree
        paths_alone = options.method == "igraph" and options.strict_path_filtering
        if not paths_alone:
            enough = degree >= options.min_degree
            if options.preserve_test_edges:
                enough |= test_entity
            edges = edges[enough[graph.lower[edges]] | enough[graph.upper[edges]]]
        elif not options.path_filtering:
            edges = edges[:0]
        if options.path_filtering and options.method == "pyg":
            edges = self._on_the_way(edges, from_head, to_tail, options.max_total_path_length)
        elif options.path_filtering:
            length = 2 * options.n_hops if options.max_total_path_length is None else options.max_total_path_length
            edges = self._on_simple_paths(edges, heads, tails, length)
        kept = np.zeros(len(graph.lower), np.bool_)
        kept[edges] = True
        return torch.from_numpy(np.flatnonzero(kept[graph.edge_of_row]))

    def _in_a_ball(
        self,
        from_head: Ids,  # [N]
        to_tail: Ids,  # [N]
    ) -> Mask:  # [E]
        """Edges with both ends around the test heads, or both around the test tails."""
        balls = (from_head < FAR) + 2 * (to_tail < FAR).astype(np.int8)  # one bit each
        inside: Mask = (balls[self._graph.lower] & balls[self._graph.upper]) != 0
        return inside

    def _on_the_way(
        self,
        edges: NDArray[np.int64],  # [K]
        from_head: Ids,  # [N]
        to_tail: Ids,  # [N]
        length: int | None,
    ) -> NDArray[np.int64]:  # those of `edges` along which, one way, heads do not come nearer and tails not farther
        lower, upper = self._graph.lower[edges], self._graph.upper[edges]
        inside = (from_head < FAR) & (to_tail < FAR)
        kept = np.zeros(len(edges), np.bool_)
        for start, end in ((lower, upper), (upper, lower)):
            forward = (from_head[start] <= from_head[end]) & (to_tail[end] <= to_tail[start])
            if length is not None:
                forward &= from_head[start] + to_tail[end] <= length
            kept |= forward
        return edges[kept & inside[lower] & inside[upper]]

    def _on_simple_paths(
        self,
        edges: NDArray[np.int64],  # [K]
        heads: NDArray[np.int64],
        tails: NDArray[np.int64],
        length: int,
    ) -> NDArray[np.int64]:  # those of `edges` on a simple path from any head to any tail
        open_ = np.zeros(len(self._graph.lower), np.bool_)
        open_[edges] = True
        for head, tail in product(heads.tolist(), tails.tolist()):
            open_ &= ~edges_on_simple_paths(self._graph, head, tail, length, open_)
        return edges[~open_[edges]]


def _ends(
    triples: Tensor,  # [n, 3] int64
    kind: str,
    num_entities: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # [n], [n] heads, tails
    """Raises InputError unless `triples` is [n, 3] int64 with entity ids from 0, and below num_entities if given."""
    check_ids(triples, MAX_ENTITIES if num_entities is None else num_entities, None, f"{kind} triples")
    return triples[:, 0].numpy(), triples[:, 2].numpy()
