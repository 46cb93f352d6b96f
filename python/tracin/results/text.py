"""Influences as JSON and CSV text, thousands of records at a time.

A record is put together by polars from the texts of its fields, each of which is encoded once per distinct id: 100,000
labelled records take 0.2 s, one by one through json and csv 3 s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from torch import Tensor

from tracin.triples.labels import Labels

RECORDS = 1 << 16  # at a time
Encode = Callable[[str], str]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how cells begin that spreadsheets compute


def csv_cell(text: str) -> str:
    """As csv.writer writes it, which quotes where it must."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def harmless_csv_cell(text: str) -> str:
    """The same, with an apostrophe before what a spreadsheet would take for a formula."""
    return csv_cell(f"'{text}" if text.startswith(FORMULA) else text)


def texts(
    ids: Tensor,  # [n]
    name: Callable[[int], str],
    encode: Encode,
) -> pl.Series:  # [n] String
    """encode(name(id)) of each id."""
    distinct, place = np.unique(np.asarray(ids), return_inverse=True)
    return pl.Series([encode(name(index)) for index in distinct.tolist()], dtype=pl.String)[place]


def numbers(values: Tensor) -> pl.Series:  # [n] -> [n] String
    return pl.Series(list(map(repr, np.asarray(values).tolist())), dtype=pl.String)


def joined(parts: list[str | pl.Series]) -> pl.Series:  # [n] String
    """The parts one after the other, record by record; a plain text is the same in all of them."""
    series = {str(place): part for place, part in enumerate(parts) if isinstance(part, pl.Series)}
    columns = [pl.col(str(place)) if str(place) in series else pl.lit(part) for place, part in enumerate(parts)]
    return pl.DataFrame(series).select(pl.concat_str(columns).alias("text"))["text"]


def json_records(
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    labels: Labels | None,
    depth: int,
    indices: Tensor | None = None,  # [n] of the training triples
) -> Iterator[str]:
    """Texts of several elements of a JSON list at this depth, with the commas between them, indented by 2."""
    places = [None] * len(scores.split(RECORDS)) if indices is None else indices.split(RECORDS)
    for some, values, place in zip(train.split(RECORDS), scores.split(RECORDS), places, strict=True):
        columns = _id_columns("train_", some) | {"influence": numbers(values)}
        if labels is not None:
            columns |= _label_columns("train_", some, labels)
        if place is not None:
            columns["index"] = numbers(place)
        yield _json_objects(columns, depth)


def self_json_records(
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    indices: Tensor,  # [n] of the training triples
    labels: Labels,
    depth: int,
) -> Iterator[str]:
    """The same of self-influences."""
    for some, values, place in zip(*(rows.split(RECORDS) for rows in (train, scores, indices)), strict=True):
        columns = _id_columns("", some) | {"self_influence": numbers(values), "index": numbers(place)}
        yield _json_objects(columns | _label_columns("", some, labels), depth)


def _id_columns(
    prefix: str,
    triples: Tensor,  # [n, 3]
) -> dict[str, pl.Series]:  # [n] each
    places = zip(("head", "relation", "tail"), triples.unbind(1), strict=True)
    return {f"{prefix}{place}": numbers(ids) for place, ids in places}


def _label_columns(
    prefix: str,
    triples: Tensor,  # [n, 3]
    labels: Labels,
) -> dict[str, pl.Series]:  # [n] each
    """JSON texts of labels, and of names where there are any."""
    heads, relations, tails = triples.unbind(1)
    columns = {
        "head_label": texts(heads, labels.entity, json.dumps),
        "relation_label": texts(relations, labels.relation, json.dumps),
        "tail_label": texts(tails, labels.entity, json.dumps),
    }
    if labels.node_names is not None:
        columns["head_name"] = texts(heads, labels.entity_name, json.dumps)
        columns["tail_name"] = texts(tails, labels.entity_name, json.dumps)
    if labels.relation_names is not None:
        columns["relation_name"] = texts(relations, labels.relation_name, json.dumps)
    return {f"{prefix}{name}": column for name, column in columns.items()}


def _json_objects(
    columns: dict[str, pl.Series],  # [n] each: JSON texts by key
    depth: int,
) -> str:
    start, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    parts: list[str | pl.Series] = []
    for key, text in columns.items():
        parts += [("," if parts else "{") + f'{start}"{key}": ', text]
    return ("," + end).join(joined([*parts, end + "}"]).to_list())


def csv_records(
    test: tuple[int, int, int],
    own: float | None,
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    labels: Labels,
    cell: Encode = csv_cell,
) -> Iterator[str]:
    """Lines of the 14 columns, several at a time; `cell` writes a label or a name."""
    entities, relations = (labels.entity, labels.entity_name), (labels.relation, labels.relation_name)
    kinds = (entities, relations, entities)
    start = "".join(cell(name(index)) + "," for index, names in zip(test, kinds, strict=True) for name in names)
    end = f",{'' if own is None else repr(own)}\r\n"
    for some, values in zip(train.split(RECORDS), scores.split(RECORDS), strict=True):
        parts: list[str | pl.Series] = [start]
        for ids, names in zip(some.unbind(1), kinds, strict=True):
            for name in names:
                parts += [texts(ids, name, cell), ","]
        yield "".join(joined([*parts, numbers(values), end]).to_list())


def self_csv_records(
    train: Tensor,  # [n, 3]
    scores: Tensor,  # [n]
    indices: Tensor,  # [n] of the training triples
    labels: Labels,
    cell: Encode = csv_cell,
) -> Iterator[str]:
    """Lines of label and name of head, relation and tail, self-influence and index, several at a time."""
    entities, relations = (labels.entity, labels.entity_name), (labels.relation, labels.relation_name)
    for some, values, place in zip(*(rows.split(RECORDS) for rows in (train, scores, indices)), strict=True):
        parts: list[str | pl.Series] = []
        for ids, names in zip(some.unbind(1), (entities, relations, entities), strict=True):
            for name in names:
                parts += [texts(ids, name, cell), ","]
        yield "".join(joined([*parts, numbers(values), ",", numbers(place), "\r\n"]).to_list())
