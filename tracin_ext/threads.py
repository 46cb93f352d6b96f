"""Work in threads that do not wait for each other."""

from __future__ import annotations

import functools
import os
import threading
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

    def call(item: Item) -> Result:
        with torch.no_grad():
            return function(item)

    threads = torch.get_num_threads()
    alone = threads == 1 or len(items) < 2
    yield from map(call, items) if alone else _pool(os.getpid(), threads).map(call, items)


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of one PyTorch thread each, kept: new ones begin with memory that nobody has touched.

    A child after fork has none of its parent's threads, and makes its own.
    """
    started = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # which settles it: a thread takes PyTorch's number when it first needs one
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="tracin", initializer=begin)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    started.wait()
    torch.set_num_threads(threads)  # also what new threads begin with, which the workers have changed
    return pool
