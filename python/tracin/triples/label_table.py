"""Labels to ids, millions at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import polars as pl

from tracin.triples.likeness import folded, folded_labels

UNKNOWN = -1
MAX_ID = 2**31 - 1  # int32: half the memory of int64


class LabelTable:
    """A dictionary label -> id as an array sorted by hash, with the place where each bucket of hashes begins.

    Two 64-bit hashes stand for a label: an unknown one passes for another with a chance of N / 2^128. Measured per
    million labels with N = 1.45 million, one thread: this 0.09 s, a polars join on labels 0.35 s (and 0.2 s a block
    for building its hash table), a join on hashes 0.2 s, np.searchsorted 0.45 s, a cast to Enum 0.4 s.
    """

    def __init__(self, label_to_id: Mapping[str, int]) -> None:
        labels = pl.Series(list(label_to_id), dtype=pl.String)
        ids = np.fromiter(label_to_id.values(), dtype=np.int32, count=len(label_to_id))
        self.size = len(ids)
        self.labels = label_to_id
        self.seed = -2
        while True:
            self.seed += 2
            hashes = _hash(labels, self.seed)
            order = np.argsort(hashes)
            hashes = hashes[order]
            if (hashes[1:] != hashes[:-1]).all():  # else of two labels only one would be found
                break
        last = np.iinfo(np.uint64).max  # ends every search
        self.hashes = np.append(hashes, last)  # [N + 1]
        self.checks = np.append(_hash(labels, self.seed + 1)[order], np.uint64(0))  # [N + 1]
        self.ids = np.append(ids[order], np.int32(UNKNOWN))  # [N + 1]
        bits = max(1, self.size.bit_length())  # one to two buckets a label
        self.shift = np.uint64(64 - bits)
        counts = np.bincount((hashes >> self.shift).astype(np.int64), minlength=1 << bits)
        self.starts = np.cumsum(counts) - counts  # [2^bits]

    def look_up(
        self,
        labels: pl.Series,  # [n] String, no nulls
    ) -> np.ndarray:  # [n] int32, UNKNOWN where the label is not in the dictionary
        hashes = _hash(labels, self.seed)
        place = self.starts[hashes >> self.shift]
        before = np.flatnonzero(self.hashes[place] < hashes)
        while len(before):
            place[before] += 1
            before = before[self.hashes[place[before]] < hashes[before]]
        same = (self.hashes[place] == hashes) & (self.checks[place] == _hash(labels, self.seed + 1))
        return np.where(same, self.ids[place], np.int32(UNKNOWN))

    def like(self, label: str) -> str | None:
        """A label of the dictionary that looks the same as an unknown one."""
        return self._folded.get(folded(label))

    @cached_property
    def _folded(self) -> dict[str, str]:
        return folded_labels(self.labels)


class IdRange:
    """Ids 0 to size - 1 as text; stands for a LabelTable where the labels are the ids."""

    def __init__(self, size: int) -> None:
        self.size = size

    def look_up(
        self,
        labels: pl.Series,  # [n] String, no nulls
    ) -> np.ndarray:  # [n] int32, UNKNOWN where the text is no such id
        numbers = labels.cast(pl.Int64, strict=False).fill_null(UNKNOWN).to_numpy()
        return np.where((numbers >= 0) & (numbers < self.size), numbers, UNKNOWN).astype(np.int32)


def _hash(labels: pl.Series, seed: int) -> np.ndarray:  # [n] uint64
    return labels.hash(seed).to_numpy()
