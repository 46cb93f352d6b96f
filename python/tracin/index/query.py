"""An index is opened and asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tracin.digests import digest, digest_models, digest_of
from tracin.errors import InputError
from tracin.index.dictionaries import IdOfLabel, LabelOfId
from tracin.index.folder import REMEDY, open_arrays, read_manifest
from tracin.influence.top_k import TopK
from tracin.influence.tracin import TracIn
from tracin.model import ConvE
from tracin.triples.labels import Labels
from tracin_ext.backends.native import NativeBackend
from tracin_ext.kept import KeptTriples
from tracin_ext.lists import NormLists
from tracin_ext.ops import FactorTensors, ListTensors
from tracin_ext.recomputed import RecomputedTriples

FEW = 128  # tests that are found from norms alone in less time than the factors of all triples take


class Index:
    """An index that `tracin.index.build` or `tracin index build` wrote, open to be asked: milliseconds for a question.

    Lists are those of `TracIn.top_k` with the model, triples, layers, precision and learning rates of the index.
    Everything in the folder is read once and compared with its checksums, then mapped into memory; an index that is
    built in its place later leaves this one as it is. Threads may share an `Index`.

    Args:
        directory: the folder.
        memory_limit, progress: as for `TracIn`.

    Attributes:
        directory: the folder.
        entity_to_id, relation_to_id: label -> id; None where the checkpoint had no dictionaries.
        tracin: the `TracIn` that answers; its `search` says how the last lists were found.

    Raises:
        InputError: if the folder is no index, is damaged, or of another version of the format; if there is no native
            backend here.

    Example:
        >>> index = tracin.Index("my_index")
        >>> top = index.top_k([("entity 20", "predicate:3", "entity 17")], k=3)
        >>> index.train[top.indices[0]]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        memory_limit: int | str | None = None,
        progress: bool | None = False,
    ) -> None:
        self.directory = Path(directory)
        self._facts, self._arrays = _opened(self.directory)
        facts = self._facts
        self._labels = [self._label_of_id(name) for name in ("entity", "relation")]
        self.entity_to_id, self.relation_to_id = (None if each is None else IdOfLabel(each) for each in self._labels)
        models = [self._model(i, each["config"], each["frozen"]) for i, each in enumerate(facts["models"])]
        self.tracin = TracIn(
            models,
            facts["learning rates"],
            layers=facts["layers"],
            precision=facts["precision"],
            device="cpu",
            memory_limit=memory_limit,
            memory_cleanup=False,
            progress=progress,
        )
        self.tracin._dictionaries = self if None not in self._labels else None
        backends = [b for b in self.tracin._backends if isinstance(b, NativeBackend) and b.keeps_factors]
        if len(backends) < len(models):
            raise InputError(
                f"{self.directory} needs the native backend, which is not in use here; `tracin info` says why, tracin "
                "run works without it and without an index"
            )
        self._known: str = facts["training triples"]
        compact = facts["store"] == "compact"
        kept = self._stored(backends) if compact else self._recomputed(backends)
        self.tracin._kept = self._known, kept

    def __repr__(self) -> str:
        return (
            f"Index({self.directory}: {len(self)} training triples, {self._facts['store']}, {self.tracin.description})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Index, memory_limit=self.tracin.memory_limit), (self.directory,)

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
        self.tracin._known = train, self._known
        return train

    def top_k(
        self,
        test: Any,  # [n_test, 3]
        k: int = 10,
        order: str = "absolute",
    ) -> TopK:
        """The k most influential training triples of each test triple: `TracIn.top_k` with all that was prepared.

        Args:
            test: test triples [n_test, 3] of ids, or of labels where the index has dictionaries, in any form that
                `TracIn.influence` takes; also a single one.
            k, order: as for `TracIn.top_k`.

        Returns:
            TopK(indices [n_test, k], scores [n_test, k]); indices are those of `train`.

        Raises:
            InputError: as `TracIn.top_k`.

        Example:
            >>> tracin.Index("my_index").top_k([(0, 1, 2)], k=3, order="proponents").scores
        """
        return self.tracin.top_k(self.train, test, k, order)

    def verify(self) -> None:
        """Compares the model, the training triples and the dictionaries with their digests, beyond all checksums.

        Raises:
            InputError: if they differ.
        """
        found: dict[str, str | None] = {
            "model weights": digest_models(self.tracin.models),
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

    def _stored(self, backends: list[NativeBackend]) -> KeptTriples:
        factors = [
            FactorTensors(*(self._factors(i, name) for name in FactorTensors._fields)) for i in range(len(backends))
        ]
        lists = ListTensors(*(self._arrays[f"lists.{name}"] for name in ListTensors._fields))
        return KeptTriples.of(backends, self._facts["learning rates"], factors, lists)

    def _factors(self, number: int, name: str) -> Tensor:
        own = f"factors.{number}.{name}"
        return self._arrays[own if own in self._arrays else f"factors.0.{name}"]

    def _recomputed(self, backends: list[NativeBackend]) -> RecomputedTriples:
        norms, signs = (
            [self._arrays[f"factors.{i}.{name}"] for i in range(len(backends))] for name in ("norms", "passing")
        )
        lists = NormLists(*(self._arrays[f"lists.{name}"] for name in NormLists._fields))
        return RecomputedTriples(backends, self._facts["learning rates"], norms, signs, lists, FEW)


def _opened(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the arrays; of the new index where one takes the place of another meanwhile."""
    while True:
        facts = read_manifest(directory)
        try:
            return facts, open_arrays(directory, facts)
        except (InputError, OSError):
            if read_manifest(directory)["folder"] == facts["folder"]:
                raise
