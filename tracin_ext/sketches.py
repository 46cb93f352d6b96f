"""What 32 bytes tell of the direction of a triple's S: how much of |S| |S'| the product S^T M S' can be.

S, 320 numbers of a ConvE with 32 filters of 3 x 3, points in many directions: the norms' product is three to ten times
what most pairs' S^T M S' is, and two thirds of what the norms of all parts add up to. Along the 31 directions that
triples share most lie two thirds of |S|^2 (weights trained on a graph of 18.6 million triples). For S of length 1,

    |S^T M S'| <= |parts . parts'| + left left'

with the parts along a basis that is orthonormal for M, and the length of what they leave.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracin_ext.kept import BLOCK, keep
from tracin_ext.ops import SKETCH_PARTS, SKETCH_STEPS

if TYPE_CHECKING:
    from tracin_ext.backends.native import NativeBackend

ROUNDED = 1.001 * math.sqrt(SKETCH_PARTS) / 2 / SKETCH_STEPS  # length of what rounding takes from parts, at most


def sketch_basis(
    backend: NativeBackend,
    triples: Tensor,  # [n, 3]
    order: Tensor,  # [n] theirs by head and relation
) -> Tensor:  # [size_S, SKETCH_PARTS] float64, or empty where no layer below fc is tracked
    """The directions that the S of some of the triples share most, of finite M; parts of S are S @ basis."""
    M = backend.parameters.M
    if M is None or not len(triples) or not M.isfinite().all():
        return torch.empty(0, SKETCH_PARTS, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(M.double())
    root = vectors * values.clamp(min=0).sqrt()  # [size_S, size_S] M = root root^T
    some = torch.linspace(0, len(triples) - 1, min(len(triples), BLOCK), dtype=torch.float64).long()
    S = keep(backend, triples[order[some]].long()).S.double()
    S = unit_rows(S[S.isfinite().all(1)]) @ root
    _, shared = torch.linalg.eigh(unit_rows(S).T @ unit_rows(S))  # the largest last
    basis = root @ shared.flip(1)[:, :SKETCH_PARTS]
    return torch.nn.functional.pad(basis, (0, SKETCH_PARTS - basis.shape[1])).contiguous()


def unit_rows(
    x: Tensor,  # [n, m]
) -> Tensor:  # [n, m]
    """Of length 1, or zero."""
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax(1, keepdim=True).clamp(min=tiny)  # whose square may vanish or overflow
    length: Tensor = x.norm(dim=1, keepdim=True)
    return x / length.clamp(min=tiny)


def sketch_of_test(
    basis: Tensor,  # [size_S, SKETCH_PARTS] or [0, SKETCH_PARTS]
    S: Tensor,  # [size_S] of the test
    norm: Tensor,  # [] of S, the root of S^T M S or more
) -> Tensor:  # [SKETCH_PARTS + 2] / SKETCH_STEPS, and the most that rounding takes
    """What `rows_in_reach` takes of a test; where nothing is known, bounds stay as they are."""
    unknown = torch.zeros(SKETCH_PARTS + 2).to(norm)
    unknown[-1] = 1
    if not len(basis):
        return unknown
    largest = S.abs().amax().double()
    parts = (S.double() / largest @ basis) / (norm.double() / largest)
    square = float(parts.square().sum())
    if not square <= 1 + 1e-6:  # or no number
        return unknown
    left = math.sqrt(max(0.0, 1 - square) + 1e-9)
    steps = torch.cat([parts, parts.new_tensor([left])]) / SKETCH_STEPS
    return torch.cat([steps, parts.new_tensor([ROUNDED * math.sqrt(square)])]).to(norm)
