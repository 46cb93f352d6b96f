"""How a command runs on several ranks: who prints, and on which device and threads each works."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click
import torch

from tracin.cli.command import ARGUMENTS, say
from tracin.cli.inputs import Inputs, Options, speaking_of_flags
from tracin.distributed.launch import launch
from tracin.distributed.ranks import Ranks, ranks_of_environment, working_together
from tracin.errors import InputError
from tracin.influence.resume import digest_models
from tracin.machine import resolve_device

DEFAULT_OF_TORCHRUN = "1"  # what it sets OMP_NUM_THREADS to where nobody else did


def take_all_gpus(ctx: click.Context, options: Options) -> None:
    """With --enable-multi-gpu and several GPUs: runs this command on a rank for each of them, and exits."""
    gpus = torch.cuda.device_count()
    if not options.enable_multi_gpu or ranks_of_environment().size > 1 or gpus < 2:
        return
    if options.device == "cpu" and "device" in options.given:
        return
    code, reason = launch([*ctx.meta[ARGUMENTS], "--device", "cuda"], gpus)
    if reason:
        say(f"tracin: error: {reason}")
    sys.exit(code)


@contextmanager
def joined(options: Options) -> Iterator[Ranks]:
    """This process among the ranks of the run; each has its device and its share of the machine's cores."""
    ranks = ranks_of_environment()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    elif ranks.size > 1 and os.environ.get("OMP_NUM_THREADS", DEFAULT_OF_TORCHRUN) == DEFAULT_OF_TORCHRUN:
        torch.set_num_threads(max(1, cores() // ranks.local_size))
    with speaking_of_flags():
        device = own_device(options.device, ranks)
    with working_together(device.type) as joined_ranks:
        yield joined_ranks


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_device(device: str, ranks: Ranks) -> torch.device:
    """A GPU for each rank, by its number on its machine.

    Raises:
        InputError: if there are fewer GPUs than ranks.
    """
    resolved = resolve_device(device)
    if resolved.type != "cuda" or ranks.size == 1:
        return resolved
    gpus = torch.cuda.device_count()
    if ranks.local_rank >= gpus:
        raise InputError(
            f"{ranks.local_size} ranks run on this machine, each on a GPU of its own, but {gpus} are visible; "
            f"start {gpus} with --nproc-per-node {gpus}, or take --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def check_alike(options: Options, inputs: Inputs, ranks: Ranks) -> None:
    """Raises InputError unless all ranks have read the same files: each machine may have its own."""
    if ranks.size == 1:
        return
    checkpoint = inputs.checkpoint
    own = {
        "weights": digest_models([checkpoint.model]),
        "dictionaries": [hash_of(ids or ()) for ids in (checkpoint.entity_to_id, checkpoint.relation_to_id)],
        "size of the training file": os.path.getsize(options.train_path),
    }
    for rank, theirs in enumerate(ranks.all_gather(own)):
        for name, value in own.items():
            if theirs[name] != value:
                raise InputError(f"the {name} on ranks {ranks.rank} and {rank} differ; all ranks need the same files")


def hash_of(labels: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()


def reporter(options: Options, ranks: Ranks) -> Callable[[str], None]:
    """Prints what only rank 0 says."""
    return say if ranks.first and not options.quiet else lambda _: None
