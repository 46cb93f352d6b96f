"""Per-sample gradients by torch.func: vmap(grad), dense, a few triples at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from tracin_ext.backends.sequential import copied, flat, inner_products, size_of, tracked_parameters
from tracin_ext.losses import Loss

CHUNK_BYTES = 512 << 20  # dense gradients held at a time


class VectorizedBackend:
    """Works with any module that maps triples [B, 3] to scores [B] and that vmap can follow."""

    name = "vectorized"
    label = "torch.func vmap(grad), dense gradients"
    losses: tuple[Loss, ...] | None = None  # any

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, loss: Loss
    ) -> None:
        model = copied(model, dtype, device)
        self.tracked = tracked_parameters(model, layers)
        self.block_device = device
        self.test_bytes = size_of(self.tracked.values())
        self.triple_bytes = self.test_bytes
        self.fixed_bytes = CHUNK_BYTES
        self.chunk = max(1, CHUNK_BYTES // max(1, self.triple_bytes))

        def loss_of(parameters: dict[str, Tensor], triple: Tensor) -> Tensor:
            return loss(functional_call(model, parameters, (triple[None],))).sum()

        self.per_sample = vmap(grad(loss_of), in_dims=(None, 0))

    def gradients(
        self,
        triples: Tensor,  # [B, 3]
    ) -> Tensor:  # [B, values]
        return torch.cat([flat(g, 1) for g in self.per_sample(self.tracked, triples).values()], 1)

    def test_factors(self, triples: Tensor) -> Tensor:  # [Q, 3] -> [Q, values]
        return torch.cat([self.gradients(chunk) for chunk in triples.split(self.chunk)])

    def scores(self, test: Tensor, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        return rate * torch.cat([inner_products(test, self.gradients(chunk)) for chunk in triples.split(self.chunk)], 1)

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        return rate * torch.cat([self.gradients(chunk).square().sum(1) for chunk in triples.split(self.chunk)])

    def free_buffers(self) -> None:
        """There are none between calls."""
