"""The result of `TracIn.top_k`."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.results.frames import influence_frame
from tracin.triples.labels import Dictionaries, Labels, labels_of


@dataclass(frozen=True)
class TopK:
    """The k most influential training triples of each test triple, best first, ties by index.

    Args:
        indices: [n_test, k] int64, of the training triples.
        scores: [n_test, k], their influences: positive for proponents, negative for opponents.

    Example:
        >>> top = TracIn(checkpoint).top_k(train, test, k=3)
        >>> train[top.indices].shape == (*top.scores.shape, 3)
        True
    """

    indices: Tensor  # [n_test, k] of the training triples
    scores: Tensor  # [n_test, k] influences, signed

    def to_frame(
        self,
        train: Tensor,  # [n_train, 3]
        test: Tensor | None = None,  # [n_test, 3]
        labels: Labels | Dictionaries | None = None,
    ) -> pl.DataFrame:  # n_test * k rows
        """The influences as a table, one row for each test triple and training triple, in this order.

        Columns: test_index, then test_head_id, test_head_label, ... of the test triple; train_index, then head_id,
        head_label, relation_id, relation_label, tail_id, tail_label of the training triple; score.

        Args:
            train: the training triples that were scored.
            test: the test triples; without them only test_index tells the test triple.
            labels: what has the dictionaries label -> id, a Checkpoint or a PyKEEN triples factory; None for ids only.

        Returns:
            n_test * k rows; ids and indices are Int64, labels String, scores in the precision they were computed in.

        Raises:
            InputError: if the triples are not those that were scored, or ids have no label.

        Example:
            >>> top = TracIn(checkpoint).top_k(train, test, k=5)
            >>> top.to_frame(train, test, checkpoint).write_csv("influences.csv")
        """
        if self.indices.numel() and int(self.indices.max()) >= len(train):
            raise InputError(
                f"train has {len(train)} triples, but row {int(self.indices.max())} is among the influences; "
                "give the triples that were scored"
            )
        if test is not None and len(test) != len(self.indices):
            raise InputError(
                f"test has {len(test)} triples for influences on {len(self.indices)}; give the triples that were scored"
            )
        test_index = torch.arange(len(self.indices)).repeat_interleave(self.indices.shape[1])
        index = self.indices.flatten()
        tests = None if test is None else test[test_index]
        return influence_frame(labels_of(labels), test_index, tests, None, index, train[index], self.scores.flatten())


def ranked_index(
    scores: Tensor,  # [n]
    order: str,  # one of ORDERS
) -> Tensor:  # [n] best first, ties by index
    """The order of `TracIn.top_k` for all influences on one test triple."""
    key = -scores.abs() if order == "absolute" else -scores if order == "proponents" else scores
    return key.argsort(stable=True)
