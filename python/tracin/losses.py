"""Losses whose per-sample gradients are attributed, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tracin.errors import InputError, quote
from tracin_ext.losses import bce
from tracin_ext.tail_losses import FRAMEWORKS, TAIL_LOSSES, LossOptions

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"bce": bce}  # of the triple's own score
OVER_TAILS = tuple(name for name in TAIL_LOSSES if name not in LOSSES)


def check_loss(name: str) -> str:
    """Raises InputError for an unknown one."""
    if name not in LOSSES and name not in OVER_TAILS:
        raise InputError(f"loss is {name!r}; expected one of {', '.join((*LOSSES, *OVER_TAILS))}", "loss")
    return name


def resolve_loss_options(label_smoothing: Any, margin: Any) -> LossOptions:
    """From a share, or "FRAMEWORK:SHARE"; InputError for what is out of range."""
    framework, colon, share = (
        label_smoothing.rpartition(":") if isinstance(label_smoothing, str) else ("", "", label_smoothing)
    )
    smoothing = _number(share)
    if not 0 <= smoothing < 1 or framework not in (*FRAMEWORKS, *([] if colon else [""])):
        raise InputError(
            f"label_smoothing is {quote(label_smoothing)}; expected a number from 0 to below 1, or one after the name "
            f"of a framework and a colon, as in pykeen:0.1 ({', '.join(FRAMEWORKS)})",
            "label_smoothing",
        )
    if not 0 <= (distance := _number(margin)) < float("inf"):
        raise InputError(f"margin is {quote(margin)}; expected a number from 0 on", "margin")
    return LossOptions(smoothing, framework or FRAMEWORKS[0], distance)


def _number(value: Any) -> float:
    """nan for what is none."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return float("nan")
