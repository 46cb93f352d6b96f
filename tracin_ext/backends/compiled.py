"""The factored form through torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

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
    settle_kinks,
)
from tracin_ext.grouping import group_triples

Result = TypeVar("Result")


class CompiledBackend(FactoredBackend):
    """Needs what torch.compile needs: on a CPU, a C++ compiler; if that fails, the factored form stays in PyTorch."""

    name = "compiled"
    label = "factored form through torch.compile"

    def __init__(
        self, model: Any, layers: tuple[str, ...], dtype: torch.dtype, device: torch.device, mixed: bool = False
    ) -> None:
        super().__init__(model, layers, dtype, device, mixed)
        p = self.parameters
        self.works = True

        def forward(grouped):  # type: ignore[no-untyped-def]
            xn = image(p, grouped)
            v = features(p, xn)
            return xn, v, *hidden(p, grouped, v)

        try:
            self.forward = torch.compile(forward, dynamic=True)
            self.backward = torch.compile(lambda *arguments: backward(p, *arguments), dynamic=True)
            self.pairs = torch.compile(lambda test, train: pair_scores(p, test, train), dynamic=True)
        except Exception as error:  # such as a Python that torch.compile does not know yet
            self._give_up(error)
        self._compile(len(p.entity))

    @torch.no_grad()
    def _compile(self, entities: int) -> None:
        """Compiles now, so that `label` is right.

        Sizes are odd and above 15: equal to a size of the model, they would be compiled as one with it, and below 16
        for small blocks only.
        """
        heads = torch.arange(151, device=self.parameters.conv_weight.device) // 2 % entities
        triples = torch.stack([heads, torch.zeros_like(heads), heads], 1)
        self.scores(self.factors(triples[:53]), triples, 1.0)

    def _or_plain(self, compiled: Callable[[], Result], plain: Callable[[], Result]) -> Result:
        """The compiled result; the plain one from the first time that only the compiled one fails."""
        if not self.works:
            return plain()
        try:
            return compiled()
        except Exception as error:  # torch.compile and the compilers below it raise almost anything
            result = plain()
            self._give_up(error)
            return result

    def _give_up(self, error: Exception) -> None:
        self.works = False
        self.label = f"{FactoredBackend.label}, not compiled"
        reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        warnings.warn(f"torch.compile failed, going on with the {FactoredBackend.label}: {reason}", stacklevel=2)

    def factors(self, triples: Tensor) -> Factors:  # [B, 3]
        return self._or_plain(lambda: self._compiled_factors(triples), lambda: FactoredBackend.factors(self, triples))

    def _compiled_factors(self, triples: Tensor) -> Factors:  # [B, 3]
        grouped = group_triples(triples)
        xn, v, un, pre = self.forward(grouped)
        if self.exact is not None:
            settle_kinks(self.exact, grouped, pre)
        return self.backward(grouped, xn, v, un, pre)

    def scores(self, test: Factors, triples: Tensor, rate: float) -> Tensor:  # [B, 3] -> [Q, B]
        train = self.factors(triples)
        return rate * self._or_plain(lambda: self.pairs(test, train), lambda: pair_scores(self.parameters, test, train))
