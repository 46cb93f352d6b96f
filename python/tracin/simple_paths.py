"""Which edges lie on a simple path of at most L edges between two entities, without listing the paths.

Walked from a to b, the edge lies on such a path if routes head..a of i and b..tail of j edges, i + 1 + j <= L, share
no entity. Every a and b has too many routes to list, but a few of them stand for all: let q be the number of
entities that the other part can occupy. Take any route; for each entity x inside it, take any route that avoids x;
for each entity y inside that one, a route that avoids x and y; and so on, q deep (B. Monien, How to find long paths
efficiently, 1985). If any route avoids some q entities, one of those taken does. A route of i + 1 edges is one of i
edges and a neighbour, so the routes taken for i + 1 are among the neighbours' routes for i: all entities take theirs
at once, in array operations over the edges. At L = 4 that is two routes each, at L = 6 at most seven.

Sizes: N entities, E edges; of the steps (edges that are short enough, each way) P, of the entities inside paths V.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tracin.entity_graph import EntityGraph, Ids, Mask
from tracin.errors import InputError

NONE = -1  # no entity

# Comparisons of two entities, 5 ns each: some minutes. XXX.
MOST_WORK = 40_000_000_000
CALL = 10_000  # comparisons in the time of the calls around them


def edges_on_simple_paths(
    graph: EntityGraph,
    head: int,
    tail: int,
    length: int,  # L
    wanted: Mask,  # [E] the edges that are asked for
) -> Mask:  # [E] wanted, and on a path without repeated entities from head to tail of at most `length` edges
    found = np.zeros(len(wanted), np.bool_)
    if head == tail or length < 1:
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
    edge: NDArray[np.int64]  # [P]

    def take(self, which: Mask) -> _Steps:
        return _Steps(self.start[which], self.end[which], self.edge[which])

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
        parts.append((start[edge], end[edge], edge))
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
    work = _Work(length)
    before = _routes(steps.start, steps.end, from_head, to_tail, length, work)
    after = _routes(steps.end, steps.start, to_tail, from_head, length, work)
    for i in range(1, length - 1):
        j = length - 1 - i
        open_ = wanted[steps.edge] & ~found[steps.edge] & (from_head[steps.start] <= i) & (to_tail[steps.end] <= j)
        asked = steps.take(open_)
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
        useful = (distance[start] <= i) & (rest[end] <= length - 1 - i) & ~near[end]
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

    def choose(avoided: list[Ids], which: Mask) -> None:
        """A route for each entity of `which`, then for each entity inside it one that avoids this too."""
        route = _Route(np.full((i, len(near)), NONE, np.int32), np.zeros(len(near), np.bool_))
        _fill(route, start, end, shorter, avoided, which, work)
        if not avoided:
            route.exists[near] = True
        if not route.exists.any():
            return
        routes.append(route)
        if len(avoided) < avoid:
            for inside in route.inside:
                choose([*avoided, inside], inside != NONE)

    choose([], ~near)
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
    open_ = np.flatnonzero(which[end])
    for known in shorter:
        before, here = start[open_], end[open_]
        work.add(len(open_) * (1 + len(known.inside)) * (1 + len(avoided)))
        fits = known.exists[before]
        for inside in known.inside:
            fits &= inside[before] != here
        for other in avoided:
            barred = other[here]
            fits &= barred != before
            for inside in known.inside:
                fits &= barred != inside[before]
        step = np.full(len(which), NONE, np.int64)
        step[here[fits]] = open_[fits]
        reached = np.flatnonzero(step != NONE)
        last = start[step[reached]]
        route.inside[0, reached] = last
        route.inside[1 : 1 + len(known.inside), reached] = known.inside[:, last]
        route.exists[reached] = True
        open_ = open_[~route.exists[here]]


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
        work.add(len(open_) * (1 + len(first.inside)) * (1 + len(second.inside)))
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
    """Counts comparisons, and stops a search that would take hours."""

    length: int
    done: int = 0

    def add(self, comparisons: int) -> None:
        self.done += comparisons + CALL
        if self.done > MOST_WORK:
            raise InputError(
                f"paths of {self.length} edges through this graph take more than {MOST_WORK:.0e} comparisons; "
                "lower max_total_path_length (by default twice n_hops), or n_hops"
            )
