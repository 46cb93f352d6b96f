"""Sizes of memory: how they are written, found out, and shared out."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from tracin import InputError
from tracin.influence import memory
from tracin.influence.memory import Need, format_size, out_of_memory, parse_size, tile_and_block
from tracin.machine import processes_here, shared_by

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (4096, 4096),
        ("100", 100),
        ("512M", 512 << 20),
        ("4G", 4 << 30),
        ("4 GiB", 4 << 30),
        ("4gb", 4 << 30),
        ("1.5k", 1536),
        (" 2T ", 2 << 40),
        ("7B", 7),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("size", [0, -1, True, 2.5, None, "", "0", "-4G", "4X", "G", "1e9", "0.1", "4 4"])
def test_no_sizes(size: object) -> None:
    with pytest.raises(InputError, match=r"memory_limit is .*; expected a number of bytes, or a size such as '4G'"):
        parse_size(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 1023, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 123 << 20, (5 << 30) + 1, 1 << 40])
def test_written_sizes_are_read_and_rounded_up(size: int) -> None:
    assert size <= parse_size(format_size(size)) < size + (1 << 20)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("can't allocate memory: 5"), True),
        (RuntimeError("CUDA out of memory."), True),
        (RuntimeError("shape"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_shares_fit_and_leave_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "used_bytes", lambda device: 1000)
    rng = random.Random(0)
    for _ in range(3000):
        need = Need(*(rng.choice([0, 1, 7, 300, 40_000]) for _ in range(3)), pair=rng.choice([4, 8, 64]))
        tests, triples = rng.choice([0, 1, 5, 999, 30_000]), rng.choice([0, 1, 60, 5_000, 10**7])
        asked = rng.choice([None, None, 1, 3, 256])
        limit = int(10 ** rng.uniform(3, 10))
        asked = asked and max(1, min(asked, triples))
        smallest = need.test + (asked or 1) * (need.triple + need.pair)
        if limit - 1000 - need.results < smallest:
            with pytest.raises(InputError, match="this run needs at least"):
                tile_and_block(need, limit, tests, triples, asked, CPU)
            continue
        tile, block = tile_and_block(need, limit, tests, triples, asked, CPU)
        assert 1 <= tile <= max(1, tests) and 1 <= block <= max(1, triples, asked or 1)
        assert 1000 + need.results + tile * need.test + block * (need.triple + tile * need.pair) <= limit
        assert asked in (None, block)
        if asked is None and tile < tests and need.test > 100 * need.pair and 60 <= triples < memory.MAX_BLOCK:
            used = tile * need.test + block * (need.triple + tile * need.pair)
            assert used > 0.3 * (limit - 1000 - need.results)


def test_a_limit_too_small_names_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need(results=10 << 20, test=5 << 20, triple=3 << 20, pair=4)
    for block in (None, 16):
        with pytest.raises(InputError, match="memory_limit is 64M; this run needs at least") as caught:
            tile_and_block(need, 64 << 20, 100, 100, block, CPU)
        named = re.search(r"at least (\w+): (\w+) are in use already, 10M go to the results", str(caught.value))
        assert named is not None
        assert tile_and_block(need, parse_size(named[1]), 100, 100, block, CPU) >= (1, block or 1)


def test_without_a_limit_the_budgets_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 40)
    tile, block = tile_and_block(Need(0, 1 << 20, 0, 4), None, 10**6, 10**9, None, CPU)
    assert tile * (1 << 20) <= memory.TEST_BYTES and tile * block * 4 <= memory.SCORE_BYTES
    assert block <= memory.MAX_BLOCK and block % memory.WHOLE_BLOCK == 0
    assert tile_and_block(Need(0, 1 << 20, 0, 4), 1 << 40, 10_000, 10**9, None, CPU)[0] == 10_000
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100)
    assert tile_and_block(Need(0, 1 << 20, 1 << 20, 4), None, 10, 10, None, CPU) == (1, 1)  # tried, not refused


def test_processes_of_the_run_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 1200)
    monkeypatch.setattr(memory, "_group_bytes", lambda: [5000])
    assert (processes_here(), memory.available_bytes(CPU)) == (1, 1200)
    with shared_by(4), shared_by(3):
        assert (processes_here(), memory.available_bytes(CPU)) == (3, 400)
    assert (processes_here(), memory.available_bytes(CPU)) == (1, 1200)


def test_this_process_and_machine() -> None:
    held = memory.used_bytes(CPU)
    ballast = torch.ones(64 << 20)  # above what an allocator keeps for reuse: its pages are new
    assert memory.used_bytes(CPU) - held >= 0.9 * ballast.nbytes
    assert memory.available_bytes(CPU) > 0


@pytest.mark.parametrize(
    ("line", "folder", "names", "stat"),
    [
        ("0::/jobs/7", "jobs", ("memory.max", "memory.current"), "inactive_file 30"),
        (
            "4:memory:/jobs/7",
            "memory/jobs",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file 30",
        ),
        ("4:memory:/elsewhere", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "inactive_file 30"),
    ],
)
def test_limits_of_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, folder: str, names: tuple[str, str], stat: str
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(f"9:cpu:/x\n{line}\n")
    group = tmp_path / "groups" / folder
    (group / "7").mkdir(parents=True)
    (group / "7" / names[0]).write_text("max\n")
    for name, text in ((names[0], "5000\n"), (names[1], "4000\n"), ("memory.stat", f"cache 1\n{stat}\n")):
        (group / name).write_text(text)
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    assert memory.available_bytes(CPU) == 1030
    (tmp_path / "proc/self/cgroup").unlink()
    assert memory.available_bytes(CPU) == 1000 * 1024


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.used_bytes(CPU) > 10 << 20  # the peak, from the system's accounts
    assert memory.available_bytes(CPU) > 10 << 20


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("triple", "block"),
    [
        (140 << 10, 8192),  # of FB15k-237's model with d = 200: larger blocks gain nothing
        (16 << 10, 65_536),  # of one with d = 32: as much memory
        (17_000, 62_464),  # in whole thousands
    ],
)
def test_blocks_on_a_gpu(monkeypatch: pytest.MonkeyPatch, triple: int, block: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 << 30, 80 << 30))
    assert tile_and_block(Need(0, 1 << 10, triple, 16), None, 100, 10**7, None, GPU) == (100, block)
    assert tile_and_block(Need(0, 1 << 10, triple, 16), None, 100, 10**7, None, CPU)[1] <= 8192
    assert tile_and_block(Need(0, 1 << 10, triple, 16), None, 100, 4000, None, GPU) == (100, 4000)


class OnGpu:
    """A tensor that says it lies on a GPU."""

    device, dtype = GPU, torch.float32

    def __init__(self, rows: int) -> None:
        self.rows, self.shape = torch.arange(float(rows)), torch.Size([rows])
        self.nbytes = self.rows.nbytes

    def cpu(self) -> torch.Tensor:
        return self.rows


@pytest.mark.parametrize(("rows", "pinned"), [(0, False), (1, True), (64, True), (65, False)])
def test_results_come_to_pinned_memory_where_they_are_small(
    monkeypatch: pytest.MonkeyPatch, rows: int, pinned: bool
) -> None:
    asked: list[bool] = []

    class Host:
        def copy_(self, source: OnGpu) -> torch.Tensor:
            return source.rows

    def empty(*_: object, pin_memory: bool, **__: object) -> Host:
        asked.append(pin_memory)
        return Host()

    monkeypatch.setattr(memory, "PINNED_RESULT", 256)
    monkeypatch.setattr(torch, "empty", empty)
    found = memory.on_the_cpu(OnGpu(rows))  # type: ignore[arg-type]
    assert asked == [True] * pinned and len(found) == rows


def test_results_come_without_pinned_memory_where_there_is_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", empty)
    assert memory.on_the_cpu(OnGpu(3)).tolist() == [0, 1, 2]  # type: ignore[arg-type]


def test_results_of_the_cpu_are_not_copied() -> None:
    result = torch.ones(3)
    assert memory.on_the_cpu(result) is result


@pytest.mark.parametrize(("held", "emptied"), [(0, 0), (1 << 30, 0), (3 << 30, 1)])
def test_little_cached_memory_of_a_gpu_stays(monkeypatch: pytest.MonkeyPatch, held: int, emptied: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5 << 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: (5 << 30) + held)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (40 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    memory.give_back(GPU)
    memory.give_back(CPU)
    assert len(calls) == emptied
