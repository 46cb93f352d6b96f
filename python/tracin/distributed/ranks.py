"""The processes of one run, as torchrun starts them: which one this is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from tracin.errors import InputError
from tracin.machine import shared_by

T = TypeVar("T")

# A rank waits so long for another that lives but does not answer: a much slower one, or one that writes outputs. Ranks
# that have ended are noticed at once.
TIMEOUT = timedelta(minutes=30)
WORDS = timedelta(seconds=2)  # within which all ranks meet an error that they have in common
UNREACHABLE = (RuntimeError, ValueError)  # what the store raises


class RankLost(RuntimeError):
    """Another process of the run has ended or does not answer."""

    def __init__(self, rank: int | None) -> None:
        name = "another rank" if rank is None else f"rank {rank}"
        super().__init__(f"{name} has ended or does not answer; its own message, or that of torchrun, says why")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; by itself, rank 0 of 1, and nothing is exchanged."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _talking_to(None):
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: object) -> None:
        """From rank 0 to all others, which `receive` it meanwhile."""
        if not self.first:
            raise RuntimeError(f"rank {self.rank} broadcasts; only rank 0 does, the others receive")
        if self.size > 1:
            with _talking_to(None):
                dist.broadcast_object_list([value], 0)

    def receive(self) -> Any:
        """What rank 0 broadcasts next, on any other rank."""
        if self.first:
            raise RuntimeError("rank 0 receives; it broadcasts, only the others receive")
        values: list[Any] = [None]
        with _talking_to(0):
            dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(
        self,
        part: Tensor,
        dim: int = 0,
        device: torch.device | str = "cpu",
    ) -> Tensor | None:
        """All ranks' parts one after the other along `dim`, on the CPU of rank 0; None elsewhere.

        `device` is where the parts pass: CUDA tensors by NCCL, others by gloo.
        """
        if self.size == 1:
            return part
        if not self.first:
            with _talking_to(0):
                dist.send(torch.tensor([part.shape[dim]], device=device), 0)
                if part.numel():
                    dist.send(part.contiguous().to(device), 0)
            return None
        parts = [part.cpu()]
        for rank in range(1, self.size):
            with _talking_to(rank):
                size = torch.zeros(1, dtype=torch.int64, device=device)
                dist.recv(size, rank)
                shape = [*part.shape[:dim], int(size), *part.shape[dim + 1 :]]
                received = torch.empty(shape, dtype=part.dtype, device=device)
                if received.numel():
                    dist.recv(received, rank)
            parts.append(received.cpu())
        return torch.cat(parts, dim)

    def all_reduce(self, counts: Tensor) -> Tensor:
        """The sum of all ranks' counts, which have one shape, on every rank."""
        if self.size > 1:
            with _talking_to(None):
                dist.all_reduce(counts)
        return counts

    def all_to_all(self, parts: list[Tensor]) -> Tensor:
        """What each rank has for this one, in the order of ranks; parts[i] goes to rank i. On the CPU."""
        if self.size == 1:
            return parts[0]
        sent = torch.cat(parts)
        sizes = [len(part) for part in parts]
        coming = [row[self.rank] for row in self.all_gather(sizes)]
        received = sent.new_empty(sum(coming), *sent.shape[1:])
        with _talking_to(None):
            dist.all_to_all_single(received, sent, coming, sizes)
        return received

    def claim(self, name: str) -> bool:
        """True for the first rank that asks; also where the others can no longer be reached."""
        if self.size == 1:
            return True
        with suppress(*UNREACHABLE):
            return bool(store().add(name, 1) == 1)
        return True

    def speaks(self, common: bool) -> bool:
        """Whether this rank is to name the error that ends it: one rank does; `spoken` must follow.

        `common`: all ranks may have the same error, which rank 0 then names.
        """
        if self.size == 1:
            return True
        if common and not self.first and self._heard():
            return False
        return self.claim("error") or not self._heard()

    def spoken(self) -> None:
        if self.size > 1:
            with suppress(*UNREACHABLE):
                store().set("spoken", "")

    @staticmethod
    def _heard() -> bool:
        """Whether a rank names its error within WORDS; torchrun ends all ranks once one of them has ended."""
        try:
            store().wait(["spoken"], WORDS)
        except UNREACHABLE:
            return False
        return True


def ranks_of_environment() -> Ranks:
    """From RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, as torchrun sets them; alone without the first two.

    Raises:
        InputError: if they are no numbers, or a rank is not below their number: the others would wait for it for ever.
    """
    if not (os.environ.get("RANK") and os.environ.get("WORLD_SIZE")):
        return Ranks()
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if size == 1 and rank == 0:
        return Ranks()
    ranks = Ranks(rank, size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size))
    for own, all_, value, number in (
        ("RANK", "WORLD_SIZE", ranks.rank, ranks.size),
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE", ranks.local_rank, ranks.local_size),
    ):
        if value >= number:
            raise InputError(
                f"{own} is {value} and {all_} is {number}; expected {own} to be less: start the processes with "
                "torchrun, or unset RANK to run alone"
            )
    return ranks


def _number(name: str, default: int | None = None) -> int:
    """Of an environment variable; it must be set if there is no default."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(
            f"{name} is {text!r}; expected a number as torchrun sets it: start the processes with torchrun, or unset "
            "RANK to run alone"
        )
    return int(text)


@contextmanager
def working_together(device: str = "cpu") -> Iterator[Ranks]:
    """Joins the other processes of the run, if there are any.

    Args:
        device: "cuda" for NCCL beside gloo, which passes tensors between GPUs; this rank's must be the current one.

    Raises:
        InputError: if the environment does not say where they meet, or which process this is.

    Example:
        >>> with working_together() as ranks:
        ...     print(ranks.rank, "of", ranks.size)
        0 of 1
    """
    ranks = ranks_of_environment()
    if ranks.size == 1 or dist.is_initialized():
        with shared_by(ranks.local_size):
            yield ranks
        return
    if not (os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT")):
        raise InputError(
            f"RANK and WORLD_SIZE say that {ranks.size} processes work together, but MASTER_ADDR and MASTER_PORT do "
            "not say where they meet; start them with torchrun, or unset RANK to run alone"
        )
    if not 0 < _number("MASTER_PORT") < 1 << 16:
        raise InputError(
            f"MASTER_PORT is {os.environ['MASTER_PORT']}; expected a port from 1 to {(1 << 16) - 1}: start the "
            "processes with torchrun, or unset RANK to run alone"
        )
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store(), rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT)
    with shared_by(ranks.local_size):
        yield ranks
    dist.destroy_process_group()  # after an error, the others may be gone


@cache
def store() -> torch._C._distributed_c10d.Store:
    """Where all ranks find each other: that of torchrun's agent, which outlives them."""
    return cast("torch._C._distributed_c10d.Store", next(rendezvous("env://", timeout=TIMEOUT))[0])


@contextmanager
def _talking_to(rank: int | None) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLost(rank) from error
