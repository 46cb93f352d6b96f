"""Losses of a sample (h, r, t) that depend on the scores of all N tails: the loss, and its derivative by the scores.

The derivative rho [N] of most of them is what all samples of (h, r) share, times a number, plus a number at the tail:

    rho = scale * base + at_tail * [j = t]

so that products with rho cost once per distinct (head, relation) what they would cost per sample.

Sizes: B samples, M rows of base (one for each (head, relation), or for each sample), N entities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tracin_ext.losses import bce, bce_by_score

Known = tuple[Tensor, Tensor]  # rows and tails [k], in any order, of each row's known answers, its own tail among them


@dataclass(frozen=True)
class TailLoss(ABC):
    """One loss; subclasses say which."""

    name: ClassVar[str]
    by_sample: ClassVar[bool] = False  # whether base differs between the samples of (h, r)
    dense: ClassVar[bool] = True  # whether there is a base: else rho is at the tail alone

    @abstractmethod
    def loss(
        self,
        scores: Tensor,  # [B, N]
        tails: Tensor,  # [B]
        known: Tensor,  # [B, N] bool, the own tails among them
    ) -> Tensor:  # [B]
        """By its plain definition."""

    @abstractmethod
    def base(
        self,
        scores: Tensor,  # [M, N], may be changed
        known: Known,
        own: Tensor,  # [M] score of the sample's tail, where base differs between samples
    ) -> tuple[Tensor, Tensor]:  # base [M, N]; two numbers of each row [M, 2] for `weights`
        """What the samples of a row share of rho."""

    @abstractmethod
    def weights(
        self,
        told: Tensor,  # [B, 2] the two numbers of each sample's row
        own: Tensor,  # [B] score of its tail
    ) -> tuple[Tensor, Tensor]:  # scale [B], at_tail [B]
        """What is each sample's own."""

    def derivative(
        self,
        scores: Tensor,  # [Q, N], may be changed
        tails: Tensor,  # [Q]
        known: Known,
    ) -> Tensor:  # [Q, N]
        """rho."""
        own = own_scores(scores, tails)
        each = torch.arange(len(tails), device=tails.device)
        base, told = self.base(scores, (torch.cat([known[0], each]), torch.cat([known[1], tails])), own)
        scale, at_tail = self.weights(told, own)
        return base.mul_(scale[:, None]).scatter_add_(1, tails[:, None], at_tail[:, None])


def own_scores(
    scores: Tensor,  # [B, N]
    tails: Tensor,  # [B]
) -> Tensor:  # [B]
    return scores.gather(1, tails[:, None])[:, 0]


def nothing_told(scores: Tensor) -> Tensor:  # [M, N] -> [M, 2]
    return scores.new_zeros(len(scores), 2)


class AtTail(TailLoss):
    """Those of the tail's own score."""

    dense = False

    def base(self, scores: Tensor, known: Known, own: Tensor) -> tuple[Tensor, Tensor]:
        return scores.zero_(), nothing_told(scores)


