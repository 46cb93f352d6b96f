"""What scores knows nothing of: ranks, commands and files of results are above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tracin.influence

FILES = sorted(Path(tracin.influence.__file__).parent.glob("*.py"))
ABOVE = ("tracin.distributed", "tracin.cli", "tracin.results.writers")


def imported(source: str) -> Iterator[str]:
    """Full names of modules, and of what is taken from them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not ours"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def above(names: Iterator[str]) -> list[str]:
    return [name for name in names if any(f"{name}.".startswith(f"{room}.") for room in ABOVE)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scoring_imports_nothing_from_above(path: Path) -> None:
    assert above(imported(path.read_text())) == []


def test_imports_from_above_are_found() -> None:
    source = """
import tracin.cli
from tracin import distributed
from tracin.results.writers import replacing
from tracin.results.frames import influence_frame
def late():
    from tracin.distributed.ranks import Ranks
"""
    assert above(imported(source)) == [
        "tracin.cli",
        "tracin.distributed",
        "tracin.results.writers.replacing",
        "tracin.distributed.ranks.Ranks",
    ]
