"""What a model says about test triples: how sure it is of each tail among those not known to be true."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.model import ConvE
from tracin.training.ranking import SCORES_PER_BLOCK
from tracin.triples.ids import check_ids
from tracin.triples.known_tails import KnownTails

OUTCOMES = ("margin", "-ce")


@dataclass(frozen=True)
class Outcomes:
    """Of q test triples, in the direction (head, relation, ?); larger is surer.

    Args:
        margin: [q] float64, score of the true tail minus the best other tail's; infinite if all others are known.
        ce: [q] float64, softmax cross-entropy of the true tail.
        rank: [q] float64, filtered; the mean over the orders of equal scores.
    """

    margin: Tensor
    ce: Tensor
    rank: Tensor

    def named(self, name: str) -> Tensor:  # [q] float64
        """One of OUTCOMES."""
        return -self.ce if name == "-ce" else self.margin


@torch.no_grad()
def outcomes(
    model: ConvE,
    triples: Tensor,  # [q, 3] int64
    known: Tensor,  # [m, 3] int64
) -> Outcomes:
    """How a model ranks the tail of each triple among the tails that are not known for (head, relation).

        margin = s_t - max_j s_j    ce = log sum_j exp(s_j) - s_t    j: t and all tails that are not known

    Args:
        model: a ConvE, taken in eval mode and left as it was.
        triples: [q, 3] head, relation, tail.
        known: [m, 3] triples taken as true.

    Raises:
        InputError: if an id is outside the model's tables, or a score is not finite.

    Example:
        >>> model, triples = ConvE(5, 2, 6, embedding_height=2, embedding_width=3), torch.tensor([[0, 1, 2]])
        >>> outcomes(model, triples, known=triples).rank.shape
        torch.Size([1])
    """
    for some in (triples, known):
        check_ids(some, model.num_entities, model.num_relations)
    filters = KnownTails.of(known, model.num_entities, model.num_relations)
    was_training = model.training
    model.eval()
    parts = []
    try:
        for block in triples.split(max(1, SCORES_PER_BLOCK // model.num_entities)):
            parts.append(_of_block(model, block, filters))
    finally:
        model.train(was_training)
    empty = torch.empty(0, 3, dtype=torch.float64)
    margin, ce, rank = torch.cat([empty, *parts]).unbind(1)
    return Outcomes(margin, ce, rank)


def _of_block(
    model: ConvE,
    triples: Tensor,  # [B, 3]
    filters: KnownTails,
) -> Tensor:  # [B, 3] float64: margin, ce, rank
    heads, relations, tails = triples.unbind(1)
    scores = model.score_tails(heads, relations).double()
    if not scores.isfinite().all():
        raise InputError("the model's scores are not finite; are its weights damaged, or did it diverge?")
    right = scores.gather(1, tails[:, None])
    scores[filters.lookup(heads, relations)] = -torch.inf
    scores.scatter_(1, tails[:, None], -torch.inf)
    best_other = scores.amax(1, keepdim=True)
    better, equal = (scores > right).sum(1), (scores == right).sum(1)
    rank = 1 + better + equal / 2
    ce = torch.logaddexp(scores.logsumexp(1, keepdim=True), right) - right
    return torch.stack([(right - best_other)[:, 0], ce[:, 0], rank.double()], dim=1)
