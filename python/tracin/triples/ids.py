"""Whether ids of triples are those of a model, or of a dictionary."""

from __future__ import annotations

import torch
from torch import Tensor

from tracin.errors import InputError


def check_ids(
    triples: Tensor,  # [n, 3] int64
    num_entities: int,
    num_relations: int | None,  # None: any
    name: str = "triples",
) -> None:
    """Raises InputError, which names the first wrong id, unless `triples` is [n, 3] int64 of ids from 0 on."""
    if triples.dim() != 2 or triples.shape[1] != 3 or triples.dtype != torch.int64:
        raise InputError(f"{name} are {list(triples.shape)} of {triples.dtype}; expected [n, 3] of torch.int64")
    counts = {"head": num_entities, "relation": num_relations, "tail": num_entities}
    wrong = []
    for place, ids, count in zip(counts, triples.unbind(1), counts.values(), strict=True):
        if count is None or not len(ids):
            continue
        low, high = ids.aminmax()
        if low < 0 or high >= count:
            row = int(((ids < 0) | (ids >= count)).nonzero()[0])
            wrong.append((row, place, int(ids[row]), count))
    if wrong:
        row, place, value, count = min(wrong, key=lambda found: found[0])
        raise InputError(
            f"{name} row {row}: {place} id {value} is outside 0..{count - 1}; "
            "were the triples read with other dictionaries?"
        )
