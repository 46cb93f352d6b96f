"""Influences of losses that depend on the scores of all tails: which backends have them, and what they need to know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.model import ConvE
from tracin.triples.known_tails import KnownTails
from tracin_ext.backends import Backend
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.backends.over_tails import SequentialOverTails, TailBackend
from tracin_ext.tail_losses import TailLoss

BACKENDS = ("native", "factored", "sequential")


def backend_over_tails(asked: str, model: Any, loss: str, device: torch.device) -> str:
    """The backend to look for; InputError where none has the loss."""
    if not isinstance(model, ConvE):
        raise InputError(
            f"loss {loss!r} needs the scores of all tails, which only a ConvE is known to give; this model is a "
            f"{type(model).__name__}: take loss 'bce'",
            "loss",
        )
    able = BACKENDS if device.type == "cpu" else BACKENDS[1:]
    if asked == "auto":
        return "auto" if device.type == "cpu" else "factored"
    if asked not in able:
        raise InputError(
            f"backend {asked!r} on {device.type} has no gradients of the loss {loss!r}; take {' or '.join(able)}",
            "backend",
        )
    return asked


def over_tails(backend: Backend, loss: TailLoss) -> Backend:
    """The same, of another loss."""
    assert isinstance(backend, NativeBackend | FactoredBackend)
    return TailBackend(backend, loss)


def teach(
    backends: Iterable[Backend],
    model: Any,
    train: Tensor,  # [n, 3]
    also_true: Tensor,  # [m, 3]
) -> None:
    """Tells backends of such losses what is true: the training triples, and for test triples what else is."""
    learners = [each for each in backends if isinstance(each, TailBackend | SequentialOverTails)]
    if learners:
        sizes = model.num_entities, model.num_relations
        known = KnownTails.of(train, *sizes)
        to_tests = known if not len(also_true) else KnownTails.of(torch.cat([train, also_true]), *sizes)
        for each in learners:
            each.learn(known, to_tests)
