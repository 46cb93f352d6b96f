"""What the original scripts wrote, and comparisons with it: they sort and de-duplicate triples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TOLERANCE = 1e-6  # of the list's largest value


def expected(fixtures: Path, name: str) -> Any:
    return json.loads((fixtures / "expected" / name).read_text())


def triple(item: dict[str, Any], prefix: str) -> tuple[int, int, int]:
    return item[f"{prefix}head"], item[f"{prefix}relation"], item[f"{prefix}tail"]


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], prefix: str, score: str) -> None:
    """Ours, without repeated triples, starts with theirs: the same fields, scores and order."""
    distinct: dict[tuple[int, int, int], dict[str, Any]] = {}
    for item in ours:
        distinct.setdefault(triple(item, prefix), item)
    bound = TOLERANCE * max(abs(item[score]) for item in theirs)
    for ranked, item in zip(distinct.values(), theirs, strict=False):
        mine = distinct[triple(item, prefix)]
        assert list(mine)[: len(item) + 1] == [*item, "index"]
        mine = {key: mine[key] for key in item}
        assert mine | {score: None} == item | {score: None}
        assert mine[score] == pytest.approx(item[score], rel=0, abs=bound)
        assert ranked[score] == pytest.approx(item[score], rel=0, abs=bound)
    assert len(distinct) >= len(theirs)
