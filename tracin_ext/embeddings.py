"""Gradients at the embeddings alone: of single samples, and of functionals of the model as tables.

A sample (h, r, t) is a row of the relation table with its two entities; its gradient is c at E[h], q at R[r],
w z at E[t], w at b[t]. A functional's may be anywhere, so it is kept whole: then a sample's inner product with it is
three dot products of length D, and any combination of gradients is one functional more.

Sizes: n samples, G distinct (head, relation), Q functionals, N entities, R rows of the relation table, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from tracin_ext.backends.factored import FactoredBackend, compute_factors
from tracin_ext.backends.native import NativeBackend
from tracin_ext.grouping import group_triples, order_by_head_relation
from tracin_ext.kept import keep
from tracin_ext.ops import SampleGradients, Tables, has_kernel, table_scores
from tracin_ext.parameters import ConvEParameters

LAYERS = ("entity", "relation", "bias")
CHUNK = 1 << 15  # samples whose factors are computed together; of them only gradients at embeddings are kept
FACTORED_CHUNK = 256  # without the extension
ROWS = 1024  # of a matrix of inner products at a time


Residual = Callable[[Tensor], Tensor]  # scores of all tails [Q, N] -> derivatives of the functionals by them [Q, N]


def sample_gradients(
    backend: NativeBackend | FactoredBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
) -> SampleGradients:
    """Of the loss softplus(-score) of each sample."""
    p, n = backend.parameters, len(triples)
    new, dim = p.conv_weight.new_empty, p.entity.shape[1]
    pair, w = torch.empty(n, dtype=torch.int32, device=p.entity.device), new(n)
    c, q = new(n, dim if "entity" in p.tracked else 0), new(n, dim if "relation" in p.tracked else 0)
    zs = [new(0, dim)]
    start = pairs = 0
    for of_pair, *rows, z in _blocks(backend, triples):
        some = slice(start, start + len(of_pair))
        pair[some] = of_pair + pairs
        for whole, part in zip((w, c, q), rows, strict=True):
            whole[some] = part
        zs.append(z)
        start, pairs = some.stop, pairs + len(z)
    return SampleGradients(triples.contiguous(), pair, w, torch.cat(zs), c, q, triples[:, 2].argsort().int())


def _blocks(
    backend: NativeBackend | FactoredBackend,
    triples: Tensor,  # [n, 3]
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """pair, w, c, q, z of SampleGradients, a few samples at a time."""
    for chunk in triples.split(CHUNK if isinstance(backend, NativeBackend) else FACTORED_CHUNK):
        if isinstance(backend, NativeBackend):
            kept = keep(backend, chunk)
            yield kept.pair, kept.w, kept.c, kept.q, kept.z
        else:
            f = backend.factors(chunk)
            first = torch.cat([f.group.new_ones(min(1, len(chunk))), f.group.diff()]).bool()
            tracked, nothing = backend.parameters.tracked, f.c.new_empty(len(chunk), 0)
            c, q = f.c if "entity" in tracked else nothing, f.q if "relation" in tracked else nothing
            yield f.group.int(), f.w, c, q, f.z[first]


def functional_tables(
    p: ConvEParameters,  # relation_step 1
    wide: ConvEParameters | None,  # the same in float64, where p is not
    triples: Tensor,  # [Q, 3]
    residual: Residual,
) -> Tables:
    """Gradients of functionals of the scores of all tails of (head, relation), one for each triple."""
    device = p.entity.device
    order = order_by_head_relation(triples)
    back = order.argsort().to(device)
    rho = p.conv_weight.new_empty(0)

    def gradient(p: ConvEParameters, z: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal rho
        scores = z @ p.entity.T
        rho = residual((scores if p.bias is None else scores + p.bias)[back])
        ordered = rho[order.to(device)]
        return ordered.gather(1, tails[:, None])[:, 0], ordered @ p.entity

    f = compute_factors(p, group_triples(triples[order].to(device)), wide, gradient)
    heads, relations, queries = f.heads[back], f.relations[back], torch.arange(len(triples), device=device)
    entity, bias, relation = p.conv_weight.new_empty(0), p.conv_weight.new_empty(0), p.conv_weight.new_empty(0)
    if "entity" in p.tracked:
        entity = torch.mul(rho.T.contiguous()[:, :, None], f.z[back])
        entity[heads, queries] += f.c[back]
    if "bias" in p.tracked:
        bias = rho.T.contiguous()
    if "relation" in p.tracked:
        relation = f.q.new_zeros(len(p.relation), len(triples), f.q.shape[1])
        relation[relations, queries] = f.q[back]
    return Tables(entity, bias, relation)


class Sources:
    """Gradients by the row of a table where they lie, so that combinations of them can be added to it.

    Args:
        rows: [m] of the table, in any order, any of them several times.
        gradients: [m, D].
    """

    def __init__(self, rows: Tensor, gradients: Tensor) -> None:
        self.order = rows.argsort()
        self.rows, counts = rows[self.order].unique_consecutive(return_counts=True)
        self.starts = counts.cumsum(0) - counts
        self.gradients = gradients

    def add(
        self,
        table: Tensor,  # [rows, Q, D], changed
        weights: Tensor,  # [m, Q]
    ) -> None:
        # embedding_bag sums rows as fast as memory is read; index_add_ takes ten times as long.
        weighted = (weights[:, :, None] * self.gradients[:, None]).flatten(1)
        sums = functional.embedding_bag(self.order, weighted, self.starts, mode="sum")
        table[self.rows] += sums.view(-1, *table.shape[1:])


def scores_of(
    g: SampleGradients,
    tables: Tables,
) -> Tensor:  # [n, Q]
    """Inner products of the samples' gradients with the functionals'."""
    if has_kernel("table_scores", g.w.device.type):
        scores = g.w.new_empty(len(g.w), count_of(tables))
        table_scores(g, tables, scores)
        return scores
    parts = term_scores(g, tables)
    return parts["head"] + parts["relation"] + parts["tail"]


def count_of(tables: Tables) -> int:
    """Q"""
    return max(table.shape[1] for table in tables if table.dim() > 1)


def term_scores(
    g: SampleGradients,
    tables: Tables,
) -> dict[str, Tensor]:  # each [n, Q]
    """The same by the sample's embedding through which it acts: of its head, its relation, its tail (and its bias)."""
    heads, relations, tails = g.triples.to(g.w.device).unbind(1)
    zero = g.w.new_zeros(len(g.w), count_of(tables))

    def through(table: Tensor, rows: Tensor, gradients: Tensor) -> Tensor:  # [n, Q]
        parts = [
            torch.bmm(table[some], of_some[:, :, None])[:, :, 0]
            for some, of_some in zip(rows.split(ROWS), gradients.split(ROWS), strict=True)
        ]
        return torch.cat(parts) if parts else zero

    head, relation, tail = zero, zero, zero
    if tables.entity.numel():
        head = through(tables.entity, heads, g.c)
        tail = through(tables.entity, tails, g.w[:, None] * g.z[g.pair])
    if tables.bias.numel():
        tail = tail + g.w[:, None] * tables.bias[tails]
    if tables.relation.numel():
        relation = through(tables.relation, relations, g.q)
    return {"head": head, "relation": relation, "tail": tail}


