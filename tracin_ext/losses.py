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
