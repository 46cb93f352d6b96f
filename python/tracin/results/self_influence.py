"""The JSON, CSV and Parquet files of self-influences, a record for each training triple."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tracin.files import is_parquet, replacing
from tracin.results.frames import ROWS, ordered_self_influence_frame, parquet_file
from tracin.results.text import csv_cell, harmless_csv_cell, self_csv_records, self_json_records
from tracin.results.writers import PLAIN, Form, encode, notfinite
from tracin.triples.labels import Labels

CSV_HEADER = (
    "TrainHead",
    "TrainHead_label",
    "TrainRel",
    "TrainRel_label",
    "TrainTail",
    "TrainTail_label",
    "SelfInfluence",
    "TrainIndex",
)


@dataclass(frozen=True)
class _Ranked:
    """Training triples in the order to be written."""

    train: Tensor  # [k, 3] head, relation, tail
    scores: Tensor  # [k]
    indices: Tensor  # [k] numbers of the training triples in their file, from 0


def write_self(
    path: Path,
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    labels: Labels,
    form: Form = PLAIN,
    csv_path: Path | None = None,
    top_k: int | None = None,
) -> None:
    """Mode self: the training triples, greatest self-influence first, ties in the given order.

    Args:
        path: of the JSON list.
        train, scores: all of them.
        labels: what ids are called.
        form: what made the output.
        csv_path: of a CSV file of the same; where one of the paths ends in .parquet, a Parquet file is written.
        top_k: how many; None for all.
    """
    if not bool(scores.isfinite().all()):
        index = int((~scores.isfinite()).nonzero()[0])
        raise notfinite("self-influence", scores[index].item(), f"training triple {train[index].tolist()}")
    order = scores.argsort(descending=True, stable=True)[:top_k]
    ranked = _Ranked(train[order], scores[order], order)
    if csv_path is not None and is_parquet(csv_path):
        _write_parquet(csv_path, ranked, labels, form)
    elif csv_path is not None:
        cell = harmless_csv_cell if form.csv_safe else csv_cell
        with replacing(csv_path) as file:
            csv.writer(file).writerow(CSV_HEADER)
            file.writelines(self_csv_records(ranked.train, ranked.scores, ranked.indices, labels, cell))
    if is_parquet(path):
        _write_parquet(path, ranked, labels, form)
        return
    with replacing(path) as file:
        file.writelines(_json(ranked, labels, form))


def _json(ranked: _Ranked, labels: Labels, form: Form) -> Iterator[str]:
    """A list, whose first record ends with what made all of them."""
    end = "\n  }"
    separator = "["
    for text in filter(None, self_json_records(ranked.train, ranked.scores, ranked.indices, labels, 1)):
        if separator == "[" and form.added:
            first, _, others = text.partition(end)
            text = f'{first},\n    "run": {"".join(encode(form.run, 2))}{end}{others}'
        yield f"{separator}\n  {text}"
        separator = ","
    yield "[]" if separator == "[" else "\n]"


def _write_parquet(path: Path, ranked: _Ranked, labels: Labels, form: Form) -> None:
    with parquet_file(path, form.run) as write:
        for some in zip(*(rows.split(ROWS) for rows in (ranked.indices, ranked.train, ranked.scores)), strict=True):
            write(ordered_self_influence_frame(labels, *some))
