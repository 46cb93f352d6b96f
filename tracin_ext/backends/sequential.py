"""The baseline and, in float64, the reference of all tests: one autograd backward per triple."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tracin_ext.losses import Loss

STRETCH = 1 << 16  # values of an inner product in one float32 sum; over two million such a sum is 1e-4 off


def tracked_parameters(model: nn.Module, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters of the chosen layers: whole words at the beginning of a parameter's name are its layer."""
    starts = tuple(f"{layer}." for layer in layers)
    return {name: value for name, value in model.named_parameters() if f"{name}.".startswith(starts)}


def copied(model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy in eval mode without requires_grad; complex values in the complex type of dtype's width."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_complex():
            tensor.data = tensor.data.to(device, dtype.to_complex())
        else:
            tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else None)
    return model


def flat(
    gradient: Tensor,  # [..., any]
    dims: int = 0,  # how many to keep
) -> Tensor:  # [..., values]
    """One real number a value, two for complex ones: so that inner products are those of real gradients."""
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient).flatten(dims)


def size_of(parameters: Iterable[Tensor]) -> int:
    """Bytes of a gradient."""
    return sum(p.numel() * p.element_size() for p in parameters)


def inner_products(
    a: Tensor,  # [m, values]
    b: Tensor,  # [n, values]
) -> Tensor:  # [m, n]
    """a b^T; the sums over stretches of the values add up in float64."""
    total = a.new_zeros(len(a), len(b), dtype=torch.float64)
    for part, other in zip(a.split(STRETCH, 1), b.split(STRETCH, 1), strict=True):
        total += part @ other.T
    return total.to(a.dtype)


class SequentialBackend:
    """Works with any module that maps triples [B, 3] to scores [B]."""

    name = "sequential"
    label = "one autograd backward per triple"
    losses: tuple[Loss, ...] | None = None  # any

    def __init__(
        self,
        model: Any,
        layers: tuple[str, ...],
        dtype: torch.dtype,
        device: torch.device,
        loss: Loss,
        recompute_activations: bool = False,
    ) -> None:
        self.model = copied(model, dtype, device)
        self.loss = loss
        self.recompute_activations = recompute_activations
        self.tracked = tracked_parameters(self.model, layers)
        for parameter in self.tracked.values():
            parameter.requires_grad_(True)
        self.block_device = device
        self.test_bytes = size_of(self.tracked.values())
        self.triple_bytes = self.test_bytes
        self.fixed_bytes = self.test_bytes

    def gradients(
        self,
        triple: Tensor,  # [3]
        loss: Loss | None = None,  # another than the backend's
    ) -> dict[str, Tensor]:
        """Of every tracked parameter, by its name."""
        with torch.enable_grad():
            if self.recompute_activations:
                scores = checkpoint(self.model, triple[None], use_reentrant=False, preserve_rng_state=False)
            else:
                scores = self.model(triple[None])
            value = (loss or self.loss)(scores).sum()
            gradients = torch.autograd.grad(value, list(self.tracked.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(self.tracked.items(), gradients, strict=True)
        }

    def gradient(
        self,
        triple: Tensor,  # [3]
    ) -> Tensor:  # [values]
        return torch.cat([flat(g) for g in self.gradients(triple).values()])

    def test_factors(self, triples: Tensor) -> Tensor:  # [Q, 3] -> [Q, values]
        return torch.stack([self.gradient(triple) for triple in triples])

    def scores(self, test: Tensor, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        return rate * torch.cat([inner_products(test, self.gradient(triple)[None]) for triple in triples], 1)

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        return rate * torch.stack([self.gradient(triple).square().sum() for triple in triples])

    def free_buffers(self) -> None:
        """There are none between calls."""
