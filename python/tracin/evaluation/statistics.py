"""Rank correlations, areas under curves, precisions, and their bootstrap intervals; ties count half, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class Estimate:
    """A value and its bootstrap interval, from the quantiles of what was drawn."""

    value: float
    low: float
    high: float

    @classmethod
    def of(
        cls,
        value: float,
        drawn: Tensor,  # [B]
    ) -> Estimate:
        low, high = torch.quantile(drawn, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=drawn.dtype)).tolist()
        return cls(value, low, high)

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def counts(
    size: int,
    generator: torch.Generator,
) -> Tensor:  # [size] float64
    """How often each of `size` things is drawn in `size` draws."""
    return torch.randint(size, (size,), generator=generator).bincount(minlength=size).double()


def draws(
    sizes: tuple[int, ...],
    number: int,
    seed: int,
) -> Iterator[tuple[Tensor, ...]]:
    """`number` bootstrap samples of several independent sets, as counts of float64; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        yield tuple(counts(size, generator) for size in sizes)


@dataclass(frozen=True)
class Ranked:
    """Rows of values, each value by its place among the distinct values of its row.

    Args:
        places: [q, s] int64, from 0.
    """

    places: Tensor

    @classmethod
    def of(
        cls,
        values: Tensor,  # [q, s]
    ) -> Ranked:
        ascending, order = values.sort(dim=1)
        steps = torch.zeros_like(order)
        steps[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
        return cls(torch.empty_like(order).scatter_(1, order, steps.cumsum(1)))

    def centred(
        self,
        weights: Tensor,  # [s] float64
    ) -> Tensor:  # [q, s] float64
        """Mean ranks where column j stands `weights[j]` times, minus their mean."""
        mass = torch.zeros(self.places.shape, dtype=torch.float64)
        mass.scatter_add_(1, self.places, weights.expand(self.places.shape))
        ranks = (mass.cumsum(1) - mass / 2).gather(1, self.places)
        return ranks - weights.sum() / 2


def correlation(
    x: Tensor,  # [q, s] float64, weighted mean 0
    y: Tensor,  # [q, s] float64, likewise
    weights: Tensor,  # [s] float64
) -> Tensor:  # [q] float64
    """Weighted correlation of each row; 0 where a row is constant: it says nothing of the other."""
    product = (weights * x * y).sum(1)
    size = ((weights * x * x).sum(1) * (weights * y * y).sum(1)).sqrt()
    return torch.where(size > 0, product / size.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def spearman(
    x: Tensor,  # [q, s]
    y: Tensor,  # [q, s]
) -> Tensor:  # [q] float64
    """Spearman's rank correlation of each row of x with that of y; 0 where one of them is constant.

    Example:
        >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 4.0, 9.0]]))
        tensor([1.], dtype=torch.float64)
    """
    weights = torch.ones(x.shape[1], dtype=torch.float64)
    return correlation(Ranked.of(x).centred(weights), Ranked.of(y).centred(weights), weights)


def auc(
    scores: Tensor,  # [n]
    positive: Tensor,  # [n] bool
) -> float:
    """How often a positive one scores above a negative one, drawn at random: the area under the ROC curve.

    Example:
        >>> auc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, False]))
        1.0
    """
    return area(Ranked.of(scores[None]), positive, torch.ones(len(scores), dtype=torch.float64))


def area(
    ranked: Ranked,  # one row, [1, n]
    positive: Tensor,  # [n] bool
    weights: Tensor,  # [n] float64
) -> float:
    """The same where row j stands `weights[j]` times."""
    places = ranked.places[0]
    positives, negatives = (torch.bincount(places, weights * some) for some in (positive, ~positive))
    below = negatives.cumsum(0) - negatives / 2
    return float((positives @ below) / (positives.sum() * negatives.sum()))


def precision_at(
    scores: Tensor,  # [n]
    positive: Tensor,  # [n] bool
    k: int,
) -> float:
    """Share of positives among the k highest scores; where equal scores compete for the last places, its mean.

    Example:
        >>> precision_at(torch.tensor([2.0, 2.0, 1.0]), torch.tensor([True, False, False]), k=1)
        0.5
    """
    k = min(k, len(scores))
    last = scores.sort(descending=True).values[k - 1]
    above, at = scores > last, scores == last
    rest = (k - above.sum()) * positive[at].double().mean()
    return float((positive[above].sum() + rest) / k)
