"""The baseline and, in float64, the reference of all tests: one autograd backward per triple."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor], Tensor]  # scores [B] -> losses [B]


def tracked_parameters(model: nn.Module, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters of the chosen layers: the first word of a parameter's name is its layer."""
    return {name: value for name, value in model.named_parameters() if name.split(".")[0] in layers}


class SequentialBackend:
    """Works with any module that maps triples [B, 3] to scores [B]."""

    name = "sequential"
    label = "one autograd backward per triple"

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, loss: Loss
    ) -> None:
        self.model = copy.deepcopy(model).to(device, dtype).eval().requires_grad_(False)
        self.loss = loss
        self.tracked = list(tracked_parameters(self.model, layers).values())
        for parameter in self.tracked:
            parameter.requires_grad_(True)
        self.block_device = device
        self.test_bytes = sum(p.numel() * p.element_size() for p in self.tracked)
        self.triple_bytes = self.test_bytes
        self.fixed_bytes = self.test_bytes

    def gradient(
        self,
        triple: Tensor,  # [3]
    ) -> Tensor:  # [parameters]
        with torch.enable_grad():
            loss = self.loss(self.model(triple[None])).sum()
            gradients = torch.autograd.grad(loss, self.tracked, allow_unused=True)
        return torch.cat([
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(self.tracked, gradients, strict=True)
        ])  # fmt: skip

    def test_factors(self, triples: Tensor) -> Tensor:  # [Q, 3] -> [Q, parameters]
        return torch.stack([self.gradient(triple) for triple in triples])

    def scores(self, test: Tensor, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        return rate * torch.stack([test @ self.gradient(triple) for triple in triples], 1)

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        return rate * torch.stack([self.gradient(triple).square().sum() for triple in triples])
