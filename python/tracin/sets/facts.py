"""What a set can be made of: the distinct training triples that touch the entity of a prediction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.influence.directions import samples_of
from tracin.model import ConvE
from tracin.triples.known_tails import KnownTails
from tracin.triples.read import Triple


@dataclass(frozen=True)
class Fact:
    """A training triple, with all its copies.

    Args:
        triple: head, relation, tail.
        rows: where it stands among the training triples; more than one where it is there twice.
        score: how much it speaks for the prediction.
    """

    triple: Triple
    rows: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Asked:
    """A prediction as it is asked of the model: (entity, row of a relation, ?), and the answer that is explained."""

    triple: Triple
    entity: int
    relation: int
    answer: int

    of_head: bool = False


@dataclass(frozen=True)
class Facts:
    """Training triples of a model, as its samples and by entity.

    Args:
        model: a ConvE.
        train: [n, 3] its training triples.
        known: [m, 3] all that is taken as true, `train` among it; rankings leave it out.
        both: whether the model is trained on the inverse of each triple as well.
    """

    model: ConvE
    train: Tensor
    known: Tensor
    both: bool

    def samples(
        self,
        triples: Tensor,  # [n, 3]
    ) -> Tensor:  # [n or 2 n, 3] of rows of the relation table
        """What the model is trained on for some triples."""
        return samples_of(self.model, triples, "both" if self.both else "forward").reshape(-1, 3)

    def asked(self, triple: Triple, of_head: bool = False) -> Asked:
        """The prediction of a triple's tail, or of its head.

        Raises:
            InputError: for a head that the model does not predict by an inverse relation.
        """
        if of_head and not self.both:
            raise InputError(
                "a set of facts needs a prediction (head, relation, ?), or a model with inverse relations, which "
                "predicts heads as their tails; ask for the tail"
            )
        ids = torch.tensor([triple])
        entity, relation, answer = samples_of(self.model, ids, "inverse" if of_head else "forward")[0, 0].tolist()
        return Asked(triple, entity, relation, answer, of_head)

    def touching(
        self,
        entity: int,
        scores: Tensor,  # [n]
    ) -> list[Fact]:
        """The distinct training triples of an entity, those that speak most for the prediction first."""
        rows = ((self.train[:, 0] == entity) | (self.train[:, 2] == entity)).nonzero()[:, 0]
        found: dict[Triple, list[int]] = {}
        for row, (head, relation, tail) in zip(rows.tolist(), self.train[rows].tolist(), strict=True):
            found.setdefault((head, relation, tail), []).append(row)
        facts = [
            Fact(triple, tuple(copies), max(float(scores[row]) for row in copies)) for triple, copies in found.items()
        ]
        return sorted(facts, key=lambda fact: (-fact.score, fact.rows))

    def ranks(
        self,
        asked: Asked,
        scores: Tensor,  # [..., N]
        more: Tensor | None = None,  # [k] further entities known to be right
    ) -> tuple[Tensor, Tensor]:  # [...], [...] float64
        """The filtered rank of the answer, the mean over orders of equal scores, and its margin over the best other."""
        values = scores.to(torch.float64, copy=True)
        right = values[..., asked.answer].clone()
        values[..., self.right(asked.entity, asked.relation)] = -torch.inf
        if more is not None:
            values[..., more] = -torch.inf
        values[..., asked.answer] = -torch.inf
        better = (values > right[..., None]).sum(-1)
        equal = (values == right[..., None]).sum(-1)
        return 1 + better + equal / 2, right - values.amax(-1)

    def right(self, entity: int, relation: int) -> Tensor:  # [k]
        """What is known to be right for (entity, row of a relation)."""
        return self._right.lookup(torch.tensor([entity]), torch.tensor([relation]))[1]

    @cached_property
    def _right(self) -> KnownTails:
        return KnownTails.of(self.samples(self.known), self.model.num_entities, self.model.relation.num_embeddings)


def triples_of(facts: Iterable[Fact]) -> Tensor:  # [k, 3]
    return torch.tensor([fact.triple for fact in facts], dtype=torch.int64).reshape(-1, 3)


def moved(
    facts: Iterable[Fact],
    entity: int,
    to: int,
) -> Tensor:  # [k, 3]
    """The facts with another entity in the place of one."""
    triples = triples_of(facts)
    ends = triples[:, [0, 2]]
    triples[:, [0, 2]] = torch.where(ends == entity, to, ends)
    return triples
