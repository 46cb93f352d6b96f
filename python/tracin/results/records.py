"""Influences as dictionaries by label, as commands print them with --json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracin.results.writers import Influences
from tracin.triples.labels import Labels


def record_of(result: Influences, labels: Labels, limit: int | None = None) -> dict[str, Any]:
    """The test triple and its first influences, by label."""
    assert result.indices is not None
    columns = (column[:limit].tolist() for column in (result.train, result.scores, result.indices))
    return {
        **triple_record("test_", result.triple, labels),
        "influences": [
            {**triple_record("train_", triple, labels), "influence": score, "index": index}
            for triple, score, index in zip(*columns, strict=True)
        ],
    }


def triple_record(prefix: str, triple: Sequence[int], labels: Labels) -> dict[str, Any]:
    head, relation, tail = triple
    return {
        f"{prefix}head": head,
        f"{prefix}relation": relation,
        f"{prefix}tail": tail,
        f"{prefix}head_label": labels.entity(head),
        f"{prefix}relation_label": labels.relation(relation),
        f"{prefix}tail_label": labels.entity(tail),
    }
