"""What is asked about: a model, the triples it was trained on, and what their ids are called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracin.checkpoints.load import Checkpoint, load_checkpoint
from tracin.errors import InputError
from tracin.index.contents import Contents
from tracin.index.folder import MANIFEST
from tracin.influence.tracin import TracIn
from tracin.influence.triple_block import TripleBlock
from tracin.model import ConvE
from tracin.pykeen import from_pykeen, is_pykeen
from tracin.triples.dictionaries import dictionary_given, in_id_order
from tracin.triples.given import ids_of
from tracin.triples.ids import check_ids
from tracin.triples.labels import Labels
from tracin.triples.read import read_triples

PYKEEN_TRIPLES = Path("training_triples", "numeric_triples.tsv.gz")  # in a folder of save_to_directory
SAMPLES = 1024  # that correct scores: with four times as many they take longer than the scores themselves
Image = tuple[int | None, int | None, str | None]  # rows, columns, stacking


@dataclass(frozen=True)
class Subject:
    """A model with its triples.

    Args:
        checkpoint: the model.
        train: its training triples.
        others: further triples taken as true, such as those of validation and test, which rankings leave out.
        labels: what ids are called.
        name: of the model, for people.
        labelled: whether ids have labels, or are shown as numbers.
        gradients: of an index that has them.
    """

    checkpoint: Checkpoint
    train: Tensor  # [n, 3]
    others: Tensor  # [m, 3]
    labels: Labels
    name: str
    labelled: bool = True
    gradients: tuple[TripleBlock, str] | None = None  # of the training triples, for the accurate method; direction

    @property
    def model(self) -> Any:
        return self.checkpoint.model

    @property
    def entity_to_id(self) -> dict[str, int]:
        return _by_label(self.labels.entities)

    @property
    def relation_to_id(self) -> dict[str, int]:
        return _by_label(self.labels.relations)

    @property
    def both_directions(self) -> bool:
        """Whether the model has a row for the inverse of each relation."""
        table = getattr(self.model, "relation", None)
        return table is not None and len(table.weight) == 2 * len(self.labels.relations)


def open_subject(
    model: Any,
    train: Any = None,  # [n, 3]
    others: Iterable[Any] = (),  # each [m, 3]
    *,
    entity_to_id: Any = None,
    relation_to_id: Any = None,
    node_names: Mapping[int, str] | None = None,
    relation_names: Mapping[str, str] | None = None,
    image: Image = (None, None, None),
    numeric: bool | None = None,
    columns: str = "hrt",
) -> Subject:
    """A model with its triples, from whatever people have.

    Args:
        model: the path of a checkpoint, of a folder of PyKEEN's save_to_directory or of an index, a Checkpoint, a
            ConvE, an Index, a PyKEEN model, or the result of a PyKEEN pipeline.
        train: training triples, in any form that `TracIn.top_k` takes; None: those of the folder or of the result.
        others: further triples taken as true.
        entity_to_id, relation_to_id: where the checkpoint has none, as `load_checkpoint` takes them.
        node_names, relation_names: names for people: of entity ids, of relation labels.
        image: as `load_checkpoint` takes it.
        numeric, columns: of files of triples, as `read_triples` takes them.

    Raises:
        InputError: if there are no training triples, ids exceed the model, or as `load_checkpoint` and `read_triples`.
    """
    entity_to_id, relation_to_id = (
        dictionary_given(some, kind) for some, kind in ((entity_to_id, "entity"), (relation_to_id, "relation"))
    )
    if isinstance(model, str | os.PathLike) and (Path(model) / MANIFEST).is_file():
        model = Contents(model)
    checkpoint, given, name = _opened(model, train, image, entity_to_id, relation_to_id)
    if given is None:
        raise InputError(
            f"{name} comes without its training triples, which are what explains it; give them with train", "train"
        )
    entities, relations, net = checkpoint.entity_to_id, checkpoint.relation_to_id, checkpoint.model
    labelled = entities is not None and relations is not None
    labels = Labels(
        _by_id(entities, net.num_entities), _by_id(relations, net.num_relations), node_names, relation_names
    )

    def rows(triples: Any, called: str) -> Tensor:
        if isinstance(triples, str | os.PathLike):
            known = (_by_label(labels.entities), _by_label(labels.relations))
            found = read_triples(triples, *known, called != "train", numeric, columns)
        else:
            found = ids_of(triples, called, checkpoint if labelled else None)
        check_ids(found, net.num_entities, net.num_relations, called)
        return found

    ids = rows(given, "train")
    if not len(ids):
        raise InputError("train holds no triples; expected those that the model was trained on", "train")
    more = [rows(some, "known") for some in others]
    gradients = model.gradients if isinstance(model, Contents) and given is model.train else None
    return Subject(checkpoint, ids, torch.cat([ids[:0], *more]), labels, name, labelled, gradients)


def _opened(
    model: Any,
    train: Any,
    image: Image,
    entity_to_id: Mapping[str, int] | None,
    relation_to_id: Mapping[str, int] | None,
) -> tuple[Checkpoint, Any, str]:
    """The checkpoint with the dictionaries that are known, the training triples or None, and the model's name."""
    given = train
    if isinstance(model, Contents):
        checkpoint, name = _checkpoint_of(model), model.directory.name
        given = model.train if given is None else given
    elif isinstance(model, str | os.PathLike):
        checkpoint = load_checkpoint(model, *image, entity_to_id, relation_to_id)
        inside = Path(model) / PYKEEN_TRIPLES
        given = inside if given is None and inside.is_file() else given
        name = Path(model).name or str(model)
    elif is_pykeen(model):
        alone = isinstance(model, nn.Module)  # and no result, which has the factory that it was trained with
        checkpoint = from_pykeen(model, given if alone and hasattr(given, "entity_to_id") else None)
        given = model.training if given is None and not alone else given
        name = checkpoint.format
    elif isinstance(model, Checkpoint):
        checkpoint, name = model, Path(model.path).name or model.format or "model in memory"
    elif isinstance(model, nn.Module) and hasattr(model, "num_entities") and hasattr(model, "num_relations"):
        checkpoint, name = Checkpoint(model), f"{type(model).__name__} in memory"
    else:
        raise InputError(
            f"model is a {type(model).__name__}; expected the path of a checkpoint or of an index, a Checkpoint, "
            "a ConvE, a PyKEEN model or the result of a PyKEEN pipeline",
            "model",
        )
    own = checkpoint.entity_to_id, checkpoint.relation_to_id
    if own[0] is None and entity_to_id is not None:
        checkpoint = replace(checkpoint, entity_to_id=in_id_order("entity", entity_to_id))
    if own[1] is None and relation_to_id is not None:
        checkpoint = replace(checkpoint, relation_to_id=in_id_order("relation", relation_to_id))
    return checkpoint, given, name


