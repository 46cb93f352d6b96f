"""Losses whose per-sample gradients are attributed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tracin.errors import InputError
from tracin_ext.losses import bce

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"bce": bce}


def loss_named(name: str) -> Callable[[Tensor], Tensor]:
    """Raises InputError for a name that is not in LOSSES."""
    if name not in LOSSES:
        raise InputError(f"loss is {name!r}; expected one of {', '.join(LOSSES)}")
    return LOSSES[name]