class Bce(AtTail):
    """softplus(-score)."""

    name = "bce"

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        return bce(own_scores(scores, tails))

    def weights(self, told: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(own), bce_by_score(own)


class Score(AtTail):
    """-score."""

    name = "score"

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        return -own_scores(scores, tails)

    def weights(self, told: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(own), -torch.ones_like(own)


@dataclass(frozen=True)
class Against(Score):
    """-(score of the tail - score of another): why this and not that?"""

    name = "against"
    other: int = 0

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        return scores[:, self.other] - own_scores(scores, tails)

    def derivative(self, scores: Tensor, tails: Tensor, known: Known) -> Tensor:
        rho = super().derivative(scores, tails, known)
        rho[:, self.other] += 1
        return rho


class CrossEntropy(TailLoss):
    """Softmax cross-entropy over the tail and all tails that are not known to be true."""

    name = "ce"

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        own = own_scores(scores, tails)
        left = scores.masked_fill(known, -torch.inf).scatter(1, tails[:, None], own[:, None])
        return left.logsumexp(1) - own

    def base(self, scores: Tensor, known: Known, own: Tensor) -> tuple[Tensor, Tensor]:
        """exp(score - greatest) of unknown tails; the greatest, and the logarithm of their sum."""
        scores[known] = -torch.inf
        greatest = scores.amax(1)
        greatest = greatest.where(greatest.isfinite(), 0)  # where every tail is known
        base = scores.sub_(greatest[:, None]).exp_()
        return base, torch.stack([greatest, base.sum(1).log()], 1)

    def weights(self, told: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """1 / sum, and p - 1 as minus the share of the others, which is exact where p is nearly 1."""
        greatest, others = told.unbind(1)
        total = torch.logaddexp(others, own - greatest)
        return (-total).exp(), -(others - total).exp()


@dataclass(frozen=True)
class Targets:
    """What label smoothing makes of 1 and 0."""

    true: float = 1.0
    other: float = 0.0

    @classmethod
    def smoothed(cls, smoothing: float, num_entities: int, framework: str = "tracin") -> Targets:
        """epsilon as "tracin" (the ConvE paper), "pykeen" or "libkge" (the ConvE program) understand it.

        tracin: (1 - epsilon) y + epsilon / N;   pykeen: 1 - epsilon and epsilon / (N - 1);
        libkge: (1 - epsilon) y + 1 / N
        """
        if not smoothing:
            return cls()
        if framework == "pykeen":
            return cls(1 - smoothing, smoothing / max(1, num_entities - 1))
        other = (1.0 if framework == "libkge" else smoothing) / num_entities
        return cls(1 - smoothing + other, other)


FRAMEWORKS = ("tracin", "pykeen", "libkge")


@dataclass(frozen=True)
class BinaryOverTails(TailLoss):
    """The sum of the binary cross-entropies of all tails."""

    targets: Targets = Targets()

    def of_labels(
        self,
        scores: Tensor,  # [B, N]
        true: Tensor,  # [B, N] bool
    ) -> Tensor:  # [B]
        labels = scores.new_full((), self.targets.other).expand_as(scores).masked_fill(true, self.targets.true)
        return functional.binary_cross_entropy_with_logits(scores, labels, reduction="none").sum(1)


class OneTrueTail(BinaryOverTails):
    """Of the tail with label 1 and all others with 0, whether or not they are known to be true (1-vs-all)."""

    name = "bce-1n"

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        return self.of_labels(scores, torch.zeros_like(known).scatter(1, tails[:, None], True))

    def base(self, scores: Tensor, known: Known, own: Tensor) -> tuple[Tensor, Tensor]:
        return scores.sigmoid_().sub_(self.targets.other), nothing_told(scores)

    def weights(self, told: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(own), torch.full_like(own, self.targets.other - self.targets.true)


class AllTrueTails(BinaryOverTails):
    """Of all known tails with label 1 and all others with 0: the row of (h, r), which its triples share (KvsAll)."""

    name = "kvsall"

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        return self.of_labels(scores, known)

    def base(self, scores: Tensor, known: Known, own: Tensor) -> tuple[Tensor, Tensor]:
        of_true = (1 - self.targets.true) - (-scores[known]).sigmoid()  # exact where the sigmoid is nearly 1
        base = scores.sigmoid_().sub_(self.targets.other)
        base[known] = of_true
        return base, nothing_told(scores)

    def weights(self, told: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(own), torch.zeros_like(own)


@dataclass(frozen=True)
class Margin(TailLoss):
    """Mean of max(0, margin + score of j - score of the tail) over the tails j that are not known to be true.

    What pairwise training with sampled, filtered negatives (sLCWA) expects of a triple.
    """

    name = "margin"
    by_sample = True
    margin: float = 1.0

    def loss(self, scores: Tensor, tails: Tensor, known: Tensor) -> Tensor:
        above = (self.margin + scores - own_scores(scores, tails)[:, None]).clamp(min=0).masked_fill(known, 0)
        return above.sum(1) / (~known).sum(1).clamp(min=1)

    def base(self, scores: Tensor, known: Known, own: Tensor) -> tuple[Tensor, Tensor]:
        """1 where the margin is violated; how many, and of how many."""
        violated = scores + self.margin > own[:, None]
        scores.fill_(1)[known] = 0
        others = scores.sum(1)
        base = scores.mul_(violated)
        return base, torch.stack([base.sum(1), others], 1)

    def weights(self, told: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        violated, others = told.unbind(1)
        return 1 / others.clamp(min=1), -violated / others.clamp(min=1)


TAIL_LOSSES: dict[str, type[TailLoss]] = {
    kind.name: kind for kind in (Bce, CrossEntropy, OneTrueTail, AllTrueTails, Margin, Score)
}


@dataclass(frozen=True)
class LossOptions:
    """What the losses of some names need beside the scores.

    Args:
        label_smoothing: epsilon of "bce-1n" and "kvsall".
        framework: one of FRAMEWORKS, whose label smoothing it is.
        margin: of "margin".
    """

    label_smoothing: float = 0.0
    framework: str = "tracin"
    margin: float = 1.0

    def loss(self, name: str, num_entities: int) -> TailLoss:
        """One of TAIL_LOSSES."""
        kind = TAIL_LOSSES[name]
        if issubclass(kind, BinaryOverTails):
            return kind(Targets.smoothed(self.label_smoothing, num_entities, self.framework))
        return kind(self.margin) if issubclass(kind, Margin) else kind()
