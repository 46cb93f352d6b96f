"""Triples in whatever form people have them, as rows of ids."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.triples.labels import Dictionaries, Labels, dictionaries_in
from tracin.triples.read import read_triples

PLACES = ("head", "relation", "tail")
COLUMNS = (PLACES, *(tuple(f"{place}_{what}" for place in PLACES) for what in ("id", "label")))  # of data frames
EXPECTED = (
    "expected triples (head, relation, tail) of ids or labels: a tensor, an array or a list of shape [n, 3], one "
    "triple, a data frame with the columns head, relation, tail, a PyKEEN triples factory, or a file's path"
)

FACTORY = "make the triples factory with entity_to_id=training.entity_to_id, relation_to_id=training.relation_to_id"


def ids_of(triples: Any, name: str, source: Labels | Dictionaries | None = None) -> Tensor:  # [n, 3] int64, on the CPU
    """The ids of triples; a tensor of them keeps its memory where it can.

    Args:
        triples: [n, 3] or one triple, of ids or labels, as a tensor, an array or lists; a polars or pandas frame with
            the columns head, relation, tail (or head_id, ..., or head_label, ...); a PyKEEN triples factory; the path
            of a file, as for `read_triples`.
        name: of the argument, for errors.
        source: what has the dictionaries label -> id; None: there are none, so triples must be ids.

    Raises:
        InputError: for anything else, labels without a dictionary or unknown to it, and a factory with others.

    Example:
        >>> ids_of([("aspirin", "treats", "pain")], "test", checkpoint)
        tensor([[20, 3, 17]])
    """
    source = dictionaries_in(source)
    if isinstance(triples, str | os.PathLike):
        return read_triples(triples, *_dictionaries(source, name, f"the file {quote(os.fspath(triples))}"))
    if hasattr(triples, "mapped_triples"):
        _check_factory(triples, name, source)
        triples = triples.mapped_triples
    if isinstance(triples, list | tuple) and triples and all(isinstance(item, Tensor) for item in triples):
        triples = _joined(triples, name)
    if isinstance(triples, Tensor):
        return _ids_of_tensor(triples, name)
    columns = _columns(triples, name)
    if all(isinstance(value, str) for column in columns for value in column) and len(columns[0]):
        return _ids_of_labels(columns, name, source)
    ids = [_integers(column, name, place) for column, place in zip(columns, PLACES, strict=True)]
    return torch.from_numpy(np.stack(ids, 1))


def check_same_dictionaries(name: str, theirs: Any, whose: str, ours: Any, remedy: str = FACTORY) -> None:
    """Raises InputError where two things both have a dictionary and these differ, so that ids mean other things."""
    for kind in ("entity", "relation"):
        given, known = (getattr(side, f"{kind}_to_id", None) for side in (theirs, ours))
        if given is None or known is None or given is known or given == known:
            continue
        differing = next((label for label in given if given[label] != known.get(label)), None)
        if differing is None:
            told = f"{len(given)} {kind} labels, {whose} {len(known)}"
        else:
            there = f"id {known[differing]}" if differing in known else "no id"
            told = f"the {kind} {quote(differing)} has id {given[differing]} in {name} and {there} in {whose}"
        raise InputError(f"{name} has other dictionaries than {whose}: {told}; {remedy}", name)


def _check_factory(factory: Any, name: str, source: Labels | Dictionaries | None) -> None:
    if source is not None and not isinstance(source, Labels):
        check_same_dictionaries(name, factory, "the model", source)


def _joined(tensors: Sequence[Tensor], name: str) -> Tensor:  # of [3], or of numbers -> [n, 3] or [3]
    try:
        return torch.stack([tensor.cpu() for tensor in tensors])
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{name} is a list of tensors of several shapes; {EXPECTED}", name) from error


def _ids_of_tensor(
    triples: Tensor,  # [n, 3] or [3]
    name: str,
) -> Tensor:  # [n, 3]
    shaped = triples[None] if triples.dim() == 1 and len(triples) == len(PLACES) else triples
    if shaped.dim() != 2 or shaped.shape[1] != len(PLACES) or shaped.layout != torch.strided:
        raise InputError(f"{name} is a tensor of shape {tuple(triples.shape)}; {EXPECTED}", name)
    if shaped.is_floating_point() or shaped.is_complex() or shaped.dtype == torch.bool:
        raise InputError(f"{name} has dtype {triples.dtype}; expected integer ids", name)
    return shaped.long().cpu()


def _columns(triples: Any, name: str) -> list[np.ndarray]:  # three, each [n]
    """Of a data frame, an array or lists."""
    if isinstance(triples, pl.LazyFrame):
        triples = triples.collect()
    if hasattr(triples, "columns"):
        return _frame_columns(triples, name)
    if isinstance(triples, list | tuple):
        array = np.empty((0, len(PLACES)), dtype=np.int64)
        if len(triples):
            try:
                array = np.array(triples, dtype=object)
            except (TypeError, ValueError) as error:
                raise InputError(f"{name} is a list of unequal triples; {EXPECTED}", name) from error
    elif isinstance(triples, np.ndarray):
        array = triples
    else:
        raise InputError(f"{name} is {quote(triples)}, a {type(triples).__name__}; {EXPECTED}", name)
    if array.ndim == 1 and len(array) == len(PLACES):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != len(PLACES):
        kind = "an array" if isinstance(triples, np.ndarray) else "a list"
        raise InputError(f"{name} is {kind} of shape {array.shape}; {EXPECTED}", name)
    return list(array.T)


def _frame_columns(frame: Any, name: str) -> list[np.ndarray]:  # three, each [n]
    present = [str(column) for column in frame.columns]
    for columns in COLUMNS:
        if set(columns) <= set(present):
            return [np.asarray(frame[column]) for column in columns]
    raise InputError(f"{name} is a data frame with the columns {', '.join(present) or 'none'}; {EXPECTED}", name)


def _integers(
    column: np.ndarray,  # [n]
    name: str,
    place: str,
) -> np.ndarray:  # [n] int64
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    if column.dtype != object and len(column):
        raise InputError(f"{name} has a {place} column of dtype {column.dtype}; expected integer ids, or labels", name)
    ids = np.empty(len(column), dtype=np.int64)
    for row, value in enumerate(column):
        try:
            if isinstance(value, bool | np.bool_):
                raise TypeError
            ids[row] = operator.index(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{name} row {row}: {place} {quote(value)} is neither an integer id nor, with all others, a label", name
            ) from error
    return ids


def _ids_of_labels(
    columns: list[np.ndarray],  # of head, relation, tail: each [n] of str
    name: str,
    source: Labels | Dictionaries | None,
) -> Tensor:  # [n, 3]
    entities, relations = _dictionaries(source, name, "labels")
    ids = np.empty((len(columns[0]), len(PLACES)), dtype=np.int64)
    for column, (place, labels) in enumerate(zip(PLACES, columns, strict=True)):
        known, kind = (relations, "relation") if place == "relation" else (entities, "entity")
        for row, label in enumerate(labels):
            if label not in known:
                raise InputError(
                    f"{name} row {row}: {place} {quote(str(label))} is not in the {kind} dictionary ({len(known)} "
                    "labels); is this the dictionary the model was trained with?",
                    name,
                )
            ids[row, column] = known[label]
    return torch.from_numpy(ids)


def _dictionaries(
    source: Labels | Dictionaries | None, name: str, what: str
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """label -> id of entities and of relations."""
    if isinstance(source, Labels):
        entities, relations = (
            {label: number for number, label in side.items()} for side in (source.entities, source.relations)
        )
        return entities, relations
    found = [getattr(source, f"{kind}_to_id", None) for kind in ("entity", "relation")]
    if found[0] is None or found[1] is None:
        missing = " and ".join(kind for kind, side in zip(("entity", "relation"), found, strict=True) if side is None)
        raise InputError(
            f"{name} is {what}, but nothing gives the ids of {missing} labels; use a checkpoint with its dictionaries "
            "(load_checkpoint(..., entity_to_id=..., relation_to_id=...)), or give ids",
            name,
        )
    return found[0], found[1]
