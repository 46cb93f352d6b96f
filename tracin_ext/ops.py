"""The ops of csrc/ops.cpp: a typed function and a fake kernel for each.

On CUDA all tensors but `triples` lie on the GPU, and the values of indices other than triples are not checked, which
would wait for the GPU. Products are torch's: TF32 must be off (`tracin_ext.full_float32`).

Sizes: B training triples of a block, Q test triples, G distinct (head, relation), N entities, D embedding, X = 2 D
pixels, C channels, J taps, P positions, F = C P features, S = C (J + 1) statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tracin_ext

ORDERS = ("absolute", "proponents", "opponents")
CUDA_KEPT = 1024  # largest k of merge_top_k on CUDA (most_kept of csrc/cuda/device.h)
TRACKED = ("fc", "fc.bias", "bn2.weight", "bn2.bias", "entity", "relation", "bias")  # bits of `tracked`


class ModelTensors(NamedTuple):
    """One checkpoint, as csrc/kernels.h describes it; empty tensors stand for what is absent.

    Each part of the image (head's half, middle, relation's half) has its X pixels, taps [P, J] among them, and the
    columns of fc and of its transpose as packed operands, a chunk of channels after the other.
    """

    entity: Tensor  # [N, D]
    relation: Tensor  # [rows, D]
    bias: Tensor  # [N] or empty
    pixel: Tensor  # [2, 2 D] mean, 1/sigma
    kernel: Tensor  # [C, J]
    shift: Tensor  # [C]
    pull: Tensor  # [C, J]
    hidden: Tensor  # [5, D] scale, offset, norm_scale, norm_offset, delta_scale
    head_pixels: Tensor  # [X] int32
    head_taps: Tensor  # [P, J] int32
    head_forward: Tensor
    head_backward: Tensor
    middle_pixels: Tensor
    middle_taps: Tensor
    middle_forward: Tensor
    middle_backward: Tensor
    tail_pixels: Tensor
    tail_taps: Tensor
    tail_forward: Tensor
    tail_backward: Tensor
    relation_u: Tensor  # [R, D] or empty
    jacobians: Tensor  # [R, ceil(S / 32), D, 32] or empty
    taps: Tensor  # [all P, J] int32, of the whole image
    fc: Tensor  # [D, F]
    exact_pixel: Tensor  # [2, 2 D] float64; the last four are empty if the others are float64
    exact_kernel: Tensor  # [C, J]
    exact_shift: Tensor  # [C]
    exact_hidden: Tensor  # [2, D]
    narrow_head_backward: Tensor  # the backward operands in bfloat16, or empty
    narrow_middle_backward: Tensor
    narrow_tail_backward: Tensor


class ModelSizes(NamedTuple):
    """Numbers that come with ModelTensors."""

    relation_step: int
    relations: int
    head_step: int  # channels in a chunk of products
    middle_step: int
    tail_step: int
    height: int  # rows of a packed panel: 12 for the extension's own product kernel, 0 for torch's and on CUDA


class TestTensors(NamedTuple):
    """The test side, ready to be multiplied; empty tensors where no layer that needs them is tracked."""

    triples: Tensor  # [Q, 3]
    pair: Tensor  # [Q] row of the distinct (head, relation)
    pair_head: Tensor  # [pairs] row of the distinct head
    pair_relation: Tensor  # [pairs] row of the distinct relation
    head_features: Tensor  # [heads, C P] v of the head's half, packed in chunks
    middle_features: Tensor  # [pairs, C P], packed in chunks
    tail_gram: Tensor  # [relations, R] v . v' of the relation's half
    delta: Tensor  # [Q, D] delta' * delta_scale, packed
    linear: Tensor  # [Q, 2 D + S] or [Q, 2 D] e', e' un', M S', packed
    residual: Tensor  # [Q] w'
    pull: Tensor  # [Q, D] w' z'
    head: Tensor  # [Q, D] c'
    same_head: Tensor  # [Q, D + X] multiplies (delta, gradient at the middle's X pixels)
    head_is_tail: Tensor  # [Q, D + X]
    same_relation: Tensor  # [Q, D + X]
    narrow_head: Tensor  # head_features, middle_features, delta and linear in bfloat16, or empty
    narrow_middle: Tensor
    narrow_delta: Tensor
    narrow_linear: Tensor


def has_kernel(name: str, device: str) -> bool:
    """Whether the native extension has a kernel of an op for a type of device, "cpu" or "cuda"."""
    return tracin_ext.native is not None and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"tracin_ext::{name}", device.upper()
    )


def _fake(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers the fake kernel of the op of the same name, if the native extension is loaded."""
    if tracin_ext.native is None:
        return function
    return torch.library.register_fake(f"tracin_ext::{function.__name__.removeprefix('_')}")(function)


