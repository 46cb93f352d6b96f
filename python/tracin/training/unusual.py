"""Losses that stand out: set against what is usual for their relation; and how many are too many."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEW = 20  # triples of a relation: so many weigh as much as all of the others together
NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
FAR_OUT = 4.0  # deviations below the median, as far above: what more lies above than below is taken for wrong


def usual(
    losses: Tensor,  # [n]
    relations: Tensor,  # [n]
) -> tuple[Tensor, Tensor]:  # [n], [n]
    """The median loss of each triple's relation, and its spread (median absolute deviation).

    Those of a relation with few triples are drawn towards those of all.
    """
    middle = torch.empty_like(losses)
    spread = torch.empty_like(losses)
    whole = losses.median()
    whole_spread = (losses - whole).abs().median()
    for relation in relations.unique().tolist():
        rows = (relations == relation).nonzero()[:, 0]
        own = losses[rows]
        median = own.median()
        weight = len(rows) / (len(rows) + FEW)
        middle[rows] = weight * median + (1 - weight) * whole
        spread[rows] = weight * (own - median).abs().median() + (1 - weight) * whole_spread
    return middle, spread


def unusual(
    losses: Tensor,  # [n]
    relations: Tensor,  # [n]
) -> Tensor:  # [n]
    """How many spreads a loss lies above the median of its relation."""
    middle, spread = usual(losses, relations)
    least = 1e-6 * float(losses.abs().max()) + 1e-12  # where all losses of a relation are one
    return (losses - middle) / (NORMAL * spread).clamp_min(least)


def estimated_wrong(
    losses: Tensor,  # [n]
) -> int:
    """About how many triples are wrong: scores far below the median that have no counterpart as far above it.

    The scores of right triples are taken to lie about their median as much above it as below. Deviations are those
    above, which wrong triples do not widen. What is right and hard counts as well, and what is wrong and well learned
    does not.
    """
    scores: NDArray[np.float64] = _scores(losses.double().numpy())
    if len(scores) < 2:
        return 0
    middle = np.median(scores)
    deviation = np.quantile(scores, 0.8413) - middle  # one standard deviation of a normal distribution
    far = FAR_OUT * deviation
    return max(0, int((scores < middle - far).sum() - (scores > middle + far).sum()))


def _scores(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of losses: softplus turned round, without overflow where a loss is large or next to nothing."""
    small = np.maximum(losses, 1e-300)
    return -(small + np.log(-np.expm1(-small)))
