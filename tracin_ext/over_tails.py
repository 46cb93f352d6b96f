"""Samples whose loss depends on the scores of all N tails: their factors, and inner products of their gradients.

A sample's gradient at z is u = sum_j rho_j E[j], and below z everything is as for a single tail. At the entity table it
is rho_j z in every row j, and c in the head's; at the biases rho. So of two samples a and b these layers add

    (rho_a . rho_b) (z_a . z_b + 1) + rho_a[h_b] z_a . c_b + rho_b[h_a] c_a . z_b + [h_a = h_b] c_a . c_b

FLOPs over all tails: 4 N D for each distinct (head, relation) of the training triples (scores and u), and 2 N for each
of them and each test triple.

Sizes: n samples, G distinct (head, relation), M rows of base (tail_losses.py), Q test triples, N entities, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tracin_ext.backends.factored import FactoredBackend, compute_factors
from tracin_ext.backends.native import NativeBackend
from tracin_ext.grouping import group_triples
from tracin_ext.kept import keep
from tracin_ext.parameters import ConvEParameters
from tracin_ext.tail_losses import TailLoss

ROW_BYTES = 4 << 20  # of scores of all tails at a time, which stay in the cache


class Answers(Protocol):
    """Known tails of (head, relation)."""

    def lookup(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor]: ...


def scores_of_tails(
    p: ConvEParameters,
    z: Tensor,  # [m, D]
) -> Tensor:  # [m, N]
    table = p.entity.to(z.dtype)
    return z @ table.T if p.bias is None else torch.addmm(p.bias.to(z.dtype), z, table.T)


@dataclass(frozen=True)
class Samples:
    """n samples of a loss: rho of sample i is scale[i] * base[row[i]] + at_tail[i] * [j = its tail]."""

    p: ConvEParameters
    loss: TailLoss
    known: Answers
    triples: Tensor  # [n, 3]
    pair: Tensor  # [n] row of z
    z: Tensor  # [G, D]
    row: Tensor  # [n] row of base
    pair_of: Tensor  # [M] row of z
    first: Tensor  # [M] a sample of the row
    own: Tensor  # [n] score of the tail
    scale: Tensor  # [n]
    at_tail: Tensor  # [n]

    def bases(
        self,
        rows: Tensor | None = None,  # [m] of base; None: all
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:  # which of `rows`, base [., N], its numbers for `weights` [., 2]
        """A few rows at a time, each computed anew."""
        p = self.p
        chosen = torch.arange(len(self.pair_of), device=self.z.device) if rows is None else rows
        size = max(1, ROW_BYTES // (len(p.entity) * p.conv_weight.element_size()))
        for start in range(0, len(chosen), size):
            some = chosen[start : start + size]
            z, first = self.z[self.pair_of[some]], self.first[some]
            scores = scores_of_tails(p, z)
            heads, relations, _ = self.triples[first].cpu().unbind(1)
            rows_known, tails_known = self.known.lookup(heads, relations)
            known = (
                torch.cat([rows_known.to(z.device), torch.arange(len(some), device=z.device)]),
                torch.cat([tails_known.to(z.device), self.triples[first, 2]]),
            )
            base, told = self.loss.base(scores, known, self.own[first])
            yield slice(start, start + len(some)), base, told

    def times(
        self,
        matrix: Tensor,  # [N, K]
        columns: Tensor,  # [Q] entities
    ) -> tuple[Tensor, Tensor, Tensor]:  # base matrix [M, K], base [M, Q] at the columns, numbers [M, 2]
        new = self.z.new_zeros
        product, at = new(len(self.pair_of), matrix.shape[1]), new(len(self.pair_of), len(columns))
        told = new(len(self.pair_of), 2)
        if not self.loss.dense:
            return product, at, told
        for some, base, numbers in self.bases():
            torch.mm(base, matrix, out=product[some])
            torch.index_select(base, 1, columns, out=at[some])
            told[some] = numbers
        return product, at, told

    def of_rows(
        self,
        product: Tensor,  # [M, K] base times a matrix
        matrix: Tensor,  # [N, K]
    ) -> Tensor:  # [n, K] rho times the matrix
        return self.scale[:, None] * product[self.row] + self.at_tail[:, None] * matrix[self.triples[:, 2]]

    def at(
        self,
        base: Tensor,  # [M, Q] at the columns
        columns: Tensor,  # [Q]
    ) -> Tensor:  # [n, Q] rho there
        return self.scale[:, None] * base[self.row] + self.at_tail[:, None] * (self.triples[:, 2, None] == columns)

    def rho(
        self,
        some: Tensor | None = None,  # [m] of the samples; None: all
    ) -> Tensor:  # [m, N]
        some = torch.arange(len(self.triples), device=self.z.device) if some is None else some
        rows, place = self.row[some].unique(return_inverse=True)
        base = self.z.new_zeros(len(rows), len(self.p.entity))
        if self.loss.dense:
            for part, own, _ in self.bases(rows):
                base[part] = own
        rho = self.scale[some, None] * base[place]
        return rho.scatter_add_(1, self.triples[some, 2:], self.at_tail[some, None])


def samples_of_loss(
    p: ConvEParameters,
    loss: TailLoss,
    known: Answers,  # among whose triples the samples are
    triples: Tensor,  # [n, 3] ordered by head and relation
    pair: Tensor,  # [n]
    z: Tensor,  # [G, D]
    matrix: Tensor,  # [N, K]
    columns: Tensor,  # [Q]
) -> tuple[Samples, Tensor, Tensor]:  # base matrix [M, K], base [M, Q] at the columns
    """One pass over the scores of all tails."""
    n, device = len(triples), z.device
    tails = triples[:, 2]
    own = torch.einsum("nd,nd->n", z[pair], p.entity[tails].to(z.dtype))
    if p.bias is not None:
        own = own + p.bias[tails]
    row = torch.arange(n, device=device) if loss.by_sample else pair
    fresh = torch.cat([row.new_ones(min(1, n)), row.diff()]).bool()
    first = fresh.nonzero()[:, 0]
    nothing = own.new_empty(0)
    bare = Samples(p, loss, known, triples, pair, z, row, pair[first], first, own, nothing, nothing)
    product, at, told = bare.times(matrix, columns)
    scale, at_tail = loss.weights(told[row], own)
    fields = {name: getattr(bare, name) for name in ("p", "loss", "known", "triples", "pair", "z", "row", "pair_of")}
    return Samples(**fields, first=first, own=own, scale=scale, at_tail=at_tail), product, at


class Below(NamedTuple):
    """What samples' gradients below z are made of, and c at the head's embedding."""

    heads: Tensor  # [n]
    relations: Tensor  # [n]
    linear: Tensor  # [n, 2 D + size_S] or [n, 2 D] e, e un, S, zero where not tracked; of tests M S
    delta: Tensor  # [n, D]
    c: Tensor  # [n, D] or empty
    q: Tensor  # [n, D] or empty
    z: Tensor  # [n, D]
    v: tuple[tuple[Tensor, Tensor], ...]  # of each part of the image its v by row, and the samples' rows [n]
    relation_v: Tensor | None  # [R, .] v of the relation's half


def below(
    backend: NativeBackend | FactoredBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
    u: Tensor,  # [n, D] dloss/dz
) -> Below:
    p = backend.parameters
    tracked, scale = p.tracked, p.hidden_gamma * p.hidden_rstd
    weights = [float("bn2.bias" in tracked), float("bn2.weight" in tracked)]
    if isinstance(backend, FactoredBackend):
        grouped = group_triples(triples)
        g = compute_factors(p, grouped, backend.exact, lambda p, z, tails: (z.new_zeros(len(z)), u))
        linear = torch.cat([weights[0] * g.e, weights[1] * g.e_un, g.S], 1)
        return Below(g.heads, g.relations, linear, g.delta, g.c, g.q, g.z, ((g.v, g.group),), None)
    f = keep(backend, triples, u)
    pair = f.pair.long()
    z, e = f.z[pair], u * (f.z[pair] > 0)
    v = [(f.middle_v, pair)] if f.middle_v.shape[1] else []
    if len(f.head_v):
        v.append((f.head_v, f.pair_head.long()[pair]))
    return Below(
        triples[:, 0],
        triples[:, 1],
        torch.cat([weights[0] * e, weights[1] * e * f.un[pair], f.S], 1),
        e * scale,
        f.c,
        f.q,
        z,
        tuple(v),
        backend.relation_v if backend.relation_v.shape[1] else None,
    )


def forward(
    backend: NativeBackend | FactoredBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
) -> tuple[Tensor, Tensor]:  # pair [n], z [G, D]
    """The hidden layer of the distinct (head, relation)."""
    grouped = group_triples(triples)
    pairs = torch.stack([grouped.heads, grouped.relations, grouped.heads], 1)
    if isinstance(backend, NativeBackend):
        return grouped.group, keep(backend, pairs, forward_only=True).z

    def nothing(p: ConvEParameters, z: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        return z.new_zeros(len(z)), torch.zeros_like(z)

    return grouped.group, compute_factors(backend.parameters, group_triples(pairs), backend.exact, nothing).z
