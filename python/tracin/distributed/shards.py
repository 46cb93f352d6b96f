"""TracIn over training triples that are spread over ranks: each scores its part, rank 0 gets what one process would."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from tracin.distributed.ranks import Ranks, ranks_of_environment
from tracin.errors import InputError
from tracin.influence.top_k import REMEDY, TopK
from tracin.influence.tracin import TracIn
from tracin_ext.ops import merge_top_k

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, repr=False)
class ShardedTopK(TopK):
    """TopK over all ranks' training triples, and these triples, which no rank holds all of.

    They, not a digest, tell whether `to_frame` is given the training triples that were scored.
    """

    triples: Tensor  # [n_test, k, 3]

    def _check_train(
        self,
        train: Tensor,  # [n_train, 3]
    ) -> None:
        super()._check_train(train)
        if not torch.equal(train[self.indices], self.triples):
            raise InputError(f"train has other triples than those that were scored; {REMEDY}", "train")


def parted_by_head(
    train: Tensor,  # [n, 3] this rank's lines of a file, which follow those of the ranks before it
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:  # triples [n_part, 3], their index among those of all ranks [n_part], ascending
    """Passes triples on, so that every head is on one rank and each rank has about as many triples.

    The forward pass is shared by the triples of one (head, relation): with two contiguous parts of FB15k-237's file,
    118,531 of them are computed instead of 93,372, and scoring takes a fifth longer.
    """
    index = torch.arange(len(train)) + sum(ranks.all_gather(len(train))[: ranks.rank])
    if ranks.size == 1:
        return train, index
    heads = train[:, 0]
    entities = max(ranks.all_gather(int(heads.max()) + 1 if len(heads) else 1))
    counts = ranks.all_reduce(torch.bincount(heads, minlength=entities))
    middle = 2 * counts.cumsum(0) - counts  # of each head's triples, among twice as many
    target = (middle * ranks.size // (2 * counts.sum()).clamp(min=1)).clamp(max=ranks.size - 1)[heads]
    numbered = torch.cat([index[:, None], train], 1)
    mine = ranks.all_to_all([numbered[target == rank] for rank in range(ranks.size)])
    return mine[:, 1:].contiguous(), mine[:, 0].contiguous()


def sharded_top_k(
    ti: TracIn,
    train_part: Tensor,  # [n_part, 3]
    index: Tensor,  # [n_part]
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
        index: theirs [n_part] among the training triples of all ranks, ascending.
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
    if ranks.size == 1:
        found = ti.top_k(train_part, test, k, order, partial)
        return ShardedTopK(index[found.indices], found.scores, train_part[found.indices], test_digest=found.test_digest)
    found = ti.top_k_of_part(train_part, test, k, order, partial)
    indices = ranks.gather(index[found.indices], 1, ti.device)
    scores = ranks.gather(found.scores, 1, ti.device)
    triples = ranks.gather(train_part[found.indices], 1, ti.device)
    if indices is None or scores is None or triples is None:
        return None
    best = best_of(indices, scores, triples, k, order)
    ti.warn_of_zeros(test, best.scores, order)
    return replace(best, test_digest=found.test_digest)


def best_of(
    indices: Tensor,  # [Q, n] of training triples, distinct for a test triple
    scores: Tensor,  # [Q, n]
    triples: Tensor,  # [Q, n, 3]
    k: int,
    order: str,
) -> ShardedTopK:
    """The k best for each test triple, ties by index."""
    k = min(k, indices.shape[1])
    best = torch.zeros(len(indices), k, dtype=scores.dtype)
    best_index = torch.full((len(indices), k), -1)
    for test, index in enumerate(indices):
        this = slice(test, test + 1)
        merge_top_k(scores[this], index, order, best[this], best_index[this])
    sorted_indices, by_index = indices.sort(1)
    positions = by_index.gather(1, torch.searchsorted(sorted_indices, best_index))
    return ShardedTopK(best_index, best, triples.gather(1, positions[:, :, None].expand(-1, -1, 3)))


def in_order(
    part: Tensor,
    index: Tensor,  # [n_part] where `part` belongs along `dim`
    dim: int,
    ranks: Ranks,
    device: torch.device,
) -> Tensor | None:
    """All ranks' parts, each in its place, on rank 0; None on the others."""
    whole = ranks.gather(part, dim, device)
    order = ranks.gather(index, 0, device)
    return None if whole is None or order is None else torch.empty_like(whole).index_copy_(dim, order, whole)


class TrainingSet(Protocol):
    """All training triples, to work with as if this process held them; made by `share_out`.

    Attributes:
        tracin: what scores.
        ranks: this process among the others; rank 0 works with the triples, the others `serve` meanwhile.
        partial: the file for what this process has finished.
    """

    tracin: TracIn
    ranks: Ranks
    partial: Path | None

    def __len__(self) -> int: ...

    def triples(self) -> Tensor: ...  # [n_train, 3]

    def influence(self, test: Tensor) -> Tensor: ...  # [n_test, 3] -> [n_test, n_train]

    def top_k(self, test: Tensor, k: int, order: str) -> ShardedTopK: ...  # test: [n_test, 3]

    def self_influence(self) -> Tensor: ...  # [n_train]

    def serve(self) -> None:
        """On the other ranks: does what rank 0 calls, until it calls `release`."""

    def release(self) -> None:
        """On rank 0: the others' `serve` returns."""


