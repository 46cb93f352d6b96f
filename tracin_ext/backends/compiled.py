"""The factored form through torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tracin_ext.backends.factored import (
    FactoredBackend,
    Factors,
    backward,
    features,
    hidden,
    image,
    pair_scores,
    self_scores,  # fmt: skip
    settle_kinks,
)
from tracin_ext.grouping import group_triples


class CompiledBackend(FactoredBackend):
    """Needs what torch.compile needs: on a CPU, a C++ compiler."""

    name = "compiled"
    label = "factored form through torch.compile"

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, mixed: bool = False
    ) -> None:
        super().__init__(model, layers, dtype, device, mixed)
        p = self.parameters

        def forward(grouped):  # type: ignore[no-untyped-def]
            xn = image(p, grouped)
            v = features(p, xn)
            return xn, v, *hidden(p, grouped, v)

        self.forward = torch.compile(forward, dynamic=True)
        self.backward = torch.compile(lambda *arguments: backward(p, *arguments), dynamic=True)
        self.pairs = torch.compile(lambda test, train: pair_scores(p, test, train), dynamic=True)

    def factors(self, triples: Tensor) -> Factors:  # [B, 3]
        grouped = group_triples(triples)
        xn, v, un, pre = self.forward(grouped)
        if self.exact is not None:
            settle_kinks(self.exact, grouped, pre)
        return self.backward(grouped, xn, v, un, pre)

    def scores(self, test: Factors, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        return rate * self.pairs(test, self.factors(triples))

    def self_influence(self, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [B]
        return rate * self_scores(self.parameters, self.factors(triples))
