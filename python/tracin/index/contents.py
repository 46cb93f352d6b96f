"""What the folder of an index holds, opened: its model, its training triples, what their ids are called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import digest, digest_models, digest_of
from tracin.errors import InputError
from tracin.index.accurate import read_gradients
from tracin.index.dictionaries import IdOfLabel, LabelOfId
from tracin.index.folder import REMEDY, open_arrays, read_manifest
from tracin.influence.triple_block import TripleBlock
from tracin.model import ConvE
from tracin.triples.labels import Labels


class Contents:
    """An index whose checksums are right, without what answers questions from it: see `Index`."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._facts, self._arrays = _opened(self.directory)
        self._labels = [self._label_of_id(name) for name in ("entity", "relation")]
        self.entity_to_id, self.relation_to_id = (None if each is None else IdOfLabel(each) for each in self._labels)
        self.models = [self._model(i, each["config"], each["frozen"]) for i, each in enumerate(self._facts["models"])]

    def __len__(self) -> int:
        """Training triples."""
        return int(self._facts["count"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the manifest says of the index."""
        return {name: value for name, value in self._facts.items() if name not in ("arrays", "folder", "checksum")}

    @property
    def bytes(self) -> int:
        """Of all arrays."""
        return sum(each["bytes"] for each in self._facts["arrays"].values())

    @property
    def labels(self) -> Labels | None:
        """What ids are called; None without dictionaries."""
        entities, relations = self._labels
        return None if entities is None or relations is None else Labels(entities, relations)

    @cached_property
    def train(self) -> Tensor:  # [n_train, 3]
        """The training triples in the order in which they were given; not to be changed."""
        rows = self._arrays["lists.triples" if "lists.triples" in self._arrays else "factors.0.triples"]
        train = torch.empty(len(self), 3, dtype=torch.int64)
        train[self._arrays["lists.numbers"].long()] = rows.long()
        return train

    @property
    def gradients(self) -> tuple[TripleBlock, str] | None:
        """Of the training triples at the embeddings, and the direction of their samples; None if they are not there."""
        direction = self._facts.get("accurate")
        return None if direction is None else (read_gradients(self._arrays, self.models[0]), direction)

    def verify(self) -> None:
        """Compares the model, the training triples and the dictionaries with their digests, beyond all checksums.

        Raises:
            InputError: if they differ.
        """
        found: dict[str, str | None] = {
            "model weights": digest_models(self.models),
            "training triples": digest({"": self.train}),
        }
        for name, labels in zip(("entity", "relation"), self._labels, strict=True):
            found[f"{name} labels"] = None if labels is None else digest_of([*labels.values()])
        for name, value in found.items():
            if value != self._facts[name]:
                raise InputError(f"{self.directory}: the {name} are not those it was built of; {REMEDY}")

    def _label_of_id(self, name: str) -> LabelOfId | None:
        if self._facts[f"{name} labels"] is None:
            return None
        return LabelOfId(*(self._arrays[f"{name}.{part}"] for part in ("text", "ends", "sorted")))

    def _model(self, number: int, config: Mapping[str, Any], frozen: list[str]) -> ConvE:
        with torch.device("meta"):  # no memory and no random numbers for values that the folder's replace
            model = ConvE(**config)
        begin = f"model.{number}."
        state = {name.removeprefix(begin): x for name, x in self._arrays.items() if name.startswith(begin)}
        model.load_state_dict(state, assign=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return model.eval()


def _opened(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the arrays; of the new index where one takes the place of another meanwhile."""
    while True:
        facts = read_manifest(directory)
        try:
            return facts, open_arrays(directory, facts)
        except (InputError, OSError):
            if read_manifest(directory)["folder"] == facts["folder"]:
                raise
