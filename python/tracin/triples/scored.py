"""Triples with the scores that another program gave them."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.triples.form import form_of
from tracin.triples.lines import blocks_of, columns_of
from tracin.triples.read import read_triples
from tracin.triples.source import PathLike, source_of


def read_scored_triples(
    path: PathLike,
    entity_to_id: Mapping[str, int],
    relation_to_id: Mapping[str, int],
    numeric: bool | None = None,
    columns: str = "hrt",
) -> tuple[Tensor, Tensor]:  # [n, 3] int64, [n] float64
    """Reads `head<TAB>relation<TAB>tail<TAB>score` lines; the triples by the rules of `read_triples`.

    Raises:
        InputError: as `read_triples`, and for a score that is not a finite number.
    """
    source = source_of(path)
    triples = read_triples(source, entity_to_id, relation_to_id, numeric=numeric, columns=columns)
    form = form_of(source, None if numeric else (entity_to_id, relation_to_id), numeric, columns)
    texts = []
    for whole in blocks_of(source):
        block, first_line = form.lines(*whole)
        if block:
            texts.append(columns_of(block, first_line, source, (*form.columns, "score"))["score"])
    scores = pl.concat(texts)
    numbers = scores.cast(pl.Float64, strict=False)
    wrong = ~numbers.is_finite().fill_null(False)
    if wrong.any():
        row = int(wrong.arg_true()[0])
        line = row + form.first_line
        raise InputError(f"{source} line {line}: score {quote(scores[row])} is not a finite number")
    return triples, torch.from_numpy(numbers.to_numpy().copy())
