"""LibKGE's ConvE: its keys, its embeddings with the bias in column 0, its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tracin.errors import InputError, quote
from tracin.safe_pickle import Foreign

LIBKGE_KEYS = ("_entity_embedder.", "_base_model.")  # beginnings of keys of every LibKGE state dict
ENTITY, RELATION = "_entity_embedder._embeddings.weight", "_relation_embedder._embeddings.weight"
BIAS_COLUMN, VECTOR_COLUMNS = "[:, 0]", "[:, 1:]"
WRAPPER = "reciprocal_relations_model"  # relation r stays row r; its reciprocal is row r + R


def plain_libkge_state(path: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """One tensor per key, with the keys of today's bare model, and embeddings apart from biases."""
    plain: dict[str, Any] = {}
    for key, value in state.items():
        short = key.removeprefix("_base_model.").replace("_embedder.embeddings.", "_embedder._embeddings.")
        if short in plain and not _same(plain[short], value):
            raise InputError(f"{path} holds two different tensors {quote(short)}; was it changed or put together?")
        plain[short] = value
    for key in (ENTITY, RELATION):
        table = plain.get(key)
        if isinstance(table, Tensor) and table.dim() == 2 and table.shape[1] > 1:
            plain[key + VECTOR_COLUMNS] = table[:, 1:]
            if key == ENTITY:
                plain[key + BIAS_COLUMN] = table[:, 0]
            del plain[key]
    return plain


def _same(first: Any, second: Any) -> bool:
    return isinstance(first, Tensor) and isinstance(second, Tensor) and torch.equal(first, second)


def default_libkge_image(plane: int) -> tuple[int, int] | None:
    return _image(plane, 2)


def _image(plane: int, aspect: float) -> tuple[int, int] | None:
    """Rows and columns, twice as many columns as rows for aspect 2; None if they are no whole numbers."""
    rows = round(math.sqrt(plane / aspect))
    columns = round(rows * aspect)
    return (rows, columns) if rows * columns == plane and rows * aspect == columns else None


def libkge_settings(path: str, config: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The image that a pickled kge.config.Config gives embeddings as long as those of `plain`.

    Options of the wrapper's base model come before those of the model named conve, as in LibKGE.

    Raises:
        InputError: for another model, and for options that change what is computed.
    """
    options = config.attributes.get("options") if isinstance(config, Foreign) else config
    if not isinstance(options, Mapping):
        return {}
    base = options
    model = options.get("model")
    if model == WRAPPER:
        base = _part(_part(options, WRAPPER), "base_model")
        model = base.get("type")
    if model not in ("conve", None):
        raise InputError(f"{path} is a LibKGE model {quote(model)}, not a ConvE")
    conve = {**_part(options, "conve"), **(base if base is not options else {})}
    for name, expected in (("stride", 1), ("padding", 0)):
        value = conve.get(name, expected)
        if type(value) is not int or value != expected:
            raise InputError(
                f"{path}: LibKGE's option conve.{name} is {quote(value)}; TracIn computes ConvE with {name} {expected}"
            )
    aspect, table = conve.get("2D_aspect_ratio"), plain.get(ENTITY + VECTOR_COLUMNS)
    if not isinstance(aspect, (int, float)) or not 0.001 < aspect < 1000 or not isinstance(table, Tensor):
        return {}
    image = _image(table.shape[1], aspect)
    return {} if image is None else {"image_height": image[0], "image_width": image[1]}


def _part(options: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = options.get(name)
    return part if isinstance(part, Mapping) else {}