def share_out(
    tracin: TracIn,
    train: Tensor,  # [n, 3]
    ranks: Ranks,
    partial: Path | None = None,
) -> TrainingSet:
    """The training triples of all ranks: `Shards` of them where there are several, else all of them in this process.

    Args: those of `Shards`.
    """
    return Whole(tracin, train, partial) if ranks.size == 1 else Shards(tracin, train, ranks, partial)


class Whole:
    """The training triples of a process by itself: a `TrainingSet` that calls TracIn and talks to nobody."""

    def __init__(
        self,
        tracin: TracIn,
        train: Tensor,  # [n_train, 3]
        partial: Path | None = None,
    ) -> None:
        self.tracin = tracin
        self.train = train
        self.ranks = Ranks()
        self.partial = partial

    def __len__(self) -> int:
        return len(self.train)

    def triples(self) -> Tensor:  # [n_train, 3]
        return self.train

    def influence(
        self,
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [n_test, n_train]
        return self.tracin.influence(self.train, test)

    def top_k(
        self,
        test: Tensor,  # [n_test, 3]
        k: int,
        order: str,
    ) -> ShardedTopK:
        found = self.tracin.top_k(self.train, test, k, order, self.partial)
        return ShardedTopK(found.indices, found.scores, self.train[found.indices], test_digest=found.test_digest)

    def self_influence(self) -> Tensor:  # [n_train]
        return self.tracin.self_influence(self.train, self.partial)

    def serve(self) -> None:
        """There is nobody to serve."""

    def release(self) -> None:
        """There is nobody to release."""


class Shards:
    """The training triples of several ranks: a `TrainingSet` that divides the work among all of them.

    What rank 0 calls, the others do too, as long as they `serve`: until rank 0 calls `release`. Triples are passed on
    between ranks first, see `parted_by_head`.

    Args:
        tracin: the same model and settings on every rank.
        train: this rank's training triples [n, 3]; in the order of ranks they are all of them.
        ranks: this process among the others.
        partial: this rank's file for what it has finished.

    Attributes:
        train: this rank's training triples [n_part, 3] from now on.
        index: theirs [n_part] among the training triples of all ranks, ascending.
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
        self.train, self.index = parted_by_head(train, ranks)
        self.ranks = ranks
        self.partial = partial
        self.sizes = ranks.all_gather(len(self.train))

    def __len__(self) -> int:
        return sum(self.sizes)

    def triples(self) -> Tensor:  # [n_train, 3]
        return self._everywhere(Triples())

    def influence(
        self,
        test: Tensor,  # [n_test, 3]
    ) -> Tensor:  # [n_test, n_train]
        return self._everywhere(Influence(test))

    def top_k(
        self,
        test: Tensor,  # [n_test, 3]
        k: int,
        order: str,
    ) -> ShardedTopK:
        return self._everywhere(BestK(test, k, order))

    def self_influence(self) -> Tensor:  # [n_train]
        return self._everywhere(SelfInfluence())

    def serve(self) -> None:
        """On the other ranks: does what rank 0 calls, until it calls `release`."""
        while not isinstance(task := self.ranks.receive(), Release):
            task.work(self)

    def release(self) -> None:
        """On rank 0: the others' `serve` returns."""
        self.ranks.broadcast(Release())

    def _everywhere(self, task: Task[Result]) -> Result:
        self.ranks.broadcast(task)
        return cast(Result, task.work(self))  # None on the other ranks only


class Task(Protocol[Result]):
    """What rank 0 has all ranks do, each with its shard."""

    def work(self, shards: Shards) -> Result | None:
        """The result on rank 0, None on the others."""


@dataclass(frozen=True)
class Triples:
    def work(self, shards: Shards) -> Tensor | None:  # [n_train, 3]
        return in_order(shards.train, shards.index, 0, shards.ranks, shards.tracin.device)


@dataclass(frozen=True)
class Influence:
    test: Tensor  # [n_test, 3]

    def work(self, shards: Shards) -> Tensor | None:  # [n_test, n_train]
        scores = shards.tracin.influence_of_part(shards.train, self.test)
        whole = in_order(scores, shards.index, 1, shards.ranks, shards.tracin.device)
        if whole is not None:
            shards.tracin.warn_of_zeros(self.test, whole)
        return whole


@dataclass(frozen=True)
class BestK:
    test: Tensor  # [n_test, 3]
    k: int
    order: str

    def work(self, shards: Shards) -> ShardedTopK | None:
        return sharded_top_k(
            shards.tracin, shards.train, shards.index, self.test, self.k, self.order, shards.partial, shards.ranks
        )


@dataclass(frozen=True)
class SelfInfluence:
    def work(self, shards: Shards) -> Tensor | None:  # [n_train]
        several = shards.ranks.size > 1
        own = shards.tracin.self_influence(shards.train, shards.partial, keep_finished=several)
        return in_order(own, shards.index, 0, shards.ranks, shards.tracin.device)


@dataclass(frozen=True)
class Release:
    """No task: there are no more."""
