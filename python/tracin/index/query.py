"""An index is opened and asked."""

from __future__ import annotations

import os
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from tracin.errors import InputError
from tracin.index.contents import Contents
from tracin.influence.top_k import TopK
from tracin.influence.tracin import TracIn
from tracin_ext.backends.native import NativeBackend
from tracin_ext.kept import KeptTriples, Norms
from tracin_ext.lists import RowLists
from tracin_ext.ops import FactorTensors, ListTensors
from tracin_ext.recomputed import RecomputedTriples

FEW = 128  # tests that are found from norms alone in less time than the factors of all triples take


class Index(Contents):
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
        super().__init__(directory)
        facts, models = self._facts, self.models
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

    @cached_property
    def train(self) -> Tensor:  # [n_train, 3]
        """The training triples in the order in which they were given; not to be changed."""
        train = super().train
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
        known = [Norms(*(self._factors(i, name) for name in Norms._fields)) for i in range(len(backends))]
        bases = [self._factors(i, "basis") for i in range(len(backends))]
        lists = RowLists(*(self._arrays[f"lists.{name}"] for name in RowLists._fields))
        return RecomputedTriples(backends, self._facts["learning rates"], known, bases, lists, FEW)
