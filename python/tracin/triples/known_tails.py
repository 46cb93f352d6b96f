"""The set of known triples as a sorted list, looked up by (head, relation): targets of training, filter of ranking."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tracin.triples.ids import check_ids


@dataclass(frozen=True)
class KnownTails:
    """Which tails are known for (head, relation): M distinct triples of N entities and R relations.

    A triple is kept as the number (head * R + relation) * N + tail, so the tails of one pair are neighbours.
    """

    codes: Tensor  # [M] int64, ascending
    num_entities: int
    num_relations: int

    @classmethod
    def of(
        cls,
        triples: Tensor,  # [n, 3] int64, duplicates allowed
        num_entities: int,
        num_relations: int,
    ) -> KnownTails:
        check_ids(triples, num_entities, num_relations)
        heads, relations, tails = triples.unbind(1)
        codes = torch.unique((heads * num_relations + relations) * num_entities + tails)
        return cls(codes, num_entities, num_relations)

    def pairs(self) -> Tensor:  # [P, 2] int64
        """The distinct (head, relation), ascending."""
        pairs = torch.unique_consecutive(self.codes // self.num_entities)
        return torch.stack([pairs // self.num_relations, pairs % self.num_relations], dim=1)

    def lookup(
        self,
        heads: Tensor,  # [B] int64
        relations: Tensor,  # [B] int64
    ) -> tuple[Tensor, Tensor]:  # [K], [K] int64
        """Known tails of every pair of a batch: positions in the batch, and the tails."""
        first = (heads * self.num_relations + relations) * self.num_entities
        start = torch.searchsorted(self.codes, first)
        count = torch.searchsorted(self.codes, first + self.num_entities) - start
        position = torch.repeat_interleave(torch.arange(len(heads), device=heads.device), count)
        # Entry j of the output is codes[start + (j - entries of the pairs before)].
        shift = (start - count.cumsum(0) + count)[position]
        index = torch.arange(len(position), device=heads.device) + shift
        return position, self.codes[index] % self.num_entities
