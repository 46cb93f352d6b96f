"""Factors of triples kept in memory, from which single pairs are scored: exact top-k lists by bounds.

Sizes: n training triples, Q test triples, K checkpoints, N entities, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tracin_ext.grouping import order_by_head_relation
from tracin_ext.lists import lists_of
from tracin_ext.ops import (
    NORM_PARTS,
    SKETCH_PARTS,
    FactorTensors,
    FormTensors,
    ListTensors,
    ModelTensors,
    PairTensors,
    Tracked,
    bounded_top_k,
    factor_block,
    norm_block,
)

if TYPE_CHECKING:
    from tracin_ext.backends.native import NativeBackend

BLOCK = 8192  # triples whose factors are computed together


def part_sizes(backend: NativeBackend) -> tuple[int, int]:
    """Features of the head's half and of the middle."""
    channels = backend.parameters.conv_weight.shape[0]
    head_half, middle, _ = backend.parts
    return channels * len(head_half.positions), channels * len(middle.positions)


def kept_bytes(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3]
) -> int:
    """What `keep` takes of memory."""
    p, (head_columns, middle_columns) = backend.parameters, part_sizes(backend)
    dim, size_S = p.entity.shape[1], backend.size_S * (p.M is not None)
    heads = len(triples[:, 0].unique())
    pairs = len((triples[:, 0] * (int(triples[:, 1].max()) + 1) + triples[:, 1]).unique()) if len(triples) else 0
    triple = size_S + dim * (("entity" in p.tracked) + ("relation" in p.tracked)) + NORM_PARTS + 8
    size = p.conv_weight.element_size()
    return size * (len(triples) * triple + pairs * (2 * dim + middle_columns) + heads * head_columns)


CERTAIN = 1e30  # minus this added to a score: the loss is linear in it, and w is -1


def with_tails_of_their_own(
    model: ModelTensors,
    triples: Tensor,  # [n, 3]
    u: Tensor,  # [n, D]
) -> tuple[ModelTensors, Tensor]:  # [n, 3]
    """The model and samples whose derivative by z is u: of tails -u of their own, which are certainly wrong.

    A loss of the scores of any tails is below z that of such a tail.
    """
    entities, n = len(model.entity), len(u)
    bias = model.bias if len(model.bias) else model.entity.new_zeros(entities)
    own = model._replace(entity=torch.cat([model.entity, -u]), bias=torch.cat([bias, bias.new_full((n,), -CERTAIN)]))
    tails = torch.arange(entities, entities + n)
    return own, torch.stack([triples[:, 0], triples[:, 1], tails], 1)


