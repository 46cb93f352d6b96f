"""Triples as lines of labels, and what was written of the training triples read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.files import replacing
from tracin.triples.read import read_triples

LINES_AT_A_TIME = 1 << 20


def write_triples(
    path: Path,
    triples: Tensor,  # [n, 3] int64
    entities: pl.Series,  # [N] String, label of each id
    relations: pl.Series,  # [R]
    indices: Tensor | None = None,  # [k] of the triples to write, in this order; None: all
) -> None:
    """Writes lines that `read_triples` reads, whole or not at all."""
    chosen = torch.arange(len(triples)) if indices is None else indices
    with replacing(path) as file:
        for some in chosen.split(LINES_AT_A_TIME):
            head, relation, tail = (pl.Series(column.numpy()) for column in triples[some].unbind(1))
            labels = {"h": entities[head], "r": relations[relation], "t": entities[tail]}
            file.write(pl.DataFrame(labels).write_csv(include_header=False, separator="\t", quote_style="never"))


class TrainingLines:
    """The training triples, some of which are written as lines, and found again from them.

    Args:
        train: [n, 3] int64.
        entity_to_id, relation_to_id: label -> id, in the order of ids, which are 0 to N - 1 and 0 to R - 1.
    """

    def __init__(
        self,
        train: Tensor,  # [n, 3]
        entity_to_id: Mapping[str, int],
        relation_to_id: Mapping[str, int],
    ) -> None:
        self.train = train
        self.ids = entity_to_id, relation_to_id
        self.entities, self.relations = (pl.Series(list(ids), dtype=pl.String) for ids in self.ids)

    def write(
        self,
        path: Path,
        indices: Tensor,  # [k] of training triples
    ) -> None:
        write_triples(path, self.train, self.entities, self.relations, indices)

    def read(self, path: Path) -> Tensor:  # [k] indices of the training triples that the file holds, ascending
        """Raises InputError if there is no such file, or it holds others."""
        triples = read_triples(path, *self.ids)
        codes, wanted = self._codes(self.train), self._codes(triples)
        foreign = (~torch.isin(wanted, codes)).nonzero()[:, 0]
        if len(foreign):
            raise InputError(
                f"{path} line {int(foreign[0]) + 1}: this triple is not in the training file; filter again"
            )
        return torch.isin(codes, wanted).nonzero()[:, 0]

    def _codes(
        self,
        triples: Tensor,  # [n, 3]
    ) -> Tensor:  # [n] one number per triple
        heads, relations, tails = triples.unbind(1)
        return (heads * len(self.relations) + relations) * len(self.entities) + tails
