"""Filtered ranking: where the right entity stands among all entities, known other answers removed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.model import ConvE, inverse_rows, relation_rows
from tracin.triples.ids import check_ids
from tracin.triples.known_tails import KnownTails

SCORES_PER_BLOCK = 1 << 24  # 64 MiB of float32 scores at a time


@dataclass(frozen=True)
class Ranking:
    """Summary of filtered ranks: mean reciprocal rank, share of ranks up to 1, 3 and 10, number of ranks."""

    mrr: float
    hits: dict[int, float]
    count: int

    @classmethod
    def of(
        cls,
        ranks: Tensor,  # [n] float
    ) -> Ranking:
        hits = {k: float((ranks <= k).double().mean()) for k in (1, 3, 10)}
        return cls(float(ranks.double().reciprocal().mean()), hits, len(ranks))

    def __str__(self) -> str:
        hits = ", ".join(f"Hits@{k} {share:.3f}" for k, share in self.hits.items())
        return f"MRR {self.mrr:.3f}, {hits} ({self.count} ranks)"


def tail_ranks(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
    known: Tensor,  # [m, 3] int64
    batch_size: int | None = None,
) -> Tensor:  # [n] float64
    """Filtered rank of each triple's tail among all entities, 1 is best.

    rank = (best + worst) / 2 over the orders of equal scores; other tails known for (head, relation) do not count.

    Args:
        model: a ConvE; its mode (train or eval) is left as it was, ranks are those of eval mode.
        triples: [n, 3] head, relation, tail.
        known: [m, 3] triples taken as true, usually training, validation and test together.
        batch_size: triples scored at a time; None keeps the scores of one batch within 64 MiB.

    Returns:
        [n] float64 ranks, on the CPU.

    Raises:
        InputError: if an id is outside the model's tables or a score is not finite.

    Example:
        >>> model, triples = ConvE(5, 2, 6, embedding_height=2, embedding_width=3), torch.tensor([[0, 1, 2]])
        >>> tail_ranks(model, triples, known=triples).shape
        torch.Size([1])
    """
    for some in (triples, known):
        check_ids(some, model.num_entities, model.num_relations)
    return _row_ranks(model, relation_rows(model, triples.cpu()), relation_rows(model, known.cpu()), batch_size)


def head_ranks(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
    known: Tensor,  # [m, 3] int64
    batch_size: int | None = None,
) -> Tensor:  # [n] float64
    """Filtered rank of each triple's head: the rank of h as the tail of (t, inverse of r).

    Arguments, result and errors are those of `tail_ranks`; the model must have inverse relations.
    """
    rows = model.relation.num_embeddings
    if rows % 2:
        raise InputError(
            f"ranking heads needs a model with inverse relations, but its {rows} relation rows cannot be halved; "
            "rank tails only"
        )
    for some in (triples, known):
        check_ids(some, model.num_entities, rows // 2)
    return _row_ranks(model, inverse_rows(model, triples.cpu()), inverse_rows(model, known.cpu()), batch_size)


def evaluate(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
    known: Tensor,  # [m, 3] int64
    *,
    both_directions: bool,
    batch_size: int | None = None,
) -> Ranking:
    """Filtered MRR and Hits@1, 3, 10 of the tails, and of the heads where the model has inverse relations.

    Args:
        model: a ConvE.
        triples: [n, 3] to rank, n at least 1.
        known: [m, 3] triples taken as true.
        both_directions: whether heads are ranked too (2n ranks), through the inverse relations.
        batch_size: see `tail_ranks`.

    Raises:
        InputError: if there is nothing to rank, and as `tail_ranks`.

    Example:
        >>> model, triples = ConvE(5, 2, 6, embedding_height=2, embedding_width=3), torch.tensor([[0, 0, 2]])
        >>> evaluate(model, triples, triples, both_directions=True).count
        2
    """
    if len(triples) == 0:
        raise InputError("there are no triples to rank; expected at least one")
    ranks = tail_ranks(model, triples, known, batch_size)
    if both_directions:
        ranks = torch.cat([ranks, head_ranks(model, triples, known, batch_size)])
    return Ranking.of(ranks)


@torch.no_grad()
def _row_ranks(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64, relations as rows of the relation table
    known: Tensor,  # [m, 3] int64, likewise
    batch_size: int | None,
) -> Tensor:  # [n] float64
    device = model.entity.weight.device
    filters = KnownTails.of(known.to(device), model.num_entities, model.relation.num_embeddings)
    by_row = copy.copy(model)
    by_row.relation_step = 1
    was_training = model.training
    by_row.eval()
    ranks = [torch.empty(0, dtype=torch.float64)]
    try:
        for block in triples.to(device).split(batch_size or max(1, SCORES_PER_BLOCK // model.num_entities)):
            heads, relations, tails = block.unbind(1)
            scores = by_row.score_tails(heads, relations)
            if not scores.isfinite().all():
                raise InputError("the model's scores are not finite; are its weights damaged, or did it diverge?")
            right = scores.gather(1, tails[:, None])
            scores[filters.lookup(heads, relations)] = -torch.inf
            scores.scatter_(1, tails[:, None], right)
            best = (scores > right).sum(1) + 1
            worst = (scores >= right).sum(1)
            ranks.append((best + worst).double().cpu() / 2)
    finally:
        model.train(was_training)
    return torch.cat(ranks)
