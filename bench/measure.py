"""The one place that measures: time, memory, and what the machine is."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

import tracin_ext

Result = TypeVar("Result")
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")  # as /proc/cpuinfo spells them


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, and the largest resident size of the process meanwhile."""

    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Distance of slowest and fastest repeat, relative to the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def measure(
    function: Callable[[], Result], repeats: int = 3, warmup: int = 1, memory: bool = True
) -> tuple[Timing, Result]:
    """Calls the function `warmup` times unmeasured, then `repeats` times; returns the timing and the last result.

    `memory`: start the peak anew, which takes a tenth of a second.
    """
    for _ in range(warmup):
        function()
    if memory:
        reset_peak_memory()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds), peak_memory()), result


def reset_peak_memory() -> None:
    """Gives freed memory back and lets `peak_memory` start anew, where the system can (Linux)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest resident size in bytes since `reset_peak_memory`, of the whole process; 0 where it is not known."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) << 10 if found else 0
    return 0


def machine() -> dict[str, Any]:
    """What the figures were measured on; names no host."""
    status = tracin_ext.status()
    cpu, flags = platform.processor() or platform.machine(), set[str]()
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        names = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
        cpu = names[0] if names else cpu
        flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)[:1]).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "native": status["isa"] or f"not in use: {status['reason']}",
    }


def machine_line(facts: dict[str, Any]) -> str:
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    return (
        f"{facts['cpu']}, {facts['cores']} cores ({' '.join(facts['instructions'])}), {threads}, "
        f"{facts['memory_gib']} GiB, {facts['system']}, Python {facts['python']}, torch {facts['torch']}, "
        f"native extension: {facts['native']}"
    )
