"""Work in threads that do not wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def each_in_a_thread(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """function(item) for each, in order, without gradients; as many at a time as PyTorch uses threads, each with one.

    PyTorch's own threads meet after every operation, and spin until the last one has come: where other programs want
    the cores, small operations then take tens of times longer.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        yield from map(function, items)
        return

    def call(item: Item) -> Result:
        with torch.no_grad():
            return function(item)

    try:
        with ThreadPoolExecutor(min(threads, len(items)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(call, items)
    finally:
        torch.set_num_threads(threads)  # also what new threads begin with, which the workers have changed
