"""TracIn over training triples that are spread over ranks: each scores its part, rank 0 gets what one process would."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.distributed.ranks import Ranks, ranks_of_environment
from tracin.influence.tracin import TopK, TracIn
from tracin_ext.ops import merge_top_k


@dataclass(frozen=True)
class ShardedTopK(TopK):
    """TopK over all ranks' training triples, and these triples, which no rank holds all of."""

    triples: Tensor  # [n_test, k, 3]


def parted_by_head(
    train: Tensor,  # [n, 3] this rank's rows of a file, which follow those of the ranks before it
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:  # triples [n_part, 3], their rows among those of all ranks [n_part], ascending
    """Passes triples on, so that every head is on one rank and each rank has about as many triples.

    The forward pass is shared by the triples of one (head, relation): with two contiguous parts of FB15k-237's file,
    118,531 of them are computed instead of 93,372, and scoring takes a fifth longer.
    """
    rows = torch.arange(len(train)) + sum(ranks.all(len(train))[: ranks.rank])
    if ranks.size == 1:
        return train, rows
    heads = train[:, 0]
    entities = max(ranks.all(int(heads.max()) + 1 if len(heads) else 1))
    counts = ranks.total(torch.bincount(heads, minlength=entities))
    middle = 2 * counts.cumsum(0) - counts  # of each head's triples, among twice as many
    target = (middle * ranks.size // (2 * counts.sum()).clamp(min=1)).clamp(max=ranks.size - 1)[heads]
    numbered = torch.cat([rows[:, None], train], 1)
    mine = ranks.exchanged([numbered[target == rank] for rank in range(ranks.size)])
    return mine[:, 1:].contiguous(), mine[:, 0].contiguous()


def sharded_top_k(
    ti: TracIn,
    train_part: Tensor,  # [n_part, 3]
    rows: Tensor,  # [n_part]
    test: Tensor,  # [n_test, 3]
    k: int = 10,
    order: str = "absolute",
    partial: str | os.PathLike[str] | None = None,
    ranks: Ranks | None = None,
) -> ShardedTopK | None:
    """`TracIn.top_k` over the training triples of all ranks, each of which calls this with its own part of them.

    Args:
        ti: the same model and settings on every rank.
        train_part: this rank's training triples [n_part, 3] of ids.
        rows: their numbers [n_part] among the training triples of all ranks, ascending: what indices count.
        test: the same test triples [n_test, 3] on every rank.
        k, order: as for `TracIn.top_k`.
        partial: a file for what this rank has finished, each rank its own, as for `TracIn.top_k`.
        ranks: this process among the others; None: as torchrun says.

    Returns:
        On rank 0, the k best of all training triples, ties by index; None on the others.

    Raises:
        InputError: as `TracIn.top_k`.
        RankLost: if another rank has ended.

    Example:
        >>> with working_together() as ranks:  # in a script that is started by torchrun --nproc-per-node 2
        ...     part = read_triples_part("train.txt", entities, relations, ranks.rank, ranks.size).triples
        ...     top = sharded_top_k(ti, *parted_by_head(part, ranks), test, k=10)
    """
    ranks = ranks or ranks_of_environment()
    found = ti.top_k(train_part, test, k, order, partial)
    indices = ranks.joined(rows[found.indices], 1, ti.device)
    scores = ranks.joined(found.scores, 1, ti.device)
    triples = ranks.joined(train_part[found.indices], 1, ti.device)
    if indices is None or scores is None or triples is None:
        return None
    return ShardedTopK(indices, scores, triples) if ranks.size == 1 else best_of(indices, scores, triples, k, order)


def best_of(
    indices: Tensor,  # [Q, n] of training triples, distinct in a row
    scores: Tensor,  # [Q, n]
    triples: Tensor,  # [Q, n, 3]
    k: int,
    order: str,
) -> ShardedTopK:
    """The k best of each row, ties by index."""
    rows = indices.shape[0]
    k = min(k, indices.shape[1])
    best, best_index = torch.zeros(rows, k, dtype=scores.dtype), torch.full((rows, k), -1)
    for row in range(rows):
        this = slice(row, row + 1)
        merge_top_k(scores[this], indices[row], order, best[this], best_index[this])
    sorted_indices, by_index = indices.sort(1)
    positions = by_index.gather(1, torch.searchsorted(sorted_indices, best_index))
    return ShardedTopK(best_index, best, triples.gather(1, positions[:, :, None].expand(-1, -1, 3)))


def in_order(
    part: Tensor,
    rows: Tensor,  # [n_part] where `part` belongs along `dim`
    dim: int,
    ranks: Ranks,
    device: torch.device,
) -> Tensor | None:
    """All ranks' parts at their rows, on rank 0; None on the others."""
    whole = ranks.joined(part, dim, device)
    if ranks.size == 1:
        return whole
    order = ranks.joined(rows, 0, device)
    return None if whole is None or order is None else torch.empty_like(whole).index_copy_(dim, order, whole)


class Shards:
    """All training triples, for rank 0 to work with as if it held them; a process by itself does hold them.

    What rank 0 calls, the others do too, as long as they `serve`: until rank 0 calls `release`. Triples are passed on
    between ranks first, see `parted_by_head`.

    Args:
        tracin: the same model and settings on every rank.
        train: this rank's training triples [n, 3]; in the order of ranks they are all of them.
        ranks: this process among the others.
        partial: this rank's file for what it has finished.

    Attributes:
        sizes: training triples of each rank.
    """

    def __init__(
        self,
        tracin: TracIn,
        train: Tensor,  # [n, 3]
        ranks: Ranks = Ranks(),  # noqa: B008
        partial: Path | None = None,
    ) -> None:
        self.tracin = tracin
        self.train, self.rows = parted_by_head(train, ranks)
        self.ranks = ranks
        self.partial = partial
        self.sizes = ranks.all(len(self.train))

    def __len__(self) -> int:
        return sum(self.sizes)

    def triples(self) -> Tensor:  # [n_train, 3]
        return self._everywhere("_triples")

    def influence(
        self,
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [n_test, n_train]
        return self._everywhere("_influence", test)

    def top_k(
        self,
        test: Tensor,  # [n_test, 3]
        k: int,
        order: str,
    ) -> ShardedTopK:
        return self._everywhere("_top_k", test, k, order)

    def self_influence(self) -> Tensor:  # [n_train]
        return self._everywhere("_self_influence")

    def serve(self) -> None:
        """On the other ranks: does what rank 0 calls."""
        while (task := self.ranks.told(None)) is not None:
            name, arguments = task
            getattr(self, name)(*arguments)

    def release(self) -> None:
        """On rank 0: the others' `serve` returns."""
        self.ranks.told(None)

    def _everywhere(self, name: str, *arguments: object) -> Any:
        self.ranks.told((name, arguments))
        return getattr(self, name)(*arguments)

    def _triples(self) -> Tensor | None:
        return in_order(self.train, self.rows, 0, self.ranks, self.tracin.device)

    def _influence(self, test: Tensor) -> Tensor | None:
        scores = self.tracin.influence(self.train, test)
        return in_order(scores, self.rows, 1, self.ranks, self.tracin.device)

    def _top_k(self, test: Tensor, k: int, order: str) -> ShardedTopK | None:
        return sharded_top_k(self.tracin, self.train, self.rows, test, k, order, self.partial, self.ranks)

    def _self_influence(self) -> Tensor | None:
        own = self.tracin.self_influence(self.train, self.partial)
        return in_order(own, self.rows, 0, self.ranks, self.tracin.device)