def scorer(subject: Subject, **arguments: Any) -> TracIn:
    """What scores the training triples of a subject; what all questions share is kept.

    Args:
        arguments: of `TracIn`; the method is "accurate" by default, and for a model that is no ConvE "tracin".
    """
    arguments.setdefault("method", "accurate" if isinstance(subject.model, ConvE) else "tracin")
    if arguments["method"] == "accurate":
        arguments = {"samples": SAMPLES, "known": subject.others} | arguments
    made = TracIn(subject.checkpoint, memory_cleanup=False, **arguments)
    if subject.gradients is not None:
        made.take_gradients(subject.train, *subject.gradients)
    return made


def _checkpoint_of(index: Contents) -> Checkpoint:
    """What an index was built of."""
    models = index.models
    if len(models) > 1:
        raise InputError(f"{index.directory} is an index of {len(models)} checkpoints; name one of them", "model")
    labels = index.labels
    entities, relations = (None, None) if labels is None else (labels.entities, labels.relations)
    return Checkpoint(
        models[0],
        learning_rate=index.facts["learning rates"][0],
        entity_to_id=None if entities is None else _by_label(entities),
        relation_to_id=None if relations is None else _by_label(relations),
        format=f"index {index.directory.name}",
    )


def _by_label(table: Mapping[int, str]) -> dict[str, int]:
    return {label: number for number, label in table.items()}


def _by_id(dictionary: Mapping[str, int] | None, size: int) -> dict[int, str]:
    if dictionary is None:
        return {number: str(number) for number in range(size)}
    return {number: label for label, number in sorted(dictionary.items(), key=lambda item: item[1])}
