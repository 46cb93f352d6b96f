"""How much memory a run may take, and how test and training triples share it."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tracin.distributed.ranks import ranks_of_environment
from tracin.errors import InputError

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
SIZES = "a number of bytes, or a size such as '4G' or '512M'"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
TEST_BYTES = 2 << 30  # test factors held at a time, unless a limit allows more
BLOCK_BYTES = 512 << 20  # a block of training triples
SCORE_BYTES = 256 << 20  # the scores of a block
MAX_BLOCK = 8192  # training triples; larger blocks gain nothing
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
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # what torch's RuntimeErrors say


@dataclass(frozen=True)
class Need:
    """Bytes that a run takes beside what the process holds already."""

    results: int  # and what else does not depend on the sizes
    test: int  # for each test triple of a tile
    triple: int  # for each training triple of a block
    pair: int  # for each pair of them


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
    """What the machine, or the control group of the process, can still give to each of the ranks that run there."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_machine_bytes(), *_group_bytes()]
    return max(0, min(found)) // ranks_of_environment().local_size


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


def share_out(
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
    block = None if block is None else max(1, min(block, triples))
    one_block = (block or 1) * (need.triple + need.pair)
    smallest = need.test + one_block
    if limit is None:
        free = max(smallest, available_bytes(device) // 2 - need.results)
        most_tests = TEST_BYTES // max(1, need.test)
    else:
        used = used_bytes(device)
        free = limit - used - need.results
        most_tests = tests
        if free < smallest:
            raise InputError(
                f"memory_limit is {format_size(limit)}; this run needs at least "
                f"{format_size(used + need.results + smallest + SLACK)}: {format_size(used)} are in use already, "
                f"{format_size(need.results)} go to the results, {format_size(smallest)} to one test triple and one "
                f"block of training triples; raise the limit",
                "memory_limit",
            )
    least = block or max(1, min(triples, LEAST_BLOCK, (free - need.test) // max(1, need.triple + need.pair)))
    spare = free - need.test - least * (need.triple + need.pair)
    more = spare * (1.0 if block else TEST_SHARE) / max(1, need.test + least * need.pair)
    tile = max(1, min(tests, most_tests, 1 + int(more)))
    tile = -(-tests // -(-tests // tile)) if tests else 1  # tiles of one size
    if block is not None:
        return tile, block
    fits = min(
        MAX_BLOCK,
        (free - tile * need.test) // max(1, need.triple + tile * need.pair),
        BLOCK_BYTES // max(1, need.triple),
        SCORE_BYTES // max(1, tile * need.pair),
    )
    return tile, max(1, triples if fits >= triples else _round_down(fits))


def _round_down(size: int) -> int:
    """So that small differences in free memory do not move the borders of blocks."""
    if size >= WHOLE_BLOCK:
        return size - size % WHOLE_BLOCK
    return 1 << size.bit_length() - 1 if size > 0 else 1
