"""The part of a data set: which triples stay, and the same files each time."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from bench.subgraph import among_busiest, read
from tracin.errors import InputError

PARTS = {
    "train": [("a", "r", "b"), ("a", "r", "c"), ("b", "s", "a"), ("d", "t", "e"), ("c", "r", "a")],
    "valid": [("b", "r", "a"), ("a", "t", "b")],
    "test": [("c", "s", "a"), ("d", "t", "e")],
}


def test_triples_among_the_busiest_entities() -> None:
    kept = among_busiest(PARTS, 3)
    assert kept["train"] == [PARTS["train"][i] for i in (0, 1, 2, 4)]
    assert kept["valid"] == [("b", "r", "a")], "the relation of the other is in no kept training triple"
    assert kept["test"] == [("c", "s", "a")]
    assert among_busiest(PARTS, 99)["train"] == PARTS["train"]
    assert among_busiest(PARTS, 4)["train"] == among_busiest(PARTS, 3)["train"], "of d and e, the first by label"


def test_folders_and_archives(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for part, rows in PARTS.items():
        (folder / f"{part}.txt").write_text("".join("\t".join(row) + "\r\n" for row in rows))
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(folder, "set")
    assert read(folder) == read(tmp_path / "set.tar.gz") == PARTS
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "less.tar.gz", "w:gz") as archive:
        archive.add(folder / "train.txt", "train.txt")
    with pytest.raises(InputError, match=r"lacks valid.txt, test.txt"):
        read(tmp_path / "less.tar.gz")
