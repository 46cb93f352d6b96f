"""Checkpoints of our own format: written, and read back to go on training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tracin.checkpoints.contents import OWN_FORMAT, OWN_VERSION, check_intact
from tracin.checkpoints.layouts import OWN, check_entities, relation_step
from tracin.checkpoints.torch_files import read_torch_file
from tracin.digests import sealed
from tracin.errors import InputError
from tracin.files import replacing_bytes
from tracin.model import ConvE
from tracin.triples.dictionaries import in_id_order


def save_checkpoint(
    path: str | os.PathLike[str],
    model: ConvE,
    *,
    epoch: int | None = None,
    learning_rate: float | None = None,
    entity_to_id: Mapping[str, int] | None = None,
    relation_to_id: Mapping[str, int] | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a model so that `load_checkpoint` needs nothing else; an older file stays intact if writing fails.

    Args:
        path: the file; its folder must exist.
        model: in any mode, on any device.
        epoch, learning_rate: stored for `Checkpoint`.
        entity_to_id, relation_to_id: label -> id, 0..n-1.
        training: what `read_training_state` returns: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        InputError: if the file cannot be written or a dictionary does not belong to the model.

    Example:
        >>> save_checkpoint("model.pt", model, epoch=3, entity_to_id=entities, relation_to_id=relations)
        >>> load_checkpoint("model.pt").epoch
        3
    """
    name = os.fspath(path)
    if not isinstance(model, ConvE):
        raise InputError(f"{name} cannot be written: the model is a {type(model).__name__}; the format holds a ConvE")
    config = model.config
    entities = None if entity_to_id is None else in_id_order("entity", entity_to_id)
    relations = None if relation_to_id is None else in_id_order("relation", relation_to_id)
    check_entities(name, config["num_entities"], entities)
    relation_step(name, OWN, config["num_relations"], config["relation_step"], relations)
    content = {
        "format": OWN_FORMAT,
        "version": OWN_VERSION,
        "model_config": dict(config),
        "state_dict": {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()},
        "epoch": epoch,
        "learning_rate": learning_rate,
        "entities": None if entities is None else list(entities),
        "relations": None if relations is None else list(relations),
        "training": training,
    }
    folder = Path(name).parent
    if not folder.is_dir():
        raise InputError(f"{name} cannot be written: there is no folder {folder}; create it first")
    try:
        with replacing_bytes(Path(name)) as file:
            torch.save(sealed(content), file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or "torch could not write all of it (is the disk full?)"
        remedy = "" if "choose another place" in reason else "; free some space or choose another place"
        raise InputError(f"{name} cannot be written: {reason}{remedy}") from error


def read_training_state(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The `training` that `save_checkpoint` was given; None if there was none or the file is another program's.

    Example:
        >>> optimizer.load_state_dict(read_training_state("model.pt")["optimizer"])
    """
    content = read_torch_file(os.fspath(path))
    if not isinstance(content, Mapping) or content.get("format") != OWN_FORMAT:
        return None
    check_intact(os.fspath(path), content)
    return content.get("training")
