"""Gradients at the embeddings alone: of single samples, and of functionals of the model as tables.

A sample (h, r, t) is a row of the relation table with its two entities; its gradient is c at E[h], q at R[r],
w z at E[t], w at b[t]. A functional's may be anywhere, so it is kept whole: then a sample's inner product with it is
three dot products of length D, and any combination of gradients is one functional more.

Sizes: n samples, G distinct (head, relation), Q functionals, N entities, R rows of the relation table, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tracin_ext.backends.factored import FactoredBackend, compute_factors
from tracin_ext.backends.native import NativeBackend
from tracin_ext.grouping import group_triples, order_by_head_relation
from tracin_ext.kept import keep
from tracin_ext.ops import SampleGradients, Tables, has_kernel, table_scores
from tracin_ext.over_tails import Answers, Samples, below, forward, samples_of_loss
from tracin_ext.parameters import ConvEParameters
from tracin_ext.tail_losses import TailLoss

LAYERS = ("entity", "relation", "bias")
CHUNK = 1 << 15  # samples whose factors are computed together; of them only gradients at embeddings are kept
FACTORED_CHUNK = 256  # without the extension
ROWS = 1024  # of a matrix of inner products at a time


Residual = Callable[[Tensor], Tensor]  # scores of all tails [Q, N] -> derivatives of the functionals by them [Q, N]


@dataclass(frozen=True)
class Gradients:
    """Gradients of n samples at the embeddings: what is at their own, and of a loss over all tails what is at others.

    Args:
        own: c at E[h], q at R[r], w z at E[t] and w at b[t].
        others: whose base is at every tail, besides; w is their `at_tail`.
    """

    own: SampleGradients
    others: Samples | None

    def of_rows(
        self,
        rows: Tensor,  # [m] ascending
    ) -> Gradients:
        """Of some of the samples of a loss that is at their own embeddings alone."""
        assert self.others is None
        g, pairs = self.own, torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        triples, c, q = g.triples[rows], *(x[rows] if x.shape[1] else x[: len(rows)] for x in (g.c, g.q))
        by_tail = triples[:, 2].argsort().int()
        return Gradients(SampleGradients(triples, pairs, g.w[rows], g.z[g.pair[rows]], c, q, by_tail), None)

    def fold_rows(
        self,
        weights: Tensor,  # [n, Q]
    ) -> Tensor:  # [M, Q] of the rows of base: the sum of its samples' weights times scale
        assert self.others is not None
        total = weights.new_zeros(len(self.others.pair_of), weights.shape[1])
        return total.index_add_(0, self.others.row, self.others.scale[:, None] * weights)


def sample_gradients(
    backend: NativeBackend | FactoredBackend,
    triples: Tensor,  # [n, 3] ordered by head and relation
    loss: TailLoss | None = None,  # None: softplus(-score)
    known: Answers | None = None,  # what the loss leaves out or counts as true
) -> Gradients:
    """Of the loss of each sample."""
    p, n = backend.parameters, len(triples)
    new, dim = p.conv_weight.new_empty, p.entity.shape[1]
    pair, w = torch.empty(n, dtype=torch.int32, device=p.entity.device), new(n)
    c, q = new(n, dim if "entity" in p.tracked else 0), new(n, dim if "relation" in p.tracked else 0)
    zs = [new(0, dim)]
    by_tail = triples[:, 2].argsort().int()
    start = pairs = 0
    if loss is None:
        for of_pair, *rows, z in _blocks(backend, triples):
            some = slice(start, start + len(of_pair))
            pair[some] = of_pair + pairs
            for whole, part in zip((w, c, q), rows, strict=True):
                whole[some] = part
            zs.append(z)
            start, pairs = some.stop, pairs + len(z)
        return Gradients(SampleGradients(triples.contiguous(), pair, w, torch.cat(zs), c, q, by_tail), None)
    assert known is not None
    chunks = triples.split(CHUNK if isinstance(backend, NativeBackend) else FACTORED_CHUNK)
    for chunk in chunks:
        of_pair, z = forward(backend, chunk)
        pair[start : start + len(chunk)] = of_pair + pairs
        zs.append(z)
        start, pairs = start + len(chunk), pairs + len(z)
    z, table = torch.cat(zs), p.entity.to(p.dtype)
    on_device = triples.to(z.device)
    others, product, _ = samples_of_loss(p, loss, known, on_device, pair.long(), z, table, on_device[:0, 0])
    u = others.of_rows(product, table)
    for some in torch.arange(n, device=z.device).split(len(chunks[0]) if n else 1):
        sides = below(backend, on_device[some], u[some])
        c[some], q[some] = (part if whole.shape[1] else whole[some] for whole, part in ((c, sides.c), (q, sides.q)))
    own = SampleGradients(triples.contiguous(), pair, others.at_tail, z, c, q, by_tail)
    return Gradients(own, others if loss.dense else None)


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
    gradients: Gradients,
    tables: Tables,
) -> Tensor:  # [n, Q]
    """Inner products of the samples' gradients with the functionals'."""
    g = gradients.own
    if has_kernel("table_scores", g.w.device.type):
        scores = g.w.new_empty(len(g.w), count_of(tables))
        table_scores(g, tables, scores)
    else:
        parts = own_terms(g, tables)
        scores = parts["head"] + parts["relation"] + parts["tail"]
    return scores if gradients.others is None else scores.add_(through_others(gradients.others, tables))


def through_others(
    samples: Samples,
    tables: Tables,
) -> Tensor:  # [n, Q]
    """What the base of a loss over all tails adds, at the entities and their biases."""
    count = count_of(tables)
    total = samples.z.new_zeros(len(samples.pair_of), count)
    for some, base, _ in samples.bases():
        if tables.entity.numel():
            at_z = (base @ tables.entity.flatten(1)).view(len(base), count, -1)
            total[some] += torch.bmm(at_z, samples.z[samples.pair_of[some], :, None])[:, :, 0]
        if tables.bias.numel():
            total[some] += base @ tables.bias
    return samples.scale[:, None] * total[samples.row]


def count_of(tables: Tables) -> int:
    """Q"""
    return max(table.shape[1] for table in tables if table.dim() > 1)


def term_scores(
    gradients: Gradients,
    tables: Tables,
) -> dict[str, Tensor]:  # each [n, Q]
    """The same by the sample's embedding through which it acts: of its head, its relation, its tail (and its bias).

    What a loss over all tails does at the others counts as the tail's.
    """
    terms = own_terms(gradients.own, tables)
    if gradients.others is not None:
        terms["tail"] = terms["tail"] + through_others(gradients.others, tables)
    return terms


def own_terms(
    g: SampleGradients,
    tables: Tables,
) -> dict[str, Tensor]:  # each [n, Q]
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
    gradients: Gradients,
    tracked: frozenset[str],
) -> Tensor:  # [n, n] float64
    """Inner products of the samples' gradients with one another, summed in the gradients' own type."""
    g = gradients.own
    heads, relations, _ = g.triples.to(g.w.device).unbind(1)
    at_tails = _gram_at_tails(gradients, tracked)
    rows = []
    for part in torch.arange(len(heads), device=heads.device).split(ROWS):
        total = at_tails(part)
        if "entity" in tracked:
            total += (heads[part, None] == heads) * (g.c[part] @ g.c.T)
        if "relation" in tracked:
            total += (relations[part, None] == relations) * (g.q[part] @ g.q.T)
        rows.append(total.double())
    return torch.cat(rows) if rows else g.w.new_zeros(0, 0).double()


def _gram_at_tails(
    gradients: Gradients,
    tracked: frozenset[str],
) -> Callable[[Tensor], Tensor]:  # rows [m] -> [m, n]
    """Where at least one of two samples acts as a tail."""
    g = gradients.own
    heads, _, tails = g.triples.to(g.w.device).unbind(1)
    z, entity, bias = g.z[g.pair], "entity" in tracked, float("bias" in tracked)
    rho = None if gradients.others is None else gradients.others.rho()

    def of_own(part: Tensor) -> Tensor:
        total = torch.outer(g.w[part], g.w) * (tails[part, None] == tails)
        total *= z[part] @ z.T + bias if entity else bias
        if entity:
            total += g.w * (heads[part, None] == tails) * (g.c[part] @ z.T)
            total += g.w[part, None] * (tails[part, None] == heads) * (z[part] @ g.c.T)
        return total

    def of_all(part: Tensor) -> Tensor:
        assert rho is not None
        total = rho[part] @ rho.T
        total *= z[part] @ z.T + bias if entity else bias
        if entity:
            total += rho[:, heads[part]].T * (g.c[part] @ z.T)
            total += rho[part][:, heads] * (z[part] @ g.c.T)
        return total

    return of_own if rho is None else of_all


class Damping:
    """The inverse of the damped empirical Fisher matrix of a sample S, applied to functionals.

        g  ->  g - G_S (K(S, S) + mu I)^-1 G_S^T g  =  mu (F + mu I)^-1 g,     F = G_S G_S^T,  K(S, S) = G_S^T G_S

    Args:
        gradients: of S.
        tracked: layers that count.
        ridge: mu over the mean of K(S, S)'s diagonal.
    """

    def __init__(self, gradients: Gradients, tracked: frozenset[str], ridge: float) -> None:
        self.gradients, g = gradients, gradients.own
        heads, relations, tails = g.triples.to(g.w.device).unbind(1)
        self.at_entities = self.at_biases = self.at_relations = None
        if "entity" in tracked:
            self.at_entities = Sources(torch.cat([heads, tails]), torch.cat([g.c, g.w[:, None] * g.z[g.pair]]))
        if "bias" in tracked:
            self.at_biases = Sources(tails, g.w[:, None])
        if "relation" in tracked:
            self.at_relations = Sources(relations, g.q)
        inner = gram(gradients, tracked)
        self.mu = ridge * float(inner.diagonal().mean()) if len(g.w) else 0.0
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
        if self.gradients.others is not None:
            self._add_others(tables, weights)

    def _add_others(
        self,
        tables: Tables,  # changed
        weights: Tensor,  # [m, Q]
    ) -> None:
        samples, of_rows = self.gradients.others, self.gradients.fold_rows(weights)
        assert samples is not None
        for some, base, _ in samples.bases():
            if self.at_entities is not None:
                z = samples.z[samples.pair_of[some]]
                tables.entity.flatten(1).addmm_(base.T, (of_rows[some, :, None] * z[:, None]).flatten(1))
            if self.at_biases is not None:
                tables.bias.addmm_(base.T, of_rows[some])
