"""How much memory a run may take, and how test and training triples share it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tracin.errors import InputError
from tracin.machine import processes_here
from tracin_ext.backends import Backend

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
SIZES = "a number of bytes, or a size such as '4G' or '512M'"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# On a CPU, whose caches want small blocks; a GPU's products want large ones, and its memory is the only bound.
TEST_BYTES = 2 << 30  # test factors held at a time, unless a limit allows more
BLOCK_BYTES = 512 << 20  # a block of training triples
SCORE_BYTES = 256 << 20  # the scores of a block
RESULT_SHARE = 0.25  # of a GPU's free memory, which results may take until they are copied in one piece
PINNED_RESULT = 64 << 20  # results copied to pinned memory: 55 GB/s, where fresh pages take in 2 (an H200)
CACHED_SHARE = 1 / 32  # of a GPU's memory; less is not worth giving back and taking again, 5 ms and more a call
MAX_BLOCK = 8192  # training triples; larger blocks gain nothing
GPU_BLOCK_BYTES = 1 << 30  # unless they are of a small model: on a GPU, each block costs the host a millisecond
LEAST_BLOCK = 256  # where the limit allows it, before more than one test triple is held
WHOLE_BLOCK = 1024  # larger blocks are multiples of it, so that every thread has as many tiles
TEST_SHARE = 0.75  # of what is free; fewer test triples at a time cost passes over all training triples
SLACK = 32 << 20  # by which the memory of a process differs from one start to the next
UNKNOWN_MACHINE = 4 << 30  # taken for available where nothing tells
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
GROUP_FILES = {  # controller -> limit, use
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
# Arrays [Q, B] of scores alive at a time: the factored form adds up its terms one by one, and compares them all.
SCORE_COPIES = {("native", "cpu"): 2, ("native", "cuda"): 4}
OTHER_SCORE_COPIES = 8
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # what torch's RuntimeErrors say


@dataclass(frozen=True)
class Need:
    """Bytes that a run takes beside what the process holds already."""

    results: int  # and what else does not depend on the sizes
    test: int  # for each test triple of a tile
    triple: int  # for each training triple of a block
    pair: int  # for each pair of them

    def of(self, tests: int, triples: int) -> int:
        """Bytes of a tile and a block of these sizes."""
        return tests * self.test + triples * (self.triple + tests * self.pair)


def need_of(
    backends: Sequence[Backend],  # of all checkpoints
    device: torch.device,
    dtype: torch.dtype,
    results: int,  # their bytes
    tests: bool,  # whether there are test factors: self-influences have none
) -> Need:
    """What scores on these backends take."""
    copies = SCORE_COPIES.get((backends[0].name, device.type), OTHER_SCORE_COPIES) + (len(backends) > 1)
    triple = max(backend.triple_bytes for backend in backends)
    return Need(
        results=results + sum(backend.fixed_bytes for backend in backends),
        test=max(triple, sum(backend.test_bytes for backend in backends)) if tests else 0,
        triple=triple,
        pair=copies * dtype.itemsize,
    )


def parse_size(size: int | str) -> int:
    """Bytes of a number, or of text such as "512M", "1.5G" or "4 GiB"; K, M, G, T are powers of 1024.

    Raises:
        InputError: for anything else, and for less than one byte.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    value = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if value < 1:
        raise InputError(f"memory_limit is {size!r}; expected {SIZES}", "memory_limit")
    return value


def format_size(size: int) -> str:
    """A size that `parse_size` reads, rounded up."""
    return f"{-(-size // UNITS['M'])}M" if size >= UNITS["M"] else str(size)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says so, Python's or torch's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def used_bytes(device: torch.device) -> int:
    """What the process holds in memory: its pages on a CPU, its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, ValueError, IndexError):
        return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes(device: torch.device) -> int:
    """What the machine, or the control group of the process, can still give to each process of the run there."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_machine_bytes(), *_group_bytes()]
    return max(0, min(found)) // processes_here()


