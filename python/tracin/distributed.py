"""TracIn over training triples that are spread over ranks: each scores its part, rank 0 gets what one process would."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.influence import TopK, TracIn
from tracin.ranks import Ranks, ranks_of_environment
from tracin_ext.ops import merge_top_k


@dataclass(frozen=True)
class ShardedTopK(TopK):
    """TopK over all ranks' training triples, and these triples, which no rank holds all of."""

    triples: Tensor  # [n_test, k, 3]


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
        rows: what the index of each of them is to be, [n_part], increasing; all ranks' are 0 to n_train - 1.
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
        ...     part, rows = shared_by_head(part, ranks)
        ...     top = sharded_top_k(ti, part, rows, test, k=10)
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


def shared_by_head(
    train_part: Tensor,  # [n_part, 3]
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:  # [n, 3] triples of this rank, [n] their rows among all
    """Ranks exchange triples so that each has all of its heads', and about as many as the others.

    What triples of one head share is computed once, then. Of FB15k-237 cut into file parts instead, two ranks compute
    1.26 times as long as one process, eight 1.6 times.

    Args:
        train_part: this rank's training triples; in the order of ranks they are all of them, row by row.
        ranks: this process among the others.
    """
    before = sum(ranks.all(len(train_part))[: ranks.rank])
    rows = torch.arange(before, before + len(train_part))
    if ranks.size == 1:
        return train_part, rows
    heads = train_part[:, 0]
    counts = ranks.total(torch.bincount(heads, minlength=1 + max(ranks.all(int(heads.max()) if len(heads) else 0))))
    middle = counts.cumsum(0) - counts // 2
    owner = (middle * ranks.size // max(1, int(counts.sum()))).clamp(max=ranks.size - 1)[heads]
    order = owner.argsort(stable=True)
    mine = ranks.exchanged(torch.cat([train_part, rows[:, None]], 1)[order], owner.bincount(minlength=ranks.size))
    return mine[:, :3].contiguous(), mine[:, 3].contiguous()


class Shards:
    """All training triples, for rank 0 to work with as if it held them; a process by itself does hold them.

    What rank 0 calls, the others do too, as long as they `serve`: until rank 0 calls `release`.

    Args:
        tracin: the same model and settings on every rank.
        train_part: this rank's training triples [n_part, 3]; in the order of ranks they are all of them. The ranks
            exchange them, see `shared_by_head`.
        ranks: this process among the others.
        partial: this rank's file for what it has finished, as for `TracIn.top_k`.

    Example:
        >>> shards = Shards(ti, part, ranks)
        >>> if ranks.first:
        ...     own = shards.self_influence()  # [n_train]
        ...     shards.release()
        ... else:
        ...     shards.serve()
    """

    def __init__(
        self,
        tracin: TracIn,
        train_part: Tensor,  # [n_part, 3]
        ranks: Ranks = Ranks(),  # noqa: B008
        partial: Path | None = None,
    ) -> None:
        self.tracin = tracin
        self.ranks = ranks
        self.partial = partial
        self.train, self.rows = shared_by_head(train_part, ranks)
        self._all_rows: Tensor | None = None

    def triples(self) -> Tensor:  # [n_train, 3]
        return self._in_order("_triples", 0)

    def influence(
        self,
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [n_test, n_train]
        """As `TracIn.influence`."""
        return self._in_order("_influence", 1, test)

    def self_influence(self) -> Tensor:  # [n_train]
        """As `TracIn.self_influence`."""
        return self._in_order("_self_influence", 0)

    def top_k(
        self,
        test: Tensor,  # [n_test, 3]
        k: int,
        order: str,
    ) -> ShardedTopK:
        """As `TracIn.top_k`."""
        return self._everywhere("_top_k", test, k, order)

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

    def _in_order(self, name: str, dim: int, *arguments: object) -> Tensor:
        """What the method of this name joins along `dim`, in the order of all training triples."""
        joined = self._everywhere(name, *arguments)
        if self.ranks.size == 1:
            return joined
        if self._all_rows is None:
            self._all_rows = self._everywhere("_joined_rows")
        return torch.empty_like(joined).index_copy_(dim, self._all_rows, joined)

    def _joined(self, part: Tensor, dim: int = 0) -> Tensor | None:
        return self.ranks.joined(part, dim, self.tracin.device)

    def _joined_rows(self) -> Tensor | None:
        return self._joined(self.rows)

    def _triples(self) -> Tensor | None:
        return self._joined(self.train)

    def _influence(self, test: Tensor) -> Tensor | None:
        return self._joined(self.tracin.influence(self.train, test), 1)

    def _self_influence(self) -> Tensor | None:
        return self._joined(self.tracin.self_influence(self.train, self.partial))

    def _top_k(self, test: Tensor, k: int, order: str) -> ShardedTopK | None:
        return sharded_top_k(self.tracin, self.train, self.rows, test, k, order, self.partial, self.ranks)
