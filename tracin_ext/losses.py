"""The losses whose gradients are attributed: of the scores, and what the factored form needs, their derivative."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor], Tensor]  # scores [B] -> losses [B]


def bce(
    scores: Tensor,  # [B]
) -> Tensor:  # [B]
    """Binary cross-entropy of a true triple: softplus(-score).

    By logsigmoid: torch's softplus is the identity from 20 on, and its derivative 1, which is 2e-9 off.
    """
    return -functional.logsigmoid(scores)


def bce_by_score(
    scores: Tensor,  # [B]
) -> Tensor:  # [B]
    """w, the derivative of `bce` by the score; csrc/kernels.h has it for the native extension."""
    return -torch.sigmoid(-scores)


# What is asked of a model: a functional of the scores of all tails of (head, relation), as a loss, so that a training
# sample with a positive inner product speaks for the answer. Each gives its derivative by the scores.
Query = Callable[[Tensor, Tensor, tuple[Tensor, Tensor], int | None], Tensor]


def _at(
    scores: Tensor,  # [Q, N]
    tails: Tensor,  # [Q]
    values: Tensor,  # [Q]
) -> Tensor:  # [Q, N]
    return torch.zeros_like(scores).scatter_(1, tails[:, None], values[:, None])


def bce_query(
    scores: Tensor,  # [Q, N]
    tails: Tensor,  # [Q]
    known: tuple[Tensor, Tensor],
    other: int | None,
) -> Tensor:  # [Q, N]
    """Of softplus(-score of the tail): why is its score high?"""
    return _at(scores, tails, bce_by_score(scores.gather(1, tails[:, None])[:, 0]))


def score_query(
    scores: Tensor,  # [Q, N]
    tails: Tensor,  # [Q]
    known: tuple[Tensor, Tensor],
    other: int | None,
) -> Tensor:  # [Q, N]
    """Of -(score of the tail)."""
    return _at(scores, tails, -torch.ones_like(scores[:, 0]))


def ce_query(
    scores: Tensor,  # [Q, N]
    tails: Tensor,  # [Q]
    known: tuple[Tensor, Tensor],  # rows and tails [n] of other true answers, which are left out
    other: int | None,
) -> Tensor:  # [Q, N]
    """Of the softmax cross-entropy over all tails that are not known to be true: why does it rank there?"""
    masked = scores.index_put(known, scores.new_tensor(-torch.inf))
    masked = masked.scatter(1, tails[:, None], scores.gather(1, tails[:, None]))
    return masked.softmax(1) - _at(scores, tails, torch.ones_like(scores[:, 0]))


def against_query(
    scores: Tensor,  # [Q, N]
    tails: Tensor,  # [Q]
    known: tuple[Tensor, Tensor],
    other: int | None,  # the tail that might have come before
) -> Tensor:  # [Q, N]
    """Of -(score of the tail - score of another): why this and not that?"""
    assert other is not None
    gradient = score_query(scores, tails, known, None)
    gradient[:, other] += 1
    return gradient


QUERIES: dict[str, Query] = {"bce": bce_query, "ce": ce_query, "score": score_query, "against": against_query}
