"""The undirected simple graph under the training triples: distances, degrees, and the rows behind an edge.

Sizes: n training triples, N entities, E edges.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]

FAR = 1 << 29  # a distance beyond the limit; two of them still fit in int32


class EntityGraph:
    """Entities are joined by one edge if a training triple, of whatever relation and direction, joins them.

    Edge e joins lower[e] and upper[e], lower[e] <= upper[e]; equal ends are a self-loop.
    """

    def __init__(
        self,
        heads: NDArray[np.int64],  # [n] 0..N-1
        tails: NDArray[np.int64],  # [n] 0..N-1
        num_entities: int,
    ) -> None:
        self.num_entities = num_entities
        codes = np.minimum(heads, tails)
        codes *= num_entities
        codes += np.maximum(heads, tails)
        codes, edge_of_row = np.unique(codes, return_inverse=True)
        self.edge_of_row: Ids = edge_of_row.astype(np.int32)  # [n]
        lower, upper = np.divmod(codes, max(1, num_entities))
        self.lower: Ids = lower.astype(np.int32)  # [E]
        self.upper: Ids = upper.astype(np.int32)  # [E]
        ends = np.concatenate([self.lower, self.upper]), np.concatenate([self.upper, self.lower])
        joined = np.ones(len(ends[0]), np.bool_)
        self._neighbours = csr_array((joined, ends), shape=(num_entities, num_entities))

    def distances(
        self,
        sources: NDArray[np.int64],  # entities
        limit: int,
        without: int | None = None,
    ) -> Ids:  # [N]
        """Edges from the nearest source, FAR if more than `limit`; paths do not enter the entity `without`."""
        distance = np.full(self.num_entities, FAR, np.int32)
        distance[sources] = 0
        open_ = np.ones(self.num_entities, np.bool_)  # not yet reached
        open_[sources] = False
        if without is not None:
            distance[without], open_[without] = FAR, False
        frontier = np.flatnonzero(distance == 0)
        for step in range(1, limit + 1):
            reached = self._next_to(frontier) & open_
            frontier = np.flatnonzero(reached)
            if not len(frontier):
                break
            distance[frontier] = step
            open_[frontier] = False
        return distance

    def _next_to(self, entities: NDArray[np.int64]) -> Mask:  # [N]
        """The neighbours of some entities."""
        rows = self._neighbours.indptr
        if 4 * int((rows[entities + 1] - rows[entities]).sum()) > self._neighbours.nnz:
            chosen = np.zeros(self.num_entities, np.bool_)
            chosen[entities] = True
            touched: np.ndarray = self._neighbours @ chosen
            return touched
        reached = np.zeros(self.num_entities, np.bool_)
        reached[self._neighbours[entities].indices] = True
        return reached

    def degree_within(
        self,
        which: Mask,  # [E]
    ) -> NDArray[np.int64]:  # [N]
        """Such edges at each entity, a self-loop once."""
        lower, upper = self.lower[which], self.upper[which]
        return self._count(lower) + self._count(upper[lower != upper])

    @cached_property
    def simple_degree(self) -> NDArray[np.int64]:  # [N]
        """Edges at each entity, a self-loop twice."""
        return self._count(self.lower) + self._count(self.upper)

    @cached_property
    def triple_degree(self) -> NDArray[np.int64]:  # [N]
        """Training triples at each entity, a self-loop twice."""
        triples = np.bincount(self.edge_of_row, minlength=len(self.lower))
        counted = self._count(self.lower, triples) + self._count(self.upper, triples)  # float64, exact
        return counted.astype(np.int64)

    def _count(self, ends: Ids, weights: NDArray[np.int64] | None = None) -> NDArray[np.int64]:  # [N]
        return np.bincount(ends, weights, self.num_entities)
