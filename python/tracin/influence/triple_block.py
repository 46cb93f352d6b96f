"""The gradients of training triples at the embeddings: each the sum of its samples', and their norms.

Sizes: n training triples, s samples of each, Q questions, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tracin_ext.embeddings import Gradients
from tracin_ext.over_tails import Samples

RHO_BYTES = 64 << 20  # of derivatives by the scores of all tails, while norms are computed
NORM_ROWS = 1 << 16  # triples whose norms are computed together; with few, PyTorch's threads mostly meet


def dots(
    a: Tensor,  # [n, D]
    b: Tensor,  # [n, D]
) -> Tensor:  # [n]
    return torch.einsum("nd,nd->n", a, b)


@dataclass(frozen=True)
class TripleBlock:
    """The gradients of n training triples."""

    gradients: Gradients  # of s n samples
    place: Tensor  # [s, n] row of each triple's samples
    tracked: frozenset[str]
    stored_norms: Tensor | None = None  # [n]

    def fold(
        self,
        scores: Tensor,  # [s n, Q] of the samples
    ) -> Tensor:  # [Q, n]
        total = scores[self.place[0]]
        for rows in self.place[1:]:
            total += scores[rows]
        return total.T

    @cached_property
    def norms(self) -> Tensor:  # [n] of the triples' gradients
        if self.stored_norms is not None:
            return self.stored_norms
        if self.gradients.others is not None:
            return self._norms_over_tails(self.gradients.others)
        squares = self._sample_squares()
        parts = [squares[rows].sum(0) + self._crossed(rows) for rows in self.place.split(NORM_ROWS, 1)]
        return torch.cat(parts).clamp(min=0).sqrt() if parts else self.gradients.own.w.new_zeros(0)

    def _norms_over_tails(
        self,
        others: Samples,
    ) -> Tensor:  # [n]
        """Where the loss is over all tails: a triple's samples meet in every row of the tables."""
        g, tracked = self.gradients.own, self.tracked
        bias = float("bias" in tracked)
        total = g.w.new_zeros(self.place.shape[1])
        size = max(1, RHO_BYTES // (len(others.p.entity) * g.w.element_size()))
        for some in torch.arange(len(total), device=total.device).split(size):
            rows = self.place[:, some]
            rho = [others.rho(row) for row in rows]
            heads = [others.triples[row, 0] for row in rows]
            for i, one in enumerate(rows):
                for j, other in enumerate(rows):
                    z = [g.z[g.pair[one]], g.z[g.pair[other]]]
                    if "entity" in tracked:
                        total[some] += dots(rho[i], rho[j]) * (dots(*z) + bias)
                        total[some] += 2 * rho[j].gather(1, heads[i][:, None])[:, 0] * dots(g.c[one], z[1])
                        total[some] += (heads[i] == heads[j]) * dots(g.c[one], g.c[other])
                    elif bias:
                        total[some] += dots(rho[i], rho[j])
                    if "relation" in tracked:
                        same = others.triples[one, 1] == others.triples[other, 1]
                        total[some] += same * dots(g.q[one], g.q[other])
        return total.clamp(min=0).sqrt()

    def _sample_squares(self) -> Tensor:  # [s n]
        """Squared norms at the parts of the embeddings, whether or not two of them are one row."""
        g = self.gradients.own
        total = torch.zeros_like(g.w)
        if "entity" in self.tracked:
            total += dots(g.c, g.c) + g.w.square() * dots(g.z, g.z)[g.pair]
        if "bias" in self.tracked:
            total += g.w.square()
        if "relation" in self.tracked:
            total += dots(g.q, g.q)
        return total

    def _crossed(
        self,
        rows: Tensor,  # [s, m]
    ) -> Tensor:  # [m]
        """What two samples, or the two ends of a loop, add by being at the same rows."""
        g = self.gradients.own
        total = g.w.new_zeros(rows.shape[1])
        loops = g.triples[rows[0], 0] == g.triples[rows[0], 2]
        if "entity" in self.tracked:
            for one, other in zip(rows[:-1], rows[1:], strict=True):  # one pair, if any
                total += 2 * g.w[other] * dots(g.c[one], g.z[g.pair[other]])
                total += 2 * g.w[one] * dots(g.c[other], g.z[g.pair[one]])
            if loops.any():
                head, tail = (sum(parts) for parts in zip(*self._at_ends(rows[:, loops]), strict=True))
                total[loops] += 2 * dots(head, tail)
        if "bias" in self.tracked and len(rows) == 2:
            total += 2 * loops * g.w[rows[0]] * g.w[rows[1]]
        return total

    def _at_ends(
        self,
        rows: Tensor,  # [s, m]
    ) -> Iterator[tuple[Tensor, Tensor]]:  # each [m, D]
        """Each sample's gradients at the triples' heads and tails."""
        g = self.gradients.own
        for number, row in enumerate(rows):
            ends = g.c[row], g.w[row, None] * g.z[g.pair[row]]
            yield ends if number == 0 else ends[::-1]
