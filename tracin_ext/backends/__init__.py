"""Five backends with the same methods; this file is the one place that chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tracin_ext.backends import native
from tracin_ext.backends.compiled import CompiledBackend
from tracin_ext.backends.factored import FactoredBackend
from tracin_ext.backends.native import NativeBackend
from tracin_ext.backends.native_cuda import NativeCudaBackend
from tracin_ext.backends.sequential import SequentialBackend
from tracin_ext.backends.trial import failure
from tracin_ext.backends.vectorized import VectorizedBackend
from tracin_ext.losses import Loss
from tracin_ext.parameters import has_factored_form, lacks_weight

CLASSES: dict[str, type[Any]] = {
    backend.name: backend
    for backend in (NativeBackend, CompiledBackend, FactoredBackend, VectorizedBackend, SequentialBackend)
}
NAMES = tuple(CLASSES)
AUTO = ("native", "factored", "vectorized", "sequential")  # the fastest first


class Backend(Protocol):
    """Scores blocks of triples for one checkpoint.

    `test_bytes` and `triple_bytes` are what one test triple, one training triple of a block take in memory,
    `fixed_bytes` what is taken whatever their number;
    `label` says what runs, `losses` of which losses it has the gradients (None: of any), `block_device` where blocks of
    training triples are to lie. Scores come multiplied by `rate`, in memory that the next call may use again.
    """

    name: str
    label: str
    losses: tuple[Loss, ...] | None
    test_bytes: int
    triple_bytes: int
    fixed_bytes: int
    block_device: torch.device

    def test_factors(self, triples: Tensor) -> Any: ...  # [Q, 3]

    def scores(self, test: Any, triples: Tensor, rate: float) -> Tensor: ...  # test_factors, [B, 3] -> [Q, B]

    def self_influence(self, triples: Tensor, rate: float) -> Tensor: ...  # [B, 3] -> [B]

    def free_buffers(self) -> None: ...  # memory kept from call to call


@dataclass(frozen=True)
class Job:
    """What backends differ in being able to do."""

    model: Any
    layers: tuple[str, ...]  # or names of parameters, where not all of a layer's count
    dtype: torch.dtype
    loss: Loss


def against_loss(name: str, loss: Loss) -> str | None:
    """Why a backend cannot attribute a loss, and which can; None if it can."""

    def has(backend: type[Any]) -> bool:
        return backend.losses is None or loss in backend.losses

    if has(CLASSES[name]):
        return None
    able = " or ".join(other for other, backend in CLASSES.items() if has(backend))
    known = ", ".join(each.__name__ for each in CLASSES[name].losses)
    asked = getattr(loss, "__name__", repr(loss))
    return f"it has no gradients of the loss {asked}, only of {known}; take the {able} backend"


def reason_against(name: str, device: torch.device, job: Job | None) -> str | None:
    """Why a backend cannot do a job (None: any of a ConvE) on a device; None if it can."""
    if job is not None and not has_factored_form(job.model):
        if name not in ("vectorized", "sequential"):
            return "this model is not a ConvE"
        return failure(name, job.model, job.layers, job.dtype, device, job.loss)
    if job is not None and name not in ("vectorized", "sequential") and lacks_weight(job.layers):
        return "fc.weight is frozen and fc.bias is not, whose gradients alone only backends that build them have"
    if job is not None and (reason := against_loss(name, job.loss)):
        return reason
    return native.reason_against(device) if name == "native" else None


def choose(asked: str, device: torch.device, job: Job | None = None) -> tuple[str | None, dict[str, list[str]]]:
    """The backend asked for, of "auto" the fastest; None if it cannot run; and those that cannot, by their reason."""
    against: dict[str, list[str]] = {}
    for name in AUTO if asked == "auto" else (asked,):
        reason = reason_against(name, device, job)
        if reason is None:
            return name, against
        against.setdefault(reason, []).append(name)
    return None, against


def create(
    name: str,
    model: Any,
    layers: tuple[str, ...],
    dtype: torch.dtype,
    device: torch.device,
    loss: Loss,
    mixed: bool = False,
    recompute_activations: bool = False,
) -> Backend:
    """A backend by name; raises RuntimeError with the reason if it cannot run here, or not with this loss."""
    if reason := against_loss(name, loss):
        raise RuntimeError(f"the {name} backend cannot run here: {reason}")
    if name == "sequential":
        return SequentialBackend(model, layers, dtype, device, loss, recompute_activations)
    if name == "vectorized":
        return VectorizedBackend(model, layers, dtype, device, loss)
    kind = NativeCudaBackend if name == "native" and device.type == "cuda" else CLASSES[name]
    backend: Backend = kind(model, layers, dtype, device, mixed)
    return backend
