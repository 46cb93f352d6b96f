"""Post-training: one entity's embedding learned anew on its facts, all other weights as they are.

Of the loss "kvsall", over the distinct (head, relation) of the training samples and all tails, only the terms that
hold the embedding and the bias of one entity are left: all tails of its own (entity, relation), and its own score as
the tail of every other (head, relation), of which some stand for all where there are many. In eval mode: all else
lies where it does when the model is asked. A copy starts from random numbers. Facts that are left out, or added,
change its targets.

Source: Rossi et al., Explaining Link Prediction Systems based on Kelpie, SIGMOD 2022, section 4, where those copies are
called mimics, and are trained on the entity's facts alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tracin.errors import InputError
from tracin.influence.directions import by_row
from tracin.model import ConvE
from tracin.triples.known_tails import KnownTails

LOSS = "kvsall"
STEPS = 80  # of Adam, over all targets at once; twice as many change no margin of umls by more than copies differ
RATE = 0.03  # of the first step; falls to 0 by a cosine. The margins of copies and model correlate by .96 on umls
CONTRASTS = 16_384  # (head, relation) of which the entity is no tail; more are drawn from
MOST_SCORES = 2**25  # of copies trained at a time


def check_loss(loss: str) -> None:
    """Raises InputError for a training loss that post-training does not have."""
    if loss != LOSS:
        raise InputError(
            f"post-training learns by the loss {LOSS}, and this model was trained by {loss}; verify by training it "
            "again (retrain)",
            "verify",
        )


@dataclass(frozen=True)
class Altered:
    """How the facts of a copy differ from those of its entity.

    Args:
        left_out, added: [k, 3] samples, of rows of the relation table.
    """

    left_out: Tensor
    added: Tensor


class PostTraining:
    """Trains copies of entities of one model.

    Args:
        model: a ConvE.
        samples: [s, 3] its training samples, of rows of the relation table: both directions where it has inverses.
        label_smoothing: of its training.
        seed: of the contrasts and the first values.
    """

    def __init__(
        self,
        model: ConvE,
        samples: Tensor,  # [s, 3]
        label_smoothing: float = 0.0,
        seed: int = 0,
        steps: int = STEPS,
        rate: float = RATE,
    ) -> None:
        self.model = copy.deepcopy(by_row(model)).eval().requires_grad_(False)
        self.device = model.entity.weight.device
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.steps, self.rate = steps, rate
        rows = model.relation.num_embeddings
        self.known = KnownTails.of(samples, model.num_entities, rows)
        self.pairs = self.known.pairs()  # [P, 2]
        generator = torch.Generator().manual_seed(seed)
        self.contrasts = self.pairs[torch.randperm(len(self.pairs), generator=generator)[:CONTRASTS]]  # [C, 2]
        self.contrast_hidden = self.hidden(self.contrasts)

    def facts_of(self, entity: int) -> Tensor:  # [f, 3]
        """The distinct samples that hold an entity."""
        codes, size = self.known.codes, self.known.num_entities
        pairs, tails = codes // size, codes % size
        heads = pairs // self.known.num_relations
        held = (heads == entity) | (tails == entity)
        return torch.stack([heads[held], pairs[held] % self.known.num_relations, tails[held]], 1)

    @torch.no_grad()
    def hidden(self, pairs: Tensor) -> Tensor:  # [n, 2] -> [n, D]
        parts = [self.model.hidden(*some.to(self.device).unbind(1)) for some in pairs.split(1024)]
        return torch.cat([*parts, self.model.entity.weight.new_empty(0, self.model.entity.embedding_dim)])

    def scores(
        self,
        entity: int,
        relation: int,
        copies: Sequence[Altered],
        seeds: int,
    ) -> Tensor:  # [copies, seeds, N]
        """What copies of the entity, each of so many first values, answer to (entity, row of a relation)."""
        targets = _Targets.of(self, entity, copies)
        size = max(1, MOST_SCORES // max(1, len(targets.relations) * self.model.num_entities * seeds))
        places = torch.arange(len(copies)).split(size)
        return torch.cat([self._trained(entity, relation, targets.some(some), seeds) for some in places])

    def _trained(self, entity: int, relation: int, targets: _Targets, seeds: int) -> Tensor:  # [m, seeds, N]
        table = self.model.entity.weight
        m, dim = len(targets.own), table.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        scale = (2 / (table.shape[0] + dim)) ** 0.5  # as the model's embeddings begin
        first = scale * torch.randn(seeds, dim, generator=generator)
        embedding = first.to(table).repeat(m, 1).requires_grad_()  # [m seeds, D]
        bias = table.new_zeros(m * seeds, requires_grad=self.model.bias is not None)
        optimizer = torch.optim.Adam([embedding] + ([bias] if bias.requires_grad else []), lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        targets = targets.repeated(seeds, self.label_smoothing / self.model.num_entities, self.label_smoothing)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                self._loss(entity, targets, embedding, bias).backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            rows = torch.full((1, m * seeds), relation, device=self.device)
            return self._answers(entity, embedding, bias, rows)[0].view(m, seeds, -1)

    def _answers(self, entity: int, embedding: Tensor, bias: Tensor, relations: Tensor) -> Tensor:
        """Scores [K, m, N] of all tails for (copy, relation), [m, D] and [m] copies, [K, m] rows of relations."""
        count, m = relations.shape
        rows = self.model.relation.weight[relations.flatten()]
        hidden = self.model.hidden_of(embedding.repeat(count, 1), rows)
        table = self.model.entity.weight
        scores = hidden @ table.T
        if self.model.bias is not None:
            scores = scores + self.model.bias
        own = (hidden * embedding.repeat(count, 1)).sum(1) + bias.repeat(count)
        place = torch.tensor([entity], device=scores.device)
        return scores.index_copy(1, place, own[:, None]).view(count, m, -1)

    def _loss(self, entity: int, targets: _Targets, embedding: Tensor, bias: Tensor) -> Tensor:
        """Sum over copies of the part of the training loss that depends on them, times the number of its terms."""
        scores = embedding @ targets.hidden.T + bias[:, None]  # [m, C]
        total = _entropy(scores, targets.as_tail, targets.weight)
        if count := len(targets.relations):
            relations = targets.relations[:, None].expand(count, len(embedding))
            scores = self._answers(entity, embedding, bias, relations)  # [K, m, N]
            total = total + _entropy(scores, targets.own, targets.there)
        return total


def _entropy(scores: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, wanted, weight, reduction="sum")


@dataclass(frozen=True)
class _Targets:
    """Of m copies of one entity: what they are to answer, and of what they are to be the answer."""

    relations: Tensor  # [K] rows that the entity is head of
    own: Tensor  # [m, K, N] 1 for the true tails
    there: Tensor  # [m, K] 1 where the copy has a fact with that row
    hidden: Tensor  # [C, D] of (head, row), the entity not its head
    as_tail: Tensor  # [m, C] 1 where the copy is a tail of it
    weight: Tensor  # [m, C] 0 where nothing is known of (head, row); above 1 where it stands for others

    def some(self, rows: Tensor) -> _Targets:
        rows = rows.to(self.own.device)
        return _Targets(
            self.relations, self.own[rows], self.there[rows], self.hidden, self.as_tail[rows], self.weight[rows]
        )

    def repeated(self, seeds: int, least: float, smoothing: float) -> _Targets:
        """Each copy `seeds` times, as the loss takes them: smoothed, and its own [K, m seeds, N]."""

        def smooth(wanted: Tensor) -> Tensor:
            return (wanted * (1 - smoothing) + least).repeat_interleave(seeds, 0)

        there = self.there.repeat_interleave(seeds, 0).T[:, :, None]
        own, as_tail = smooth(self.own).transpose(0, 1).contiguous(), smooth(self.as_tail)
        weight = self.weight.repeat_interleave(seeds, 0)
        return _Targets(self.relations.to(own.device), own, there, self.hidden, as_tail, weight)

    @classmethod
    def of(cls, training: PostTraining, entity: int, copies: Sequence[Altered]) -> _Targets:
        table, size = training.model.entity.weight, training.model.num_entities
        own_facts = training.facts_of(entity)
        facts = torch.cat([own_facts, *(copy.added for copy in copies)]).unique(dim=0)  # [f, 3]
        if bool(((facts[:, 0] != entity) & (facts[:, 2] != entity)).any()):
            raise InputError(f"a fact that is added to entity {entity} does not hold it", "added")
        base = among(facts, own_facts)
        has = torch.stack([base & ~among(facts, copy.left_out) | among(facts, copy.added) for copy in copies])  # [m, f]
        heads = facts[:, 0] == entity
        relations, place = facts[heads, 1].unique(return_inverse=True)
        own = table.new_zeros(len(copies), len(relations), size)
        own[:, place.to(own.device), facts[heads, 2].to(own.device)] = has[:, heads].to(own)
        ins = facts[~heads, :2]
        position, tails = training.known.lookup(*ins.unbind(1))
        shared = torch.zeros(len(ins), dtype=torch.bool)
        shared[position[tails != entity]] = True
        as_tail = has[:, ~heads].to(own)
        weight = torch.where(shared.to(own.device), 1.0, as_tail)  # a pair goes with its only tail
        contrasts = training.contrasts
        far = (contrasts[:, 0] != entity) & ~among(contrasts, ins)
        number = len(training.pairs) - int((training.pairs[:, 0] == entity).sum()) - len(ins)
        share = max(0, number) / max(1, int(far.sum()))  # of the pairs that each contrast stands for
        beside = own.new_ones(len(copies), int(far.sum()))
        return cls(
            relations,
            own,
            own.amax(2),
            torch.cat([training.hidden(ins), training.contrast_hidden[far.to(table.device)]]),
            torch.cat([as_tail, 0 * beside], 1),
            torch.cat([weight, share * beside], 1),
        )


def among(
    rows: Tensor,  # [n, c]
    others: Tensor,  # [m, c]
) -> Tensor:  # [n] bool
    """Which rows are among the others."""
    if not len(others) or not len(rows):
        return torch.zeros(len(rows), dtype=torch.bool)
    _, codes = torch.cat([others, rows]).unique(dim=0, return_inverse=True)
    return torch.isin(codes[len(others) :], codes[: len(others)])
