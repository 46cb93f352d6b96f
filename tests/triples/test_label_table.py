"""Labels looked up by hash, against a dict."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest

from tracin.triples import label_table
from tracin.triples.label_table import UNKNOWN, LabelTable


def random_label(rng: random.Random) -> str:
    """Short, long, empty, and not ASCII."""
    start = rng.choice(["", "e:", "entity number ", "é"])
    return start + "".join(rng.choices("aB0\x00 ", k=rng.choice([0, 1, 5, 40])))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 1000, 5000])
def test_the_table_is_the_dictionary(size: int) -> None:
    rng = random.Random(size)
    labels = list(dict.fromkeys(random_label(rng) + str(i) for i in range(size)))
    ids = rng.sample(range(2**31 - 1), len(labels))
    dictionary = dict(zip(labels, ids, strict=True))
    asked = rng.choices([*labels, "", "unknown", "entity number "], k=3000)
    found = LabelTable(dictionary).look_up(pl.Series(asked, dtype=pl.String))
    assert found.dtype == np.int32
    assert found.tolist() == [dictionary.get(label, UNKNOWN) for label in asked]
    assert LabelTable(dictionary).look_up(pl.Series([], dtype=pl.String)).tolist() == []


@pytest.mark.parametrize("spread", ["one bucket", "last bucket", "equal for the first seeds"])
def test_hashes_that_are_close_or_equal(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = {f"label {i}": 3 * i for i in range(300)}
    first = np.iinfo(np.uint64).max - np.uint64(400) if spread == "last bucket" else np.uint64(0)

    def weak(labels: pl.Series, seed: int) -> np.ndarray:
        numbers = np.array([int(label.split()[1]) for label in labels], dtype=np.uint64)
        if seed % 2:
            return numbers
        return first + (numbers // np.uint64(2) if spread.startswith("equal") and seed < 6 else numbers)

    monkeypatch.setattr(label_table, "_hash", weak)
    table = LabelTable(dictionary)
    asked = [f"label {i}" for i in range(400)]
    assert table.look_up(pl.Series(asked)).tolist() == [dictionary.get(label, UNKNOWN) for label in asked]


def test_one_equal_hash_of_two_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(labels: pl.Series, seed: int) -> np.ndarray:
        return np.array([len(label) if seed % 2 else 7 for label in labels], dtype=np.uint64)

    monkeypatch.setattr(label_table, "_hash", weak)
    assert LabelTable({"abc": 5}).look_up(pl.Series(["abc", "ab", "xyz"])).tolist() == [5, UNKNOWN, 5]
