"""A triple as one sample or two: models with inverse relations are trained on (h, r, t) and on (t, inverse of r, h)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.model import ConvE, inverse_rows, relation_rows

DIRECTIONS = ("forward", "inverse", "both")


def has_inverses(
    model: Any,
    relation_to_id: Mapping[str, int] | None,
) -> bool:
    """Whether a model is known to have an inverse of every relation: by its table, or by half as many labels."""
    if not isinstance(model, ConvE):
        return False
    if model.relation_step == 2:
        return True
    return relation_to_id is not None and 2 * len(relation_to_id) == model.relation.num_embeddings


def check_direction(direction: str, name: str, model: Any) -> str:
    """Raises InputError for an unknown one, or one that the model cannot have."""
    if direction not in DIRECTIONS:
        raise InputError(f"{name} is {direction!r}; expected one of {', '.join(DIRECTIONS)}", name)
    if direction != "forward" and not isinstance(model, ConvE):
        raise InputError(f"{name} is {direction!r}, and only a ConvE tells where its inverse relations are", name)
    if direction != "forward" and model.relation.num_embeddings % 2:
        raise InputError(
            f"{name} is {direction!r}, but a model with inverse relations has an even number of relation rows; this "
            f"one has {model.relation.num_embeddings}: take {name} 'forward'",
            name,
        )
    return direction


def by_row(model: ConvE) -> ConvE:
    """The same model whose relations are the rows of its table, inverses among them; it shares the weights."""
    rows = copy.copy(model)
    rows.relation_step = 1
    return rows


def samples_of(
    model: ConvE,
    triples: Tensor,  # [n, 3]
    direction: str,
) -> Tensor:  # [s, n, 3] of rows of the relation table, s = 2 for "both"
    """The samples that a triple stands for."""
    relations = model.relation.num_embeddings // 2
    if direction != "forward" and len(triples) and int(triples[:, 1].max()) >= relations:
        raise InputError(
            f"relation {int(triples[:, 1].max())} has no inverse: of a model with inverse relations, the first half of "
            f"its rows are its {relations} relations; take direction 'forward' for rows as they are",
            "direction",
        )
    forward = relation_rows(model, triples)
    if direction == "forward":
        return forward[None]
    inverse = inverse_rows(model, triples)
    return inverse[None] if direction == "inverse" else torch.stack([forward, inverse])
