"""Which edges lie on a simple path of at most L edges between two entities, without listing the paths.

Walked from a to b, an edge lies on such a path if a route from head to a of i edges and one from b to tail of j edges,
i + 1 + j <= L, share no entity. There are too many routes to list, but a few of them stand for all. Let the other part
take up at most q entities. Take any route to a; for each entity x inside it, take any route that avoids x; for each
entity y inside that one, a route that avoids x and y; and so on, q deep (B. Monien, "How to find long paths
efficiently", 1985). Whatever q entities the other part takes up: if any route avoids them, one of those taken does.
A route of i + 1 edges is a route of i edges and a step more, so all entities take theirs among the routes that their
neighbours took, in a few operations on arrays of edges: two routes each at L = 4, at most seven at L = 6.

Sizes: N entities, E edges; of the steps (edges that are short enough, each way) P, of the entities inside paths V.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tracin.errors import InputError
from tracin.proximity.disjoint_paths import network, on_simple_paths
from tracin.proximity.graph import EntityGraph, Ids, Mask

NONE = -1  # no entity

# A search is given up after so many comparisons of two entities, three minutes at 10 ns each, or entities in routes,
# 2 GB. Over 18 million edges, L = 6 takes 3e9 comparisons and 9e7 entities, L = 7 1.2e10 and 3e8.
MOST_COMPARISONS = 20_000_000_000
MOST_STORED = 500_000_000
# Longer paths are found edge by edge where these are few: 20 s. Routes are for short paths through many edges.
LONG = 7
MOST_PAIRS = 20_000_000  # of an edge that is asked for and a step
CALL = 10_000  # comparisons in the time of the calls around them


def edges_on_simple_paths(
    graph: EntityGraph,
    head: int,
    tail: int,
    length: int,  # L
    wanted: Mask,  # [E] the edges that are asked for
) -> Mask:  # [E] wanted, and on a path without repeated entities from head to tail of at most `length` edges
    found = np.zeros(len(wanted), np.bool_)
    if head == tail or length < 1 or not wanted.any():
        return found
    from_head = graph.distances(np.array([head]), length - 1, without=tail)
    to_tail = graph.distances(np.array([tail]), length - 1, without=head)
    steps = _short_steps(graph, from_head, to_tail, length)
    outer = (steps.start == head) | (steps.end == tail)  # the other part is a shortest route: nothing to share
    found[steps.edge[outer]] = True
    inner, entities = steps.take(~outer).renumbered(graph.num_entities)
    _find_inner(inner, from_head[entities], to_tail[entities], length, wanted, found)
    return found & wanted


@dataclass(frozen=True)
class _Steps:
    """Edges walked from start to end."""

    start: Ids  # [P]
    end: Ids  # [P]
    edge: Ids  # [P]

    def take(self, which: Mask) -> _Steps:
        steps = np.flatnonzero(which)  # a quarter of the time of three arrays[which]
        return _Steps(self.start[steps], self.end[steps], self.edge[steps])

    def renumbered(self, num_entities: int) -> tuple[_Steps, NDArray[np.int64]]:  # the same, [V] their entities
        used = np.zeros(num_entities, np.bool_)
        used[self.start] = used[self.end] = True
        entities = np.flatnonzero(used)
        number = np.full(num_entities, NONE, np.int32)
        number[entities] = np.arange(len(entities))
        return _Steps(number[self.start], number[self.end], self.edge), entities


def _short_steps(
    graph: EntityGraph,
    from_head: Ids,  # [N]
    to_tail: Ids,  # [N]
    length: int,
) -> _Steps:
    """All steps that a path of `length` edges can make; a path through such steps makes no other."""
    parts = []
    for start, end in ((graph.lower, graph.upper), (graph.upper, graph.lower)):
        edge = np.flatnonzero((from_head[start] + to_tail[end] < length) & (start != end))
        parts.append((start[edge], end[edge], edge.astype(np.int32)))
    return _Steps(*(np.concatenate(both) for both in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Route:
    """A route to each of V entities, from one end of the path, where there is one."""

    inside: Ids  # [S, V] the entities between, filled up with NONE
    exists: Mask  # [V]


def _find_inner(
    steps: _Steps,
    from_head: Ids,  # [V]
    to_tail: Ids,  # [V]
    length: int,
    wanted: Mask,  # [E]
    found: Mask,  # [E] set where a step is on a path
) -> None:
    """Steps between entities other than head and tail."""
    length = min(length, len(from_head) + 1)
    open_ = steps.take(wanted[steps.edge])
    if length >= LONG and len(open_.edge) * len(steps.edge) <= MOST_PAIRS:
        net = network(steps.start, steps.end, from_head, to_tail)
        found[open_.edge[on_simple_paths(net, open_.start, open_.end, length)]] = True
        return
    work = _Work(length)
    before = _routes(steps.start, steps.end, from_head, to_tail, length, work)
    after = _routes(steps.end, steps.start, to_tail, from_head, length, work)
    for i in range(1, length - 1):
        j = length - 1 - i
        open_ = open_.take(~found[open_.edge])
        asked = open_.take((from_head[open_.start] <= i) & (to_tail[open_.end] <= j))
        found[asked.edge[_can_part(before[i - 1], after[j - 1], asked, work)]] = True


def _routes(
    start: Ids,  # [P]
    end: Ids,  # [P]
    distance: Ids,  # [V] from the root, the end of the path where the routes begin
    rest: Ids,  # [V] to the other end of the path
    length: int,
    work: _Work,
) -> list[list[_Route]]:
    """Routes of at most i edges for i = 1..length - 2, enough of them to avoid any length - 1 - i entities."""
    near = distance == 1
    routes = [[_Route(np.empty((0, len(near)), np.int32), near)]]
    for i in range(1, length - 2):
        work.compare(len(start))
        useful = np.flatnonzero((distance[start] <= i) & (rest[end] <= length - 1 - i) & ~near[end])
        routes.append(_longer(start[useful], end[useful], routes[-1], near, i, length - 2 - i, work))
    return routes


def _longer(
    start: Ids,  # [P]
    end: Ids,  # [P]
    shorter: list[_Route],  # to `start`, at most i edges
    near: Mask,  # [V] next to the root: nothing is inside the route
    i: int,
    avoid: int,
    work: _Work,
) -> list[_Route]:
    """Routes of at most i + 1 edges, enough of them to avoid any `avoid` entities."""
    routes: list[_Route] = []
    to_avoid: list[list[Ids]] = [[]]
    while to_avoid:
        avoided = to_avoid.pop()
        route = _Route(np.full((i, len(near)), NONE, np.int32), np.zeros(len(near), np.bool_))
        _fill(route, start, end, shorter, avoided, avoided[-1] != NONE if avoided else ~near, work)
        if not avoided:
            route.exists[near] = True
        if route.exists.any():
            work.store(route.inside.size)
            routes.append(route)
            if len(avoided) < avoid:
                to_avoid += [[*avoided, inside] for inside in route.inside]
    return routes


def _fill(
    route: _Route,
    start: Ids,  # [P]
    end: Ids,  # [P]
    shorter: list[_Route],  # to `start`
    avoided: list[Ids],  # each [V]
    which: Mask,  # [V]
    work: _Work,
) -> None:
    """Sets the route of every entity of `which` that has one past its own avoided entities."""
    steps = np.flatnonzero(which[end])
    for known in shorter:
        work.compare(len(steps) * (1 + len(known.inside)) * (1 + len(avoided)))
        last = _last_steps(steps, start, end, known, avoided)
        reached = np.flatnonzero(last != NONE)
        before = start[last[reached]]
        route.inside[0, reached] = before
        route.inside[1 : 1 + len(known.inside), reached] = known.inside[:, before]
        route.exists[reached] = True
        steps = steps[np.flatnonzero(~route.exists[end[steps]])]


def _last_steps(
    steps: NDArray[np.int64],  # [K] of 0..P-1
    start: Ids,  # [P]
    end: Ids,  # [P]
    known: _Route,  # to `start`
    avoided: list[Ids],  # each [V]
) -> NDArray[np.int64]:  # [V] one of `steps` that leads a known route on to an entity and past all it avoids, or NONE
    before, here = start[steps], end[steps]
    fits = known.exists[before]
    for inside in known.inside:  # a route that comes back to an entity would do, but sparse graphs have few others
        fits &= inside[before] != here
    for other in avoided:
        barred = other[here]
        fits &= barred != before
        for inside in known.inside:
            fits &= barred != inside[before]
    fitting = np.flatnonzero(fits)
    last = np.full(len(known.exists), NONE, np.int64)
    last[here[fitting]] = steps[fitting]
    return last


def _can_part(
    before: list[_Route],  # to the start of a step
    after: list[_Route],  # to its end, from the other side
    steps: _Steps,
    work: _Work,
) -> Mask:  # [P] whether some route before and some route after share no entity
    parted = np.zeros(len(steps.edge), np.bool_)
    for first, second in product(before, after):
        open_ = np.flatnonzero(~parted)
        start, end = steps.start[open_], steps.end[open_]
        work.compare(len(open_) * (1 + len(first.inside)) * (1 + len(second.inside)))
        fits = first.exists[start] & second.exists[end]
        for other in second.inside:
            fits &= other[end] != start
        for inside in first.inside:
            entity = inside[start]
            fits &= entity != end
            for other in second.inside:
                fits &= (entity != other[end]) | (entity == NONE)
        parted[open_[fits]] = True
    return parted


@dataclass
class _Work:
    """Counts, and stops a search that would take hours or all memory."""

    length: int
    comparisons: int = 0
    stored: int = 0

    def compare(self, entities: int) -> None:
        self.comparisons += entities + CALL
        if self.comparisons > MOST_COMPARISONS:
            self._stop(f"{MOST_COMPARISONS:.0e} comparisons")

    def store(self, entities: int) -> None:
        self.stored += entities
        if self.stored > MOST_STORED:
            self._stop(f"{MOST_STORED:.0e} entities in memory")

    def _stop(self, limit: str) -> None:
        raise InputError(
            f"path filtering: simple paths of {self.length} edges through this graph take more than {limit}; "
            "lower max_total_path_length (by default twice n_hops), or n_hops"
        )
