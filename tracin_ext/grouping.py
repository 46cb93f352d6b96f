"""Triples grouped by distinct (head, relation): what the forward pass shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 20  # keys that are numbered at a time


@dataclass(frozen=True)
class Grouped:
    """B triples over G distinct (head, relation) pairs."""

    heads: Tensor  # [G]
    relations: Tensor  # [G]
    group: Tensor  # [B] row of a triple's pair
    tails: Tensor  # [B]

    def __len__(self) -> int:
        return len(self.tails)


def stable_argsort(
    keys: Tensor,  # [n] integers, none negative
) -> Tensor:  # [n] int64
    """`torch.argsort(keys, stable=True)`; on a CPU, where keys and places fit into one number, ten times as fast.

    NumPy sorts numbers by vector instructions where the processor has them.
    """
    bits = len(keys).bit_length()
    if keys.device.type != "cpu" or not len(keys) or int(keys.max()).bit_length() + bits > 63:
        return torch.argsort(keys, stable=True)
    packed = keys.numpy().astype(np.int64)
    packed <<= bits
    for start in range(0, len(packed), PIECE):  # no second array of them
        some = packed[start : start + PIECE]
        some |= np.arange(start, start + len(some))
    packed.sort()
    packed &= (1 << bits) - 1
    return torch.from_numpy(packed)


def order_by_head_relation(
    triples: Tensor,  # [n, 3]
) -> Tensor:  # [n]
    """Permutation that sorts by (head, relation), file order within a pair."""
    heads, relations = triples[:, 0], triples[:, 1]
    span = int(relations.max()) + 1 if len(triples) else 1
    return stable_argsort(heads * span + relations)


def group_triples(
    triples: Tensor,  # [B, 3], equal (head, relation) pairs adjacent for the fewest groups
) -> Grouped:
    """Groups adjacent equal (head, relation) pairs."""
    heads, relations, tails = triples.unbind(1)
    if not len(triples):
        return Grouped(heads, relations, tails, tails)
    starts = torch.ones(len(triples), dtype=torch.bool, device=triples.device)
    starts[1:] = (heads[1:] != heads[:-1]) | (relations[1:] != relations[:-1])
    return Grouped(heads[starts], relations[starts], starts.cumsum(0) - 1, tails.contiguous())
