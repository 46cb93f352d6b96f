"""Which edges lie on a simple path of at most L edges between two entities, edge by edge, for any L.

An edge a-b lies on one if two paths that share no entity lead from head and tail to a and b, whichever to whichever,
of at most L - 1 edges together: the cheapest flow of two units. The first is a shortest path, from a tree that all
edges share; the second a shortest one that may go back along the first (J. W. Suurballe, "Disjoint paths in a network",
1974). Some microseconds a step for each edge that is asked for: for long paths through small graphs.

Sizes: of the steps, inner edges each way, P; of the entities inside paths V.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from tracin.proximity.graph import Ids, Mask


@dataclass(frozen=True)
class Network:
    """Entities 0 to V - 1, head V and tail V + 1, and the tree of shortest paths from these two."""

    neighbours: list[list[int]]
    depth: list[int]  # edges from the nearer of head and tail; V + 2 where there is no way
    before: list[int]  # the entity before, itself for head and tail


def network(
    start: Ids,  # [P]
    end: Ids,  # [P]
    from_head: Ids,  # [V]
    to_tail: Ids,  # [V]
) -> Network:
    count = len(from_head)
    pairs = np.unique(np.concatenate([np.stack([start, end]), np.stack([end, start])], 1), axis=1)
    neighbours: list[list[int]] = [[] for _ in range(count + 2)]
    for one, other in pairs.T.tolist():
        neighbours[one].append(other)
    neighbours[count] = np.flatnonzero(from_head == 1).tolist()
    neighbours[count + 1] = np.flatnonzero(to_tail == 1).tolist()
    depth = [count + 2] * count + [0, 0]
    before = [*range(count + 2)]
    queue = deque([count, count + 1])
    while queue:
        here = queue.popleft()
        for there in neighbours[here]:
            if depth[there] > count:
                depth[there], before[there] = depth[here] + 1, here
                queue.append(there)
    return Network(neighbours, depth, before)


def on_simple_paths(
    net: Network,
    start: Ids,  # [K] of the edges asked for
    end: Ids,  # [K]
    length: int,  # L
) -> Mask:  # [K]
    pairs = zip(start.tolist(), end.tolist(), strict=True)
    return np.fromiter((_parted(net, one, other, length) for one, other in pairs), np.bool_, len(start))


def _parted(net: Network, one: int, other: int, length: int) -> bool:
    """Whether two paths from head and tail to these two share no entity, and have at most length - 1 edges together."""
    near, far = (one, other) if net.depth[one] <= net.depth[other] else (other, one)
    spare = length - 1 - net.depth[near] - net.depth[far]
    if spare < 0:
        return False
    after: dict[int, int] = {near: -1}  # along the first path
    here = near
    while net.before[here] != here:
        after[net.before[here]] = here
        here = net.before[here]
    ends = len(net.depth) - 2, len(net.depth) - 1
    return _second(net, after, ends[here == ends[0]], far, spare)


def _second(net: Network, after: dict[int, int], root: int, goal: int, spare: int) -> bool:
    """Whether the second path costs at most `spare` more than the shortest to its goal.

    An entity of the first path is entered, which only leads back along that path, or left: two places for each.
    """
    depth, before = net.depth, net.before
    open_: list[list[tuple[int, bool]]] = [[] for _ in range(spare + 1)]  # by cost
    open_[0].append((root, True))
    seen: set[tuple[int, bool]] = set()
    for cost, places in enumerate(open_):
        while places:
            place = places.pop()
            if place in seen:
                continue
            seen.add(place)
            here, leaving = place
            if here == goal:
                return True
            if not leaving:
                if before[here] != here:
                    places.append((before[here], True))
                continue
            taken = after.get(here)
            if taken is not None:
                places.append((here, False))
            for there in net.neighbours[here]:
                total = cost + 1 + depth[here] - depth[there]
                if total <= spare and there != taken:
                    open_[total].append((there, there not in after))
    return False
