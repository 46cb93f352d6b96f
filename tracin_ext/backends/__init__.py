"""Five backends with the same methods; `create` is the one place that chooses."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from tracin_ext.backends.compiled import CompiledBackend
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend, reason_against
from tracin_ext.backends.sequential import Loss, SequentialBackend
from tracin_ext.backends.vectorized import VectorizedBackend

NAMES = ("native", "compiled", "factored", "vectorized", "sequential")


class Backend(Protocol):
    """Scores blocks of triples for one checkpoint.

    `test_bytes` and `triple_bytes` are what one test triple, one training triple of a block take in memory,
    `fixed_bytes` what is taken whatever their number;
    `label` says what runs, `block_device` where blocks of training triples are to lie. Scores come multiplied by
    `rate`, in memory that the next call may use again.
    """

    name: str
    label: str
    test_bytes: int
    triple_bytes: int
    fixed_bytes: int
    block_device: torch.device

    def test_factors(self, triples: Tensor) -> Any: ...  # [Q, 3]

    def scores(self, test: Any, triples: Tensor, rate: float) -> Tensor: ...  # test_factors, [B, 3] -> [Q, B]

    def self_influence(self, triples: Tensor, rate: float) -> Tensor: ...  # [B, 3] -> [B]


def automatic(device: torch.device) -> tuple[str, str | None]:
    """The backend that "auto" takes on a device, and why it is not native if it is not."""
    reason = reason_against(device)
    return ("factored", reason) if reason else ("native", None)


def create(
    name: str,
    model: Any,
    layers: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
    loss: Loss,
    mixed: bool = False,
) -> Backend:
    """A backend by name; raises RuntimeError with the reason if it cannot run here."""
    if name == "sequential":
        return SequentialBackend(model, layers, dtype, device, loss)
    if name == "vectorized":
        return VectorizedBackend(model, layers, dtype, device, loss)
    if name == "native":
        return NativeBackend(model, layers, dtype, device, mixed)
    factored: dict[str, type[Any]] = {"compiled": CompiledBackend, "factored": FactoredBackend}
    return factored[name](model, layers, dtype, device)
