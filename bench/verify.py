"""No figure without a right result: scores against float64 autograd and the factored form in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracin import ConvE, TracIn

SEQUENTIAL_TESTS, SEQUENTIAL_TRAIN = 3, 12  # a float64 autograd pass takes 60 ms and 40 MB at FB15k-237's shape
REFERENCE_TOLERANCE = 1e-9


class Mismatch(AssertionError):
    """A result that is not the reference's."""


@dataclass(frozen=True)
class Reference:
    """Influences in float64."""

    scores: Tensor  # [Q, n] float64

    def verify(
        self,
        name: str,
        scores: Tensor,  # [q, m], of the first q tests and the first m training triples
        tolerance: float,
    ) -> float:
        """The worst test's relative error; raises Mismatch if it exceeds the tolerance."""
        if scores.dim() != 2 or scores.shape[0] > self.scores.shape[0] or scores.shape[1] > self.scores.shape[1]:
            raise Mismatch(f"{name}: scores are {list(scores.shape)}, the reference is {list(self.scores.shape)}")
        error = worst_test_error(scores, self.scores[: scores.shape[0], : scores.shape[1]])
        if not error <= tolerance:
            raise Mismatch(f"{name}: error {error:.1e} of the worst test triple exceeds {tolerance:.0e}; not timed")
        return error


def reference_of(model: ConvE, train: Tensor, test: Tensor, learning_rate: float = 1e-3) -> Reference:
    """The factored form in float64, itself checked against float64 autograd on a few triples."""
    exact = TracIn(model, learning_rate, precision="float64", backend="factored", device="cpu", progress=False)
    autograd = TracIn(model, learning_rate, precision="float64", backend="sequential", device="cpu", progress=False)
    reference = Reference(exact.influence(train, test))
    few = autograd.influence(train[:SEQUENTIAL_TRAIN], test[:SEQUENTIAL_TESTS])
    reference.verify("factored form in float64 against autograd", few, REFERENCE_TOLERANCE)
    return reference


def worst_test_error(
    scores: Tensor,  # [Q, n]
    exact: Tensor,  # [Q, n] float64
) -> float:
    """max over tests of |scores - exact| / |exact|, norms over training triples; infinite where a score is NaN."""
    if not exact.numel():
        return 0.0
    difference = (scores.double() - exact).norm(dim=1)
    error = difference / exact.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    return float(error.nan_to_num(nan=float("inf")).max())


def top_overlap(
    scores: Tensor,  # [Q, n]
    exact: Tensor,  # [Q, n]
    k: int = 10,
) -> float:
    """Share of the k training triples of largest |exact| that are among the k of largest |score|, mean over tests."""
    k = min(k, exact.shape[1])
    return overlap(scores.abs().topk(k, 1).indices, exact.abs().topk(k, 1).indices)


def overlap(
    found: Tensor,  # [Q, k] training rows
    expected: Tensor,  # [Q, k]
) -> float:
    return float((found[:, :, None] == expected[:, None, :]).any(2).double().mean())


def verify_top_k(
    name: str,
    indices: Tensor,  # [q, k] training rows
    scores: Tensor,  # [q, k]
    exact: Tensor,  # [q, n] float64, dense
    tolerance: float,
) -> tuple[float, float]:
    """(error of the worst test's listed scores, overlap with the exact top k).

    Raises Mismatch if a listed score is off by more than the tolerance, relative to the norm of its test's top k, or if
    a training triple that is left out beats the last listed one by more than that.
    """
    k = indices.shape[1]
    best = exact.abs().topk(k, 1)
    scale = best.values.norm(dim=1)
    listed = exact.gather(1, indices)
    error = float(((scores.double() - listed).norm(dim=1) / scale).nan_to_num(nan=float("inf")).max())
    left_out = exact.abs().scatter(1, indices, 0).amax(1) - listed.abs().amin(1)
    gap = float((left_out / scale).max())
    if not error <= tolerance or not gap <= 2 * tolerance:
        raise Mismatch(f"{name}: top {k} is wrong: error {error:.1e}, left out {gap:.1e}, allowed {tolerance:.0e}")
    return error, overlap(indices, best.indices)
