"""The ops of csrc/ops.cpp: a typed function and a fake kernel for each.

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
TRACKED = ("fc", "fc.bias", "bn2.weight", "bn2.bias", "entity", "relation", "bias")  # bits of `tracked`


class ModelTensors(NamedTuple):
    """One checkpoint, as csrc/kernels.h describes it; empty tensors stand for what is absent."""

    entity: Tensor  # [N, D]
    relation: Tensor  # [rows, D]
    bias: Tensor  # [N] or empty
    taps: Tensor  # [P, J] int32
    pixel: Tensor  # [2, X] mean, 1/sigma
    kernel: Tensor  # [C, J]
    shift: Tensor  # [C]
    pull: Tensor  # [C, J]
    fc: Tensor  # [D, F]
    fc_t: Tensor  # [F, D]
    hidden: Tensor  # [5, D] scale, offset, norm_scale, norm_offset, delta_scale
    exact_pixel: Tensor  # [2, X] float64; the last four are empty if the others are float64
    exact_kernel: Tensor  # [C, J]
    exact_shift: Tensor  # [C]
    exact_hidden: Tensor  # [2, D]


class TestTensors(NamedTuple):
    """The test side, ready to be multiplied; empty tensors where no layer that needs them is tracked."""

    triples: Tensor  # [Q, 3]
    group: Tensor  # [Q]
    features: Tensor  # [G, F] or empty
    delta: Tensor  # [Q, D] delta' * delta_scale, or empty
    linear: Tensor  # [Q, 2 D + S] e', e' un', M S' (or [Q, 2 D])
    residual: Tensor  # [Q] w', or empty
    pull: Tensor  # [Q, D] w' z', or empty
    head: Tensor  # [Q, D] c', or empty
    relation: Tensor  # [Q, D] q', or empty


def _fake(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers the fake kernel of the op of the same name, if the native extension is loaded."""
    if tracin_ext.native is None:
        return function
    return torch.library.register_fake(f"tracin_ext::{function.__name__.removeprefix('_')}")(function)


def influence_block(
    model: ModelTensors,
    relation_step: int,
    tests: TestTensors,
    fc_bias: bool,
    triples: Tensor,  # [B, 3], equal (head, relation) adjacent for speed
    rate: float,
    scores: Tensor,  # [Q, B], changed
    tile: int,
) -> None:
    """scores[q, b] += rate * <gradient of test q, gradient of triple b>; a thread works on `tile` triples at a time."""
    torch.ops.tracin_ext.influence_block(list(model), relation_step, list(tests), fc_bias, triples, rate, scores, tile)


def self_influence_block(
    model: ModelTensors,
    relation_step: int,
    form: Tensor,  # [S, S] or empty
    tracked: int,  # bits in the order of TRACKED
    triples: Tensor,  # [B, 3]
    rate: float,
    scores: Tensor,  # [B], changed
    tile: int,
) -> None:
    """scores[b] += rate * |gradient of triple b|^2."""
    torch.ops.tracin_ext.self_influence_block(list(model), relation_step, form, tracked, triples, rate, scores, tile)


def merge_top_k(
    scores: Tensor,  # [Q, B]
    columns: Tensor,  # [B] index of each column
    order: str,  # one of ORDERS
    best: Tensor,  # [Q, k], changed
    best_index: Tensor,  # [Q, k], changed; -1: empty
) -> None:
    """Merges scores into each row's best k: best first, ties by index. In PyTorch where there is no native kernel."""
    if tracin_ext.native is not None and scores.device.type == "cpu":
        torch.ops.tracin_ext.merge_top_k(scores, columns, ORDERS.index(order), best, best_index)
        return
    values = torch.cat([best, scores], 1)
    index = torch.cat([best_index, columns.to(best_index.device).expand(len(scores), -1)], 1)
    key = values.abs() if order == "absolute" else values if order == "proponents" else -values
    key = key.masked_fill(index < 0, -torch.inf)
    by_index = index.argsort(1)
    by_key = key.gather(1, by_index).argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
    chosen = by_index.gather(1, by_key)
    best.copy_(values.gather(1, chosen))
    best_index.copy_(index.gather(1, chosen))


@_fake
def _influence_block(
    model: list[Tensor], relation_step: int, tests: list[Tensor], fc_bias: bool, triples: Tensor, rate: float,
    scores: Tensor, tile: int,
) -> None:  # fmt: skip
    return None


@_fake
def _self_influence_block(
    model: list[Tensor], relation_step: int, form: Tensor, tracked: int, triples: Tensor, rate: float, scores: Tensor,
    tile: int,
) -> None:  # fmt: skip
    return None


@_fake
def _merge_top_k(scores: Tensor, columns: Tensor, order: int, best: Tensor, best_index: Tensor) -> None:
    return None
