"""How training triples relate to a question, in the graph and in words; the ways from its head to its tail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracin.proximity.graph import FAR, EntityGraph
from tracin.triples.read import Triple

LONGEST = 3  # edges of a way from head to tail
FARTHEST = 4  # hops that are told apart


@dataclass(frozen=True)
class Tie:
    """How a training triple relates to the question."""

    words: tuple[str, ...]  # such as "same relation", "same head"
    hops: int | None  # from the question's nearer end, 0 where it shares an entity; None: more than FARTHEST
    path: int | None  # edges of the shortest way from head to tail that it lies on; None: of more than LONGEST


@dataclass(frozen=True)
class Path:
    """A way from head to tail: training triples, one after the other, in either direction."""

    rows: tuple[int, ...]  # of the training triples
    entities: tuple[int, ...]  # from head to tail, one more
    weakest: float  # the smallest score on the way
    total: float  # the sum of its scores


class Surroundings:
    """The graph of the training triples around one question."""

    def __init__(
        self,
        train: Tensor,  # [n, 3]
        num_entities: int,
        triple: Triple,
        graph: EntityGraph | None = None,
    ) -> None:
        self.train = train
        self.head, self.relation, self.tail = triple
        self.graph = graph or graph_of(train, num_entities)
        ends = np.array([self.head, self.tail])
        self._from_either = self.graph.distances(ends, FARTHEST)
        self._from_head = self.graph.distances(ends[:1], LONGEST - 1, without=self._other(self.tail, self.head))
        self._from_tail = self.graph.distances(ends[1:], LONGEST - 1, without=self._other(self.head, self.tail))

    @staticmethod
    def _other(entity: int, start: int) -> int | None:
        return None if entity == start else entity

    def tie(self, triple: Triple) -> Tie:
        head, relation, tail = triple
        words = [] if relation != self.relation else ["same relation"]
        if (head, tail) == (self.head, self.tail):
            words = ["the question itself"] if words else ["same head and tail"]
            return Tie(tuple(words), 0, 1)
        elif (head, tail) == (self.tail, self.head):
            return Tie((*words, "head and tail swapped"), 0, 1)
        else:
            shared = (
                (head == self.head, "same head"),
                (tail == self.tail, "same tail"),
                (tail == self.head, "ends at the head"),
                (head == self.tail, "starts at the tail"),
            )
            words += [text for holds, text in shared if holds]
        hops = int(min(self._from_either[head], self._from_either[tail]))
        return Tie(tuple(words), None if hops >= FAR else hops, self._shortest_through(head, tail))

    def _shortest_through(self, head: int, tail: int) -> int | None:
        if head == tail or self.head == self.tail:
            return None
        ways = (
            int(self._from_head[start] + 1 + self._from_tail[end])
            for start, end in ((head, tail), (tail, head))
            if start != self.tail and end != self.head
        )
        shortest = min(ways, default=FAR)
        return shortest if shortest <= LONGEST else None

    def paths(
        self,
        scores: Tensor,  # [n]
        count: int,
    ) -> list[Path]:
        """The ways of at most three training triples from head to tail that speak for the question all along.

        Of the triples between two entities the one of the greatest score stands for all; the question's own triple is
        none. Greatest weakest score first: a way carries no more than its weakest part.
        """
        if self.head == self.tail:
            return []
        best, row = self._best_of_edges(scores)
        edges = np.flatnonzero(best > 0)
        lower, upper = self.graph.lower[edges], self.graph.upper[edges]
        at_head, at_tail = (self._joined_to(end, lower, upper, edges) for end in (self.head, self.tail))
        found: list[tuple[int, ...]] = []
        direct = at_head[self.tail]
        if direct >= 0:
            found.append((direct,))
        middle = np.flatnonzero((at_head >= 0) & (at_tail >= 0))
        found += [(at_head[entity], at_tail[entity]) for entity in middle if entity not in (self.head, self.tail)]
        for start, end in ((lower, upper), (upper, lower)):
            inner = (at_head[start] >= 0) & (at_tail[end] >= 0) & (start != end)
            for side in (start, end):
                inner &= (side != self.head) & (side != self.tail)
            chosen = np.flatnonzero(inner)
            weakest = np.minimum(
                best[edges[chosen]], np.minimum(best[at_head[start[chosen]]], best[at_tail[end[chosen]]])
            )
            for place in chosen[np.argsort(-weakest, kind="stable")[:count]]:
                found.append((at_head[start[place]], edges[place], at_tail[end[place]]))
        ranked = sorted(found, key=lambda way: (-min(best[edge] for edge in way), len(way), way))[:count]
        return [self._path(way, row, best) for way in ranked]

    def _path(self, way: tuple[int, ...], row: NDArray[np.int64], best: NDArray[np.float64]) -> Path:
        entities = [self.head]
        for edge in way:
            ends = int(self.graph.lower[edge]), int(self.graph.upper[edge])
            entities.append(ends[1] if ends[0] == entities[-1] else ends[0])
        values = [float(best[edge]) for edge in way]
        return Path(tuple(int(row[edge]) for edge in way), tuple(entities), min(values), sum(values))

    def _best_of_edges(self, scores: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:  # [E], [E] rows
        """The greatest score of the triples on each edge, and whose it is; the question's own do not count."""
        values = scores.double().numpy().copy()
        asked = torch.tensor([self.head, self.relation, self.tail])
        values[(self.train == asked).all(1).numpy()] = -np.inf
        order = np.argsort(values, kind="stable")
        best = np.full(len(self.graph.lower), -np.inf)
        row = np.full(len(best), -1)
        edge_of_row = self.graph.edge_of_row[order]
        best[edge_of_row] = values[order]  # of several, the last stays
        row[edge_of_row] = order
        return best, row

    def _joined_to(
        self, entity: int, lower: NDArray[np.int32], upper: NDArray[np.int32], edges: NDArray[np.int64]
    ) -> NDArray[np.int64]:  # [N] the edge to each neighbour, else -1
        joined = np.full(self.graph.num_entities, -1)
        for one, other in ((lower, upper), (upper, lower)):
            at = one == entity
            joined[other[at]] = edges[at]
        joined[entity] = -1
        return joined


def graph_of(
    train: Tensor,  # [n, 3]
    num_entities: int,
) -> EntityGraph:
    return EntityGraph(train[:, 0].numpy(), train[:, 2].numpy(), num_entities)


def in_words(tie: Tie) -> str:
    """Such as "same relation, same head" or "same relation, 2 hops away"."""
    words = list(tie.words)
    if tie.hops is None:
        words.append("not near")
    elif tie.hops:
        words.append("1 hop away" if tie.hops == 1 else f"{tie.hops} hops away")
    if (tie.path or 0) > 1:
        words.append(f"on a path of {tie.path}")
    return ", ".join(words) or "shares an entity"
