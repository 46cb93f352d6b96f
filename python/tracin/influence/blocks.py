"""Where the work of blocks and tiles stands, and what happens when memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from tracin.errors import InputError
from tracin.influence.memory import out_of_memory

Result = TypeVar("Result")


@dataclass
class Work:
    """How many training triples, in the order of work, are finished for each test triple.

    Self-influences are the work of one test triple.
    """

    total: int  # training triples
    done: Tensor  # [n_test] int64
    tile: int  # test triples at a time
    block: int  # training triples at a time
    short: bool = False  # memory ran out once

    @property
    def finished(self) -> int:
        """Pairs of a test triple and a training triple."""
        return int(self.done.sum())

    def next_tile(self) -> slice | None:
        """The first unfinished test triples, as many as are adjacent and have come equally far; None at the end."""
        unfinished = (self.done < self.total).nonzero()
        if not len(unfinished):
            return None
        start = int(unfinished[0])
        same = self.done[start : start + self.tile] == self.done[start]
        return slice(start, start + int(same.long().cumprod(0).sum()))

    def halve_tile(self, size: int) -> None:
        """After running out of memory with a tile of this size."""
        self.tile = self._halved(size, "test", "")

    def halve_block(self, size: int) -> None:
        """After running out of memory with a block of this size."""
        self.block = self._halved(size, "training", ", or give a smaller memory_limit, which holds fewer test triples")

    def _halved(self, size: int, what: str, remedy: str) -> int:
        if size == 1:
            text = f"out of memory with one {what} triple at a time; close other programs{remedy}"
            raise InputError(text, "memory_limit" if remedy else None)
        if not self.short:
            told = f"out of memory with {size} {what} triples at a time; going on with {size // 2}"
            warnings.warn(told, stacklevel=4)
        self.short = True
        return size // 2


def attempt(function: Callable[..., Result], *arguments: object) -> Result | None:
    """function(*arguments), or None if memory ran out; what it held by then is free again."""
    try:
        return function(*arguments)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    return None
