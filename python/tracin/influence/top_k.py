"""The result of `TracIn.top_k`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from tracin.digests import digest
from tracin.errors import InputError, quote
from tracin.results.charts import diverging_bars
from tracin.results.frames import as_pandas, influence_frame
from tracin.results.saving import save_as
from tracin.triples.given import ids_of
from tracin.triples.labels import Dictionaries, Labels, labels_of

SHOWN = 10  # rows in a notebook
REMEDY = "give the triples that were scored"


@dataclass(frozen=True, repr=False)
class TopK:
    """The k most influential training triples of each test triple, best first, ties by index.

    Args:
        indices: [n_test, k] int64, of the training triples.
        scores: [n_test, k], their influences: positive for proponents, negative for opponents. One of exactly 0 is
            neither: it fills the list up.
        train_digest, test_digest: of the triples that were scored, which `to_frame` takes no others for.

    Example:
        >>> top = TracIn(checkpoint).top_k(train, test, k=3)
        >>> train[top.indices].shape == (*top.scores.shape, 3)
        True
    """

    indices: Tensor  # [n_test, k] of the training triples
    scores: Tensor  # [n_test, k] influences, signed
    train_digest: str | None = field(default=None, kw_only=True)
    test_digest: str | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        tests, k = self.indices.shape
        return f"{type(self).__name__}({tests} test triple{'s' * (tests != 1)}, {k} influences on each)"

    def _repr_html_(self) -> str:
        tests, k = self.indices.shape
        first = slice(-(-SHOWN // max(1, k)))
        frame = pl.DataFrame(
            {
                "test_index": torch.arange(tests)[first].repeat_interleave(k)[:SHOWN].numpy(),
                "train_index": self.indices[first].flatten()[:SHOWN].numpy(),
                "score": self.scores[first].flatten()[:SHOWN].numpy(),
            }
        )
        return f"<p>{self!r}, the first {len(frame)}:</p>{frame._repr_html_()}"

    def to_frame(
        self,
        train: Any,  # [n_train, 3]
        test: Any = None,  # [n_test, 3]
        labels: Labels | Dictionaries | None = None,
    ) -> pl.DataFrame:  # n_test * k rows
        """The influences as a table, one row for each test triple and training triple, in this order.

        Columns: test_index, then test_head_id, test_head_label, ... of the test triple; train_index, then head_id,
        head_label, relation_id, relation_label, tail_id, tail_label of the training triple; score.

        Args:
            train: the training triples that were scored, in any form that `TracIn.top_k` takes; of labels, `labels`
                has to have the dictionaries.
            test: the test triples, likewise; without them only test_index tells the test triple.
            labels: what has the dictionaries label -> id, a Checkpoint, a PyKEEN triples factory or the result of a
                PyKEEN pipeline; None for ids only.

        Returns:
            n_test * k rows; ids and indices are Int64, labels String, scores in the precision they were computed in.

        Raises:
            InputError: if the triples are not those that were scored, or ids have no label.

        Example:
            >>> top = TracIn(checkpoint).top_k(train, test, k=5)
            >>> top.to_frame(train, test, checkpoint).write_csv("influences.csv")
        """
        train = ids_of(train, "train", labels)
        self._check_train(train)
        if test is not None:
            test = ids_of(test, "test", labels)
            self._check_test(test)
        test_index = torch.arange(len(self.indices)).repeat_interleave(self.indices.shape[1])
        index = self.indices.flatten()
        tests = None if test is None else test[test_index]
        return influence_frame(labels_of(labels), test_index, tests, None, index, train[index], self.scores.flatten())

    def to_pandas(
        self,
        train: Any,  # [n_train, 3]
        test: Any = None,  # [n_test, 3]
        labels: Labels | Dictionaries | None = None,
    ) -> Any:  # n_test * k rows
        """The table of `to_frame` as a pandas data frame.

        Raises:
            InputError: if pandas is not installed, and as `to_frame`.
        """
        return as_pandas(self.to_frame(train, test, labels))

    def plot(
        self,
        train: Any,  # [n_train, 3]
        test: Any = None,  # [n_test, 3]
        labels: Labels | Dictionaries | None = None,
        row: int = 0,
    ) -> Any:
        """A bar chart of the influences on one test triple, as a matplotlib Figure.

        Args:
            train, test, labels: as for `to_frame`.
            row: of the test triple, from 0.

        Raises:
            InputError: if matplotlib is not installed or there is no such row, and as `to_frame`.

        Example:
            >>> TracIn(checkpoint).top_k(train, test, k=5).plot(train, test, checkpoint).savefig("influences.png")
        """
        tests, k = self.indices.shape
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < tests:
            raise InputError(f"row is {quote(row)}; expected that of a test triple, from 0 to {tests - 1}", "row")
        frame = self.to_frame(train, test, labels)[row * k : (row + 1) * k]
        kind = "id" if labels is None else "label"

        def named(prefix: str) -> list[str]:
            parts = frame.select(f"{prefix}{place}_{kind}" for place in ("head", "relation", "tail"))
            return [" — ".join(map(str, parts_of)) for parts_of in parts.iter_rows()]

        title = named("test_")[0] if test is not None and k else f"test triple {row}"
        return diverging_bars(title, list(zip(named(""), frame["score"].to_list(), strict=True)))

    def save(
        self,
        path: str | os.PathLike[str],
        train: Any,  # [n_train, 3]
        test: Any = None,  # [n_test, 3]
        labels: Labels | Dictionaries | None = None,
        csv_safe: bool = False,
    ) -> None:
        """Writes the table of `to_frame` by the ending of the file's name: .csv, .parquet or .json (a list of rows).

        Args:
            path: of the file.
            train, test, labels: as for `to_frame`.
            csv_safe: in CSV an apostrophe stands before labels that a spreadsheet would take for a formula.

        Raises:
            InputError: for another ending, and as `to_frame`.

        Example:
            >>> TracIn(checkpoint).top_k(train, test, k=5).save("influences.parquet", train, test, checkpoint)
        """
        frame = partial(self.to_frame, train, test, labels)
        save_as(Path(path), frame, {".json": lambda: frame().write_json()}, csv_safe)

    def _check_train(
        self,
        train: Tensor,  # [n_train, 3]
    ) -> None:
        if self.indices.numel() and int(self.indices.max()) >= len(train):
            raise InputError(
                f"train has {len(train)} triples, but row {int(self.indices.max())} is among the influences; {REMEDY}",
                "train",
            )
        if self.train_digest is not None and self.train_digest != digest({"": train}):
            raise InputError(
                f"train has other triples, or the same in another order, than those that were scored; {REMEDY}",
                "train",
            )

    def _check_test(
        self,
        test: Tensor,  # [n_test, 3]
    ) -> None:
        if len(test) != len(self.indices):
            raise InputError(f"test has {len(test)} triples for influences on {len(self.indices)}; {REMEDY}", "test")
        if self.test_digest is not None and self.test_digest != digest({"": test}):
            raise InputError(
                f"test has other triples, or the same in another order, than those that were scored; {REMEDY}", "test"
            )


def ranked_index(
    scores: Tensor,  # [n]
    order: str,  # one of ORDERS
) -> Tensor:  # [n] best first, ties by index
    """The order of `TracIn.top_k` for all influences on one test triple."""
    key = -scores.abs() if order == "absolute" else -scores if order == "proponents" else scores
    return key.argsort(stable=True)
