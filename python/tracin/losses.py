"""Losses whose per-sample gradients are attributed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from tracin.errors import InputError


def bce(
    scores: Tensor,  # [B]
) -> Tensor:  # [B]
    """Binary cross-entropy of a true triple: softplus(-score)."""
    return functional.softplus(-scores)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"bce": bce}


def loss_named(name: str) -> Callable[[Tensor], Tensor]:
    """Raises InputError for a name that is not in LOSSES."""
    if name not in LOSSES:
        raise InputError(f"loss is {name!r}; expected one of {', '.join(LOSSES)}")
    return LOSSES[name]