def gram(
    g: SampleGradients,
    tracked: frozenset[str],
) -> Tensor:  # [n, n] float64
    """Inner products of the samples' gradients with one another, summed in the gradients' own type."""
    heads, relations, tails = g.triples.to(g.w.device).unbind(1)
    wz = g.w[:, None] * g.z[g.pair]
    rows = []
    for part in torch.arange(len(heads), device=heads.device).split(ROWS):
        total = g.w.new_zeros(len(part), len(heads))
        if "entity" in tracked:
            total += (heads[part, None] == heads) * (g.c[part] @ g.c.T)
            total += (tails[part, None] == tails) * (wz[part] @ wz.T)
            total += (heads[part, None] == tails) * (g.c[part] @ wz.T)
            total += (tails[part, None] == heads) * (wz[part] @ g.c.T)
        if "bias" in tracked:
            total += (tails[part, None] == tails) * torch.outer(g.w[part], g.w)
        if "relation" in tracked:
            total += (relations[part, None] == relations) * (g.q[part] @ g.q.T)
        rows.append(total.double())
    return torch.cat(rows) if rows else g.w.new_zeros(0, 0).double()


class Damping:
    """The inverse of the damped empirical Fisher matrix of a sample S, applied to functionals.

        g  ->  g - G_S (K(S, S) + mu I)^-1 G_S^T g  =  mu (F + mu I)^-1 g,     F = G_S G_S^T,  K(S, S) = G_S^T G_S

    Args:
        backend: of the model.
        samples: [m, 3], ordered by head and relation.
        ridge: mu over the mean of K(S, S)'s diagonal.
    """

    def __init__(self, backend: NativeBackend | FactoredBackend, samples: Tensor, ridge: float) -> None:
        g = self.gradients = sample_gradients(backend, samples)
        tracked = backend.parameters.tracked
        heads, relations, tails = samples.to(g.w.device).unbind(1)
        self.at_entities = self.at_biases = self.at_relations = None
        if "entity" in tracked:
            self.at_entities = Sources(torch.cat([heads, tails]), torch.cat([g.c, g.w[:, None] * g.z[g.pair]]))
        if "bias" in tracked:
            self.at_biases = Sources(tails, g.w[:, None])
        if "relation" in tracked:
            self.at_relations = Sources(relations, g.q)
        inner = gram(g, tracked)
        self.mu = ridge * float(inner.diagonal().mean()) if len(samples) else 0.0
        inner.diagonal().add_(self.mu)
        self.root = torch.linalg.cholesky(inner).to(g.w.dtype) if self.mu > 0 else None  # 0: every gradient is zero

    def apply(
        self,
        tables: Tables,  # changed
    ) -> None:
        if self.root is None:
            return
        weights = -torch.cholesky_solve(scores_of(self.gradients, tables), self.root)  # [m, Q]
        if self.at_entities is not None:
            self.at_entities.add(tables.entity, torch.cat([weights, weights]))
        if self.at_biases is not None:
            self.at_biases.add(tables.bias[:, :, None], weights)
        if self.at_relations is not None:
            self.at_relations.add(tables.relation, weights)
