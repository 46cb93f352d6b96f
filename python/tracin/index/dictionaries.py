"""Dictionaries of millions of labels that are open at once: a label is read when it is asked for.

Arrays of n labels: text [bytes] uint8, the labels in the order of ids one after the other as UTF-8; ends [n] int64,
where each ends in it; sorted [n] int32, ids in the order of their labels' bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

ENCODING = "utf-8", "surrogatepass"


class LabelOfId(Mapping[int, str]):
    """id -> label, ids 0..n-1."""

    def __init__(self, text: Tensor, ends: Tensor, sorted_: Tensor) -> None:
        self.text, self.ends, self.sorted = memoryview(text.numpy().data), ends.numpy(), sorted_.numpy()

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise KeyError(index)
        return str(self.encoded(index), *ENCODING)

    def encoded(self, index: int) -> bytes:
        start = int(self.ends[index - 1]) if index else 0
        return bytes(self.text[start : int(self.ends[index])])


class IdOfLabel(Mapping[str, int]):
    """label -> id, in the order of ids."""

    def __init__(self, labels: LabelOfId) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels.values())

    def __getitem__(self, label: str) -> int:
        if not isinstance(label, str):
            raise KeyError(label)
        labels, encoded = self.labels, label.encode(*ENCODING)
        place = bisect_left(labels.sorted, encoded, key=lambda index: labels.encoded(int(index)))
        if place < len(labels) and labels.encoded(index := int(labels.sorted[place])) == encoded:
            return index
        raise KeyError(label)


def packed_labels(
    label_to_id: Mapping[str, int],  # in the order of ids
) -> dict[str, Tensor]:
    """The arrays of a dictionary, by name."""
    encoded = [label.encode(*ENCODING) for label in label_to_id]
    text = bytearray(b"".join(encoded))
    return {
        "text": torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8),
        "ends": torch.tensor([len(each) for each in encoded], dtype=torch.int64).cumsum(0),
        "sorted": torch.tensor(sorted(range(len(encoded)), key=encoded.__getitem__), dtype=torch.int32),
    }
