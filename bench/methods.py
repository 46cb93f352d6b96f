"""Ways to compute the same influences, slowest first: the baselines, and every backend of TracIn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tracin import ConvE, TracIn
from tracin.influence.layers import layers_of
from tracin.losses import bce
from tracin_ext import backends

RATE = 1e-3
DENSE_BATCH = 32  # training triples whose dense gradients, 20 MB each at FB15k-237's shape, are in memory together

DENSE = 1e-3  # a float32 dot product of 5 million terms keeps fewer digits of an influence near zero

Score = Callable[[Tensor, Tensor], Tensor]  # train [n, 3], test [q, 3] -> influences [q, n]
Make = Callable[[ConvE], tuple[Score, str]]  # the model -> scores, and what runs


@dataclass(frozen=True)
class Method:
    """A row of the comparison. `train` and `test`: how many triples are timed, None for all; the rest is scaled."""

    name: str
    make: Make
    tolerance: float = 1e-5  # error of the worst test triple against float64
    train: int | None = None
    test: int | None = None
    precision: str = "float32"
    kind: str = "tracin"  # "tracin" | "baseline" | "peer"
    form: str = "dense"  # "dense" gradients | "plain" factored form | "native": the image's halves apart
    quick: bool = True  # part of a quick run


def tracin(backend: str, precision: str = "float32") -> Make:
    """TracIn as users call it."""

    def make(model: ConvE) -> tuple[Score, str]:
        ti = TracIn(model, RATE, precision=precision, backend=backend, progress=False)
        return ti.influence, ti.description

    return make


def autocast(model: ConvE) -> tuple[Score, str]:
    """The sequential baseline with forward and backward pass under torch.autocast."""
    device = torch.device("cpu")
    backend = backends.create("sequential", model, tuple(layers_of(model)), torch.float32, device, bce)

    def gradient(triple: Tensor) -> Tensor:  # [3] -> [parameters]
        with torch.autocast("cpu", torch.bfloat16):
            return backend.test_factors(triple[None])[0]

    def score(train: Tensor, test: Tensor) -> Tensor:  # [n, 3], [q, 3] -> [q, n]
        tests = torch.stack([gradient(triple) for triple in test])
        return RATE * torch.stack([tests @ gradient(triple) for triple in train], 1)

    return score, "one autograd backward per triple under torch.autocast (bfloat16)"


def without_cache(model: ConvE) -> tuple[Score, str]:
    """vmap(grad), with the gradients of all tests computed again for every batch of training triples."""
    ti = TracIn(model, RATE, backend="vectorized", batch_size=DENSE_BATCH, progress=False)

    def score(train: Tensor, test: Tensor) -> Tensor:  # [n, 3], [q, 3] -> [q, n]
        return torch.cat([ti.influence(batch, test) for batch in train.split(DENSE_BATCH)], 1)

    return score, f"{ti.description}; test gradients again for every {DENSE_BATCH} training triples"


METHODS = (
    Method("sequential", tracin("sequential"), DENSE, train=128, test=1, kind="baseline"),
    Method("sequential, mixed precision", autocast, 0.3, train=128, test=1, kind="baseline"),
    Method("sequential, tests together", tracin("sequential"), DENSE, train=384, kind="baseline"),
    Method("vectorized", without_cache, DENSE, train=4 * DENSE_BATCH, kind="baseline"),
    Method("vectorized, test cache", tracin("vectorized"), DENSE, train=384, kind="baseline"),
    Method("factored", tracin("factored"), form="plain"),
    Method("compiled", tracin("compiled"), form="plain", quick=False),
    Method("native", tracin("native"), form="native"),
    Method("native, mixed precision", tracin("native", "mixed"), 1e-2, precision="mixed", form="native"),
)
