"""What an index of norms alone holds, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tracin_ext.backends.native import NativeBackend
from tracin_ext.grouping import order_by_head_relation
from tracin_ext.kept import Norms, norms_of
from tracin_ext.lists import falling, row_lists_of, total_of
from tracin_ext.ops import DENSE_PARTS
from tracin_ext.recomputed import RecomputedTriples
from tracin_ext.sketches import sketch_basis


def recomputed_of(
    backends: Sequence[NativeBackend],
    rates: Sequence[float],
    train: Tensor,  # [n, 3]
) -> RecomputedTriples:
    order = order_by_head_relation(train)
    bases = [sketch_basis(backend, train, order) for backend in backends]
    found = [norms_of(*each, basis) for each, basis in zip(((b, train, order) for b in backends), bases, strict=True)]
    norms = [each.norms for each in found]
    totals, relation_totals = total_of(norms, rates, DENSE_PARTS), total_of(norms, rates, DENSE_PARTS + 1)
    rows = falling(totals)
    known = [Norms(*(x[rows] if len(x) else x for x in each)) for each in found]
    sizes = len(backends[0].parameters.entity), backends[0].sizes.relations
    lists = row_lists_of(train[order[rows]].int(), order[rows].int(), totals[rows], relation_totals[rows], *sizes)
    return RecomputedTriples(backends, rates, known, bases, lists, most=4)