def influence_block(
    model: ModelTensors,
    sizes: ModelSizes,
    tests: TestTensors,
    heads: int,  # rows of head_features
    statistics: bool,  # whether linear has the columns of S
    fc_bias: bool,
    triples: Tensor,  # [B, 3] on the CPU, equal heads adjacent
    rate: float,
    scores: Tensor,  # [Q, B], written
) -> None:
    """scores[q, b] = rate * <gradient of test q, gradient of triple b>."""
    torch.ops.tracin_ext.influence_block(
        list(model), list(sizes), list(tests), heads, statistics, fc_bias, triples, rate, scores
    )


def self_influence_block(
    model: ModelTensors,
    sizes: ModelSizes,
    form: Tensor,  # [S, S] packed, or empty
    tracked: int,  # bits in the order of TRACKED
    triples: Tensor,  # [B, 3] on the CPU, equal heads adjacent
    rate: float,
    scores: Tensor,  # [B], written
) -> None:
    """scores[b] = rate * |gradient of triple b|^2; the model must take the image whole."""
    torch.ops.tracin_ext.self_influence_block(list(model), list(sizes), form, tracked, triples, rate, scores)


def relation_tables(
    model: ModelTensors,
    sizes: ModelSizes,
    u: Tensor,  # [R, D], changed
    v: Tensor,  # [R, C P of the relation's half], changed
    jacobians: Tensor,  # [R, ceil(S / 32), D, 32] or empty, changed
) -> None:
    """What the relation's half of the image gives once per relation: u, v, and the statistics' derivative by delta."""
    torch.ops.tracin_ext.relation_tables(list(model), list(sizes), u, v, jacobians)


def merge_top_k(
    scores: Tensor,  # [Q, B]
    columns: Tensor,  # [B] index of each column
    order: str,  # one of ORDERS
    best: Tensor,  # [Q, k], changed
    best_index: Tensor,  # [Q, k], changed; -1: empty
) -> None:
    """Merges scores into each row's best k: best first, ties by index. In PyTorch where there is no native kernel."""
    cuda = scores.device.type == "cuda"
    if cuda:
        columns = columns.pin_memory().to(scores.device, non_blocking=True) if not columns.is_cuda else columns
    if has_kernel("merge_top_k", scores.device.type) and not (cuda and best.shape[1] > CUDA_KEPT):
        torch.ops.tracin_ext.merge_top_k(scores, columns, ORDERS.index(order), best, best_index)
        return
    values = torch.cat([best, scores], 1)
    index = torch.cat([best_index, columns.expand(len(scores), -1)], 1)
    key = values.abs() if order == "absolute" else values if order == "proponents" else -values
    key = key.masked_fill(key.isnan() | (index < 0), -torch.inf)
    by_index = index.masked_fill(index < 0, torch.iinfo(index.dtype).max).argsort(1)  # empty slots last
    by_key = key.gather(1, by_index).argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
    chosen = by_index.gather(1, by_key)
    best.copy_(values.gather(1, chosen))
    best_index.copy_(index.gather(1, chosen))


@_fake
def _influence_block(
    model: list[Tensor],
    sizes: list[int],
    tests: list[Tensor],
    heads: int,
    statistics: bool,
    fc_bias: bool,
    triples: Tensor,
    rate: float,
    scores: Tensor,
) -> None:
    return None


@_fake
def _self_influence_block(
    model: list[Tensor], sizes: list[int], form: Tensor, tracked: int, triples: Tensor, rate: float, scores: Tensor
) -> None:
    return None


@_fake
def _relation_tables(model: list[Tensor], sizes: list[int], u: Tensor, v: Tensor, jacobians: Tensor) -> None:
    return None


@_fake
def _merge_top_k(scores: Tensor, columns: Tensor, order: int, best: Tensor, best_index: Tensor) -> None:
    return None