def _machine_bytes() -> int:
    with suppress(OSError, ValueError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return UNKNOWN_MACHINE


def _group_bytes() -> list[int]:
    """What is left under each limit that a container or a job scheduler set (control groups, versions 1 and 2)."""
    left = []
    with suppress(OSError, ValueError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers not in GROUP_FILES:
                continue
            names = GROUP_FILES[controllers]
            folder = GROUPS / controllers / name.lstrip("/")
            for group in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # also "max": no limit
                    limit, used = (int((group / file).read_text()) for file in names)
                    left.append(limit - used + _file_cache(group))
                if group == GROUPS / controllers:
                    break
    return left


def _file_cache(group: Path) -> int:
    """What a control group holds of files, and gives back when it needs memory."""
    for line in (group / "memory.stat").read_text().splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def tile_and_block(
    need: Need,
    limit: int | None,  # of the whole process
    tests: int,
    triples: int,
    block: int | None,  # training triples at a time; None: what fits
    device: torch.device,
) -> tuple[int, int]:
    """Test triples of a tile and training triples of a block.

    Raises:
        InputError: if the limit leaves no room for one test triple and one block.
    """
    asked = None if block is None else max(1, min(block, triples))
    smallest = need.of(1, asked or 1)
    if limit is None:
        free = max(smallest, available_bytes(device) // 2 - need.results)
        most_tests = tests if device.type == "cuda" else TEST_BYTES // max(1, need.test)
    else:
        free = _free_below(limit, need, smallest, device)
        most_tests = tests
    tile = min(tests, most_tests, _tests_beside(asked, need, free, triples))
    tile = _even(tests, max(1, tile))
    return tile, asked or _block_beside(tile, need, free, triples, device)


def place_of_results(device: torch.device, size: int) -> torch.device:
    """Where results of so many bytes are gathered: on the device, unless they would take much of its memory."""
    on_gpu = device.type == "cuda" and size <= RESULT_SHARE * available_bytes(device)
    return device if on_gpu else torch.device("cpu")


def on_the_cpu(result: Tensor) -> Tensor:
    """A result of any device, copied in one piece; to memory that torch keeps pinned where it is not too large."""
    if result.device.type == "cuda" and 0 < result.nbytes <= PINNED_RESULT:
        with suppress(RuntimeError):  # no more of such memory
            return torch.empty(result.shape, dtype=result.dtype, pin_memory=True).copy_(result)
    return result.cpu()


def give_back(device: torch.device) -> None:
    """Memory of a GPU that torch holds for the next call, where it is much."""
    if device.type != "cuda":
        return
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if cached > CACHED_SHARE * torch.cuda.mem_get_info(device)[1]:
        torch.cuda.empty_cache()


def _free_below(limit: int, need: Need, smallest: int, device: torch.device) -> int:
    """What the limit leaves to tiles and blocks."""
    used = used_bytes(device)
    free = limit - used - need.results
    if free < smallest:
        raise InputError(
            f"memory_limit is {format_size(limit)}; this run needs at least "
            f"{format_size(used + need.results + smallest + SLACK)}: {format_size(used)} are in use already, "
            f"{format_size(need.results)} go to the results, {format_size(smallest)} to one test triple and one "
            f"block of training triples; raise the limit",
            "memory_limit",
        )
    return free


def _tests_beside(asked: int | None, need: Need, free: int, triples: int) -> int:
    """Test triples that fit beside a block of the size asked for, else beside a small one that leaves room to grow."""
    block = asked or max(1, min(triples, LEAST_BLOCK, (free - need.test) // max(1, need.triple + need.pair)))
    spare = free - need.of(1, block)
    share = 1.0 if asked else TEST_SHARE
    return 1 + int(spare * share / max(1, need.test + block * need.pair))


def _even(tests: int, tile: int) -> int:
    """Smaller tiles, no more of them, of one size."""
    tiles = -(-tests // tile)
    return -(-tests // tiles) if tiles else 1


def _block_beside(tile: int, need: Need, free: int, triples: int, device: torch.device) -> int:
    """Training triples that fit beside a tile, and of which a block is worth while."""
    most = max(MAX_BLOCK, GPU_BLOCK_BYTES // max(1, need.triple)) if device.type == "cuda" else MAX_BLOCK
    fit = min(most, (free - tile * need.test) // max(1, need.triple + tile * need.pair))
    if device.type != "cuda":
        fit = min(fit, BLOCK_BYTES // max(1, need.triple), SCORE_BYTES // max(1, tile * need.pair))
    return max(1, triples if fit >= triples else _round_down(fit))


def _round_down(size: int) -> int:
    """So that small differences in free memory do not move the borders of blocks."""
    if size >= WHOLE_BLOCK:
        return size - size % WHOLE_BLOCK
    return 1 << size.bit_length() - 1 if size > 0 else 1