def keep(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
    u: Tensor | None = None,  # [n, D] derivatives of their losses by z, where those are not softplus(-score)
    forward_only: bool = False,
) -> FactorTensors:
    """The factors of all of them, without products in bfloat16.

    With `u`, w and the norms of tail and bias mean nothing.
    """
    p, (head_columns, middle_columns) = backend.parameters, part_sizes(backend)
    dim, n = p.entity.shape[1], len(triples)
    new = p.conv_weight.new_empty
    tracked: Collection[str] = () if forward_only else p.tracked
    has_S = p.M is not None and not forward_only
    model, halves = backend.for_factors(n)
    if u is not None:
        model, triples = with_tails_of_their_own(model, triples, u)
    fresh = (triples[1:, :2] != triples[:-1, :2]).any(1)
    pair = torch.cat([fresh.new_zeros(min(1, n)), fresh]).cumsum(0)
    first = torch.cat([fresh.new_ones(min(1, n)), fresh])
    _, pair_head = triples[first, 0].unique_consecutive(return_inverse=True)
    pairs, heads = len(pair_head), len(pair_head.unique()) if head_columns else 0
    factors = FactorTensors(
        triples=triples.contiguous(),
        pair=pair.int(),
        pair_head=pair_head.int(),
        w=new(n),
        S=new(n, backend.size_S if has_S else 0),
        c=new(n, dim if "entity" in tracked else 0),
        q=new(n, dim if "relation" in tracked else 0),
        z=new(pairs, dim),
        un=new(pairs, dim),
        signs=torch.empty(pairs, -(-dim // 32), dtype=torch.int32),
        middle_v=new(pairs, middle_columns),
        middle_squares=new(pairs),
        head_v=new(heads, head_columns),
        head_squares=new(heads),
        norms=new(n, NORM_PARTS),
    )
    for start in range(0, n, BLOCK):
        factor_block(
            model,
            backend.sizes,
            backend.form if has_S else FormTensors(new(0), new(0)),
            Tracked(*(False for _ in Tracked._fields)) if forward_only else backend.tracked,
            halves,
            factors,
            start,
            min(BLOCK, n - start),
            backend.S_slack,
        )
    return factors


class Norms(NamedTuple):
    """What bounds need of n triples."""

    norms: Tensor  # [n, NORM_PARTS] of their factors
    signs: Tensor  # [n, ceil(D / 32)] int32, bit d of a row: whether z[d] > 0
    sketches: Tensor  # [n, SKETCH_PARTS + 1] int8 of S, or [0, SKETCH_PARTS + 1]


def norms_of(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3] integer
    order: Tensor,  # [n] theirs by head and relation
    basis: Tensor,  # [size_S, SKETCH_PARTS] float64 of the sketches, or [0, SKETCH_PARTS]: none
    done: Callable[[int], None] = lambda _: None,  # is told of every block
) -> Norms:
    """Of the triples in that order, without factors in memory."""
    n, dim = len(triples), backend.parameters.entity.shape[1]
    found = Norms(
        norms=backend.parameters.conv_weight.new_empty(n, NORM_PARTS),
        signs=torch.empty(n, -(-dim // 32), dtype=torch.int32),
        sketches=torch.empty(n if len(basis) else 0, SKETCH_PARTS + 1, dtype=torch.int8),
    )
    model, halves = backend.for_factors(n)
    for start in range(0, n, BLOCK):
        some = triples.index_select(0, order[start : start + BLOCK]).long()
        norm_block(
            model,
            backend.sizes,
            backend.form,
            backend.tracked,
            halves,
            basis,
            some,
            backend.S_slack,
            *(x[start : start + BLOCK] for x in found),
        )
        done(len(some))
    return found


def kept_blocks(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
) -> Iterator[FactorTensors]:
    """The factors of all of them, BLOCK triples at a time; together they have the rows of `keep`.

    Rows of a pair or a head that the block before has are left out; `pair` and `pair_head` count from the first block.
    """
    pairs = heads = 0
    before = triples.new_full((3,), -1)
    for block in triples.split(BLOCK):
        f = keep(backend, block)
        old_pair, old_head = (int(torch.equal(block[0, :some], before[:some])) for some in (2, 1))
        of_pair, of_head = slice(old_pair, None), slice(old_head, None) if len(f.head_v) else slice(0)
        f = f._replace(
            pair=f.pair + (pairs - old_pair),
            pair_head=f.pair_head[of_pair] + (heads - old_head),
            **{name: getattr(f, name)[of_pair] for name in ("z", "un", "signs", "middle_v", "middle_squares")},
            **{name: getattr(f, name)[of_head] for name in ("head_v", "head_squares")},
        )
        yield f
        pairs, heads = pairs + len(f.z), heads + len(block[:, 0].unique_consecutive()) - old_head
        before = block[-1]


def slack_of(backend: NativeBackend) -> float:
    """More than rounding adds to a bound: sums of at most this many terms are compared."""
    p = backend.parameters
    terms = max(*part_sizes(backend), backend.size_S, p.entity.shape[1])
    return min(0.1, 4 * terms * torch.finfo(p.dtype).eps)


def numbers_of_pair(backends: Sequence[NativeBackend]) -> int:
    """Numbers of a training triple that are read for its score with a test triple, in most cases."""
    p, (_, middle_columns) = backends[0].parameters, part_sizes(backends[0])
    return len(backends) * (3 * p.entity.shape[1] + backends[0].size_S * (p.M is not None) + middle_columns)


class Sides:
    """What pair scores need of each checkpoint beside the factors of training triples."""

    def __init__(self, backends: Sequence[NativeBackend]) -> None:
        self.backends = backends
        self.grams = [backend.relation_v @ backend.relation_v.T for backend in backends]

    def of_tests(
        self,
        tests: Tensor,  # [Q, 3] ordered by head and relation
    ) -> list[FactorTensors]:
        """The tests' factors, of each checkpoint, with M S for S."""
        return self.with_forms([keep(backend, tests) for backend in self.backends])

    def with_forms(
        self,
        factors: Sequence[FactorTensors],  # of tests, of each checkpoint
    ) -> list[FactorTensors]:
        """With M S for S."""
        forms = [backend.parameters.M for backend in self.backends]
        return [x if M is None else x._replace(S=x.S @ M) for x, M in zip(factors, forms, strict=True)]

    def joined(
        self,
        train: Sequence[FactorTensors],  # of each checkpoint
        tests: Sequence[FactorTensors],
    ) -> list[PairTensors]:
        parts = zip(self.backends, self.grams, train, tests, strict=True)
        return [
            PairTensors(
                backend.model.entity,
                backend.model.hidden[4].clone(),
                gram if backend.relation_v.shape[1] else gram.new_empty(0, 0),
                of_train,
                of_tests,
            )
            for backend, gram, of_train, of_tests in parts
        ]

    @cached_property
    def tracked(self) -> list[Tracked]:
        return [backend.tracked for backend in self.backends]


class KeptTriples:
    """Training triples that single pairs are scored with.

    Args:
        backends: of the checkpoints.
        rates: their learning rates.
        triples: [n, 3] training triples.
    """

    alone = 72  # pairs in blocks that take as long as one that is scored alone

    def __init__(self, backends: Sequence[NativeBackend], rates: Sequence[float], triples: Tensor) -> None:
        order = order_by_head_relation(triples)
        factors = [keep(backend, triples[order]) for backend in backends]
        entities, relations = len(backends[0].parameters.entity), backends[0].sizes.relations
        norms = [each.norms for each in factors]
        self._hold(backends, rates, factors, lists_of(factors[0].triples, norms, rates, order, entities, relations))

    @classmethod
    def of(
        cls,
        backends: Sequence[NativeBackend],
        rates: Sequence[float],
        factors: Sequence[FactorTensors],  # of each checkpoint
        lists: ListTensors,
    ) -> KeptTriples:
        """Those whose factors and lists have been computed before."""
        kept = cls.__new__(cls)
        kept._hold(backends, rates, factors, lists)
        return kept

    def _hold(
        self,
        backends: Sequence[NativeBackend],
        rates: Sequence[float],
        factors: Sequence[FactorTensors],
        lists: ListTensors,
    ) -> None:
        self.backends, self.rates, self.factors, self.lists = backends, rates, factors, lists
        self.finite = all(bool(each.norms.isfinite().all()) for each in factors)
        self.sides = Sides(backends)
        self.slack, self.numbers_of_pair = slack_of(backends[0]), numbers_of_pair(backends)

    def __len__(self) -> int:
        return len(self.lists.numbers)

    def serves(self, tests: int) -> bool:
        """Whether so many tests are found as fast as may be."""
        return True

    def pair_tensors(
        self,
        tests: Tensor,  # [Q, 3] ordered by head and relation
    ) -> list[PairTensors]:
        """Both sides, of each checkpoint."""
        return self.sides.joined(self.factors, self.sides.of_tests(tests))

    def top_k(
        self,
        tests: Tensor,  # [Q, 3]
        k: int,
        order: str,
        budget: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # scores [Q, k], indices [Q, k], work [Q, 4] of `bounded_top_k`
        by_head = order_by_head_relation(tests)
        scores = self.factors[0].w.new_empty(len(tests), k)
        indices, work = torch.full((len(tests), k), -1), torch.zeros(len(tests), 4, dtype=torch.int64)
        bounded_top_k(
            self.pair_tensors(tests[by_head]),
            self.sides.tracked,
            torch.tensor(self.rates, dtype=torch.float64),
            self.lists,
            order,
            self.slack,
            budget,
            scores,
            indices,
            work,
        )
        back = by_head.argsort()
        return scores[back], indices[back], work[back]
