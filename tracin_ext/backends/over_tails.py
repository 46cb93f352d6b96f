"""Influences of losses of the scores of all tails: on the native and the factored backend, and by autograd.

Sizes: B training triples, Q test triples, N entities, R relations, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tracin_ext.backends.factored import FactoredBackend, features, hidden, image
from tracin_ext.backends.native import NativeBackend
from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.grouping import group_triples, order_by_head_relation
from tracin_ext.losses import Loss
from tracin_ext.over_tails import ROW_BYTES, Answers, Below, Samples, below, forward, samples_of_loss, scores_of_tails
from tracin_ext.tail_losses import TailLoss

CHUNK = 8192  # triples whose factors are computed together by the extension
FACTORED_CHUNK = 256  # without it
ROWS = 1024  # triples whose whole rho are held at a time


@dataclass(frozen=True)
class Tests:
    """The test side: gradients of a functional of the scores of all tails."""

    below: Below
    rho: Tensor  # [Q, N]


class LossModule(nn.Module):
    """Maps triples [B, 3] to losses [B] of the scores of all tails."""

    def __init__(self, model: Any, loss: TailLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.known: Answers | None = None

    def forward(
        self,
        triples: Tensor,  # [B, 3]
    ) -> Tensor:  # [B]
        assert self.known is not None
        heads, relations, tails = triples.unbind(1)
        scores: Tensor = self.model.score_tails(heads, relations)
        known = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, tails[:, None], True)
        known[self.known.lookup(heads.cpu(), relations.cpu())] = True
        return self.loss.loss(scores, tails, known)


class SequentialOverTails(SequentialBackend):
    """One autograd backward per triple."""

    model: LossModule

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, loss: TailLoss, again: bool
    ) -> None:
        names = tuple(f"model.{layer}" for layer in layers)
        super().__init__(LossModule(model, loss), names, dtype, device, lambda losses: losses, again)
        self.known_to_tests: Answers | None = None

    def learn(self, known: Answers, known_to_tests: Answers) -> None:
        self.model.known, self.known_to_tests = known, known_to_tests

    def test_factors(self, triples: Tensor) -> Tensor:  # [Q, 3] -> [Q, values]
        known, self.model.known = self.model.known, self.known_to_tests
        try:
            return super().test_factors(triples)
        finally:
            self.model.known = known


class TailBackend:
    """Influences of losses of the scores of all tails, on the native or the factored backend of the model.

    Args:
        backend: of the model, for the loss bce.
        loss: of training and test triples.
    """

    losses: tuple[Loss, ...] | None = ()

    def __init__(self, backend: NativeBackend | FactoredBackend, loss: TailLoss) -> None:
        self.backend, self.loss = backend, loss
        self.parameters = p = backend.parameters
        self.name, self.label, self.block_device = backend.name, backend.label, backend.block_device
        self.native = isinstance(backend, NativeBackend)
        size = p.conv_weight.element_size()
        self.test_bytes = backend.test_bytes + len(p.entity) * 2 * size
        self.triple_bytes = (4 * p.features + 12 * p.entity.shape[1]) * size + backend.triple_bytes
        self.fixed_bytes = backend.fixed_bytes + 4 * ROW_BYTES + 2 * p.entity.numel() * size
        self.known: Answers | None = None
        self.known_to_tests: Answers | None = None

    def learn(self, known: Answers, known_to_tests: Answers) -> None:
        """The true answers: of training triples' losses, and of test triples'."""
        self.known, self.known_to_tests = known, known_to_tests

    def test_factors(
        self,
        triples: Tensor,  # [Q, 3]
    ) -> Tests:
        order = order_by_head_relation(triples)
        ordered = triples[order]
        rho, u = self._of_tests(ordered)
        sides = below(self.backend, ordered, u)
        p = self.parameters
        if p.M is not None:
            plain = 2 * p.entity.shape[1]
            linear = torch.cat([sides.linear[:, :plain], sides.linear[:, plain:] @ p.M], 1)
            sides = sides._replace(linear=linear)
        back = order.argsort()
        own = {
            name: value[back] if len(value) == len(order) else value
            for name, value in sides._asdict().items()
            if isinstance(value, Tensor) and name != "relation_v"
        }
        v = tuple((rows, place[back]) for rows, place in sides.v)
        return Tests(sides._replace(**own, v=v), rho[back])

    def _of_tests(
        self,
        triples: Tensor,  # [Q, 3] ordered by head and relation
    ) -> tuple[Tensor, Tensor]:  # rho [Q, N], u [Q, D]
        """In float64: u is a difference of what many tails say, in which float32's scores leave too little."""
        p, own = self.parameters, self.backend
        assert self.known_to_tests is not None
        exact = own.wide if isinstance(own, NativeBackend) else own.exact
        wide, table = p, p.entity.double()
        if exact is not None:
            bias = None if exact.bias is None else exact.bias.double()
            wide = replace(exact, entity=table, fc_weight=exact.fc_weight.double(), bias=bias)
        parts = [(p.entity.new_empty(0, len(table)), p.entity.new_empty(0, table.shape[1]))]
        for some in triples.split(FACTORED_CHUNK):
            grouped = group_triples(some)
            _, pre = hidden(wide, grouped, features(wide, image(wide, grouped)))
            scores = scores_of_tails(wide, pre.relu())[grouped.group]
            heads, relations, tails = some.cpu().unbind(1)
            rows, known = self.known_to_tests.lookup(heads, relations)
            place = scores.device
            rho = self.loss.derivative(scores, tails.to(place), (rows.to(place), known.to(place)))
            parts.append((rho.to(p.dtype), (rho @ table).to(p.dtype)))
        rhos, us = zip(*parts, strict=True)
        return torch.cat(rhos), torch.cat(us)

    def _of_training(
        self,
        triples: Tensor,  # [B, 3] ordered by head and relation
        matrix: Tensor,  # [N, K]
        columns: Tensor,  # [Q]
    ) -> tuple[Samples, Below, Tensor, Tensor]:  # rho matrix [B, K], rho [B, Q] at the columns
        assert self.known is not None
        pair, z = forward(self.backend, triples)
        table = self.parameters.entity.to(z.dtype)
        right = torch.cat([table, matrix], 1)
        samples, product, at = samples_of_loss(self.parameters, self.loss, self.known, triples, pair, z, right, columns)
        through = samples.of_rows(product, right)
        u, of_matrix = through.split([table.shape[1], matrix.shape[1]], 1)
        return samples, below(self.backend, triples, u.contiguous()), of_matrix, samples.at(at, columns)

    @property
    def chunk(self) -> int:
        return CHUNK if self.native else FACTORED_CHUNK

    def scores(
        self,
        test: Tests,
        triples: Tensor,  # [B, 3]
        rate: float,
    ) -> Tensor:  # [Q, B]
        order = order_by_head_relation(triples)
        ordered = triples[order]
        scores = test.rho.new_empty(len(test.rho), len(triples))
        for place, some in zip(order.split(self.chunk), ordered.split(self.chunk), strict=True):
            scores[:, place] = rate * self._block(test, some)
        return scores

    def _block(
        self,
        test: Tests,
        triples: Tensor,  # [B, 3] ordered by head and relation
    ) -> Tensor:  # [Q, B]
        p, a = self.parameters, test.below
        tracked = p.tracked
        samples, b, crossed, at = self._of_training(triples, test.rho.T, a.heads)
        total = a.linear @ b.linear.T
        if "fc" in tracked:
            total += (a.delta @ b.delta.T).mul_(gram(a, b).add_(float("fc.bias" in tracked)))
        if "relation" in tracked:
            total += (a.relations[:, None] == b.relations) * (a.q @ b.q.T)
        if "bias" in tracked:
            total += crossed.T
        if "entity" in tracked:
            total += (a.z @ b.z.T).mul_(crossed.T)
            total += (a.c @ b.z.T).mul_(at.T)
            total += (a.z @ b.c.T).mul_(test.rho[:, b.heads])
            total += (a.heads[:, None] == b.heads) * (a.c @ b.c.T)
        return total

    def self_influence(
        self,
        triples: Tensor,  # [B, 3]
        rate: float,
    ) -> Tensor:  # [B]
        order = order_by_head_relation(triples)
        squares = torch.cat([self._squares(triples[some]) for some in order.split(self.chunk)])
        return rate * squares[order.argsort()]

    def _squares(
        self,
        triples: Tensor,  # [B, 3] ordered by head and relation
    ) -> Tensor:  # [B]
        p = self.parameters
        tracked, plain = p.tracked, 2 * p.entity.shape[1]
        nothing = p.conv_weight.new_empty(len(p.entity), 0)
        samples, b, _, _ = self._of_training(triples, nothing, triples[:0, 0])
        S = b.linear[:, plain:]
        total = squares(b.linear[:, :plain])
        if p.M is not None:
            total += ((S @ p.M) * S).sum(1)
        if "fc" in tracked:
            total += squares(b.delta) * (own_gram(b) + float("fc.bias" in tracked))
        if "relation" in tracked:
            total += squares(b.q)
        if not {"entity", "bias"} & tracked:
            return total
        for some in torch.arange(len(triples), device=total.device).split(ROWS):
            rho = samples.rho(some)
            length = squares(rho)
            if "bias" in tracked:
                total[some] += length
            if "entity" in tracked:
                c, z, at_head = b.c[some], b.z[some], rho.gather(1, b.heads[some, None])[:, 0]
                total[some] += length * squares(z) + squares(c) + 2 * at_head * (c * z).sum(1)
        return total

    def free_buffers(self) -> None:
        self.backend.free_buffers()


def squares(
    x: Tensor,  # [n, K]
) -> Tensor:  # [n]
    return torch.einsum("nk,nk->n", x, x)


def gram(a: Below, b: Below) -> Tensor:  # [Q, B] v . v'
    total = a.delta.new_zeros(len(a.delta), len(b.delta))
    for (tests, of_test), (rows, of_row) in zip(a.v, b.v, strict=True):
        total += (tests @ rows.T)[of_test][:, of_row]
    if b.relation_v is not None:
        relations, of_row = b.relations.unique(return_inverse=True)
        total += (b.relation_v[a.relations] @ b.relation_v[relations].T)[:, of_row]
    return total


def own_gram(b: Below) -> Tensor:  # [B] |v|^2
    total = sum((squares(rows)[of_row] for rows, of_row in b.v), start=b.delta.new_zeros(len(b.delta)))
    return total if b.relation_v is None else total + squares(b.relation_v)[b.relations]
